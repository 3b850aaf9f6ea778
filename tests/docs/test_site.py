"""The documentation site builds without a warning: no dead link, no page outside the navigation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs.commands import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text()
    pages = [path.name for path in site.glob("*.html") if path.name != "404.html"]
    assert [name for name in pages if f'href="{name}"' not in start and name != "index.html"] == []


def test_the_command_line_reference_is_filled(site: Path) -> None:
    text = (site / "cli.html").read_text()
    for option in ("--sort-output", "--drain-timeout", "--policies", "--paper-trace", "--log-level"):
        assert option in text, option
