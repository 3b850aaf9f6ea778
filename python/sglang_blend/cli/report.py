"""`sglang-blend report`: what a job did, as one HTML file.

sglang-blend report batch.output.jsonl
sglang-blend report monday.output.jsonl --compare tuesday.output.jsonl --html both.html
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sglang_blend.config import JobConfig, resolve_files
from sglang_blend.errors import OutputError
from sglang_blend.extras import require_extra
from sglang_blend.location import Location, location


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="make the HTML report of a job, or of two side by side",
        description="Make the report of a job from the records beside its output: one HTML file that opens"
        " without network. A job that ends makes its own unless --no-report is given.",
        epilog="example: sglang-blend report batch.output.jsonl --compare other.output.jsonl",
    )
    add = parser.add_argument
    add("output", type=location, help="output of the job, or the batch file if it lies beside its output")
    add(
        "--compare", type=location, metavar="OUTPUT", help="output of a second job, to show both side by side"
    )
    add("--summary-file", type=location, help="summary of the job (default: beside its output)")
    add("--html", type=Path, help="where to write (default: beside the output)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, draw, write; returns the exit code.

    Raises:
        InputError: there are no records of such a job.
        OutputError: the file cannot be written.
        ConfigError: the extra `report` is not installed.
    """
    require_extra("report", "A report")
    from sglang_blend.report.compare import compare_page
    from sglang_blend.report.pages import job_page
    from sglang_blend.report.records import read_job

    job = read_job(args.output, summary_file=args.summary_file)
    page = job_page(job) if args.compare is None else compare_page(job, read_job(args.compare))
    path = args.html or _beside(args.output, compared=args.compare is not None)
    write_page(page, path)
    return 0


def write_page(page: object, path: Path) -> None:
    """Write a report and say where it is.

    Raises:
        OutputError: it cannot be written.
    """
    from sglang_blend.report import units
    from sglang_blend.report.html import write
    from sglang_blend.report.page import Page

    assert isinstance(page, Page)
    try:
        num_bytes = write(page, path)
    except OSError as e:
        raise OutputError(
            f"{path} cannot be written ({e.strerror or e}); name another place with --html."
        ) from e
    print(f"{path} ({units.size(num_bytes)})", file=sys.stderr)


def _beside(output: Location, *, compared: bool) -> Path:
    report = resolve_files(JobConfig(file=Path(os.devnull), output=output)).report_file
    return report.with_name(report.name.replace(".report.html", ".compare.html")) if compared else report
