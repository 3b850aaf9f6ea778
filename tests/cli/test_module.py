"""`python -m sglang_blend` is the command `sglang-blend`."""

import subprocess
import sys

import pytest

from sglang_blend import __version__
from sglang_blend.cli import main


def test_the_package_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    words = subprocess.run(
        [sys.executable, "-m", "sglang_blend", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert words == capsys.readouterr().out == f"sglang-blend {__version__}\n"
