"""Put the forked wheel into the running environment, and tell whether it is there."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from sglang_blend.errors import ForkError
from sglang_blend.fork.builder import verify
from sglang_blend.fork.series import current_series

MEND = "run `sglang-blend fork install`"


def install(wheel: Path) -> None:
    """Replace the installed sglang with `wheel`; its dependencies stay as they are.

    Raises:
        ForkError: pip refused.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--no-deps",
            "--force-reinstall",
            str(wheel),
        ],
        check=False,
    )
    if done.returncode:
        raise ForkError(f"pip could not install {wheel} (exit code {done.returncode}); its words are above.")


def installed_version() -> str | None:
    """Version of the installed sglang, None when there is none. Does not import it."""
    try:
        return importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return None


def require() -> None:
    """Stop unless the installed sglang is the fork this package was made for.

    Raises:
        ForkError: it is not; one sentence with the mending command.
    """
    wanted, found = current_series().fork_version, installed_version()
    if found is None:
        raise ForkError(
            f"sglang-blend needs sglang {wanted}, and no sglang is installed: "
            "run `pip install 'sglang-blend[engine,fork]'`, then `sglang-blend fork install`."
        )
    if found != wanted:
        raise ForkError(f"sglang-blend needs sglang {wanted}, but sglang {found} is installed: {MEND}.")


def check() -> str:
    """Compare the installed fork with the series, file by file.

    Returns:
        The fork's version.

    Raises:
        ForkError: another sglang is installed, or a patched file was changed since.
    """
    require()
    series = current_series()
    root = Path(str(importlib.metadata.distribution("sglang").locate_file("")))
    try:
        verify(root, series.files, "fork_sha256", "of the installed fork")
    except ForkError as e:
        raise ForkError(f"{e} To mend: {MEND}.") from e
    return series.fork_version
