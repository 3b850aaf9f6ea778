"""`python -m sglang_blend.report OUTPUT SUMMARY HTML`: what a finished job calls; see `at_end`."""

from __future__ import annotations

import sys
from pathlib import Path

from sglang_blend.errors import BlendError
from sglang_blend.extras import require_extra
from sglang_blend.location import location


def main() -> int:
    """Make one report; returns the exit code."""
    output, summary_file, html = sys.argv[1:]
    try:
        require_extra("report", "a report")
        from sglang_blend.report.html import write
        from sglang_blend.report.pages import job_page
        from sglang_blend.report.records import read_job

        write(job_page(read_job(location(output), summary_file=location(summary_file))), Path(html))
    except (BlendError, OSError) as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
