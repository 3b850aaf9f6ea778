"""docs/input.md names every error code that a line can be refused with, and no other; and every option."""

import argparse
import re
from pathlib import Path

from sglang_blend.config import JobConfig

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "input.md").read_text()
NAMES = ("body_check", "fields", "batch_file", "line_index")
PACKAGE = ROOT / "python" / "sglang_blend"
SOURCES = [PACKAGE / "job" / f"{name}.py" for name in NAMES]
SOURCES += [PACKAGE / "srt" / "bodies.py"]
CODE = re.compile(
    r'"((?:invalid|missing|unknown|unsupported|duplicate|empty|integer|decimal|context|url|line)_[a-z_]+)"'
)
# Of SGLang's own validation, where the checks before it let a value through that it does not take.
ONLY_FROM_SGLANG = {"array_above_max_length"}
OTHER_WORDS = {"line_number", "invalid_request_error"}


def test_every_error_code_has_an_example() -> None:
    in_source = {code for path in SOURCES for code in CODE.findall(path.read_text())} - OTHER_WORDS
    table = DOCS[DOCS.index("| code | for example |") : DOCS.index("A file with no readable line")]
    first_cells = [row.split("|")[1] for row in table.splitlines()[2:] if row.startswith("|")]
    in_docs = set(re.findall(r"`([a-z_]+)`", "".join(first_cells)))
    assert in_docs == in_source - ONLY_FROM_SGLANG


def test_every_option_about_files_is_explained() -> None:
    parser = argparse.ArgumentParser()
    JobConfig.add_cli_args(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    named = set(re.findall(r"--[a-z][a-z-]+", DOCS))
    assert named - {"--context-length", "--is-embedding", "--enable-deterministic-inference"} <= options
    about_files = {
        "--output", "--overwrite", "--no-resume", "--keep-errors", "--retry-errors", "--fsync-interval",
        "--work-dir", "--sort-output", "--output-format", "--input-format", "--prompt-column", "--id-column",
        "--prompt-as", "--params",
    }  # fmt: skip
    assert about_files <= named & options
