"""Stock wheel in, forked wheel out.

stock wheel -> unpack -> hashes as recorded? -> patches, strictly -> hashes as recorded?
            -> new version in _version.py and METADATA -> pack (a new RECORD comes with it)
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sglang_blend.errors import ForkError
from sglang_blend.extras import require_extra
from sglang_blend.fork.series import PatchSeries, TouchedFile, current_series, sha256, write_manifest

logger = logging.getLogger(__name__)


def build(out_dir: Path, *, wheel: Path | None = None, series: PatchSeries | None = None) -> Path:
    """Build the forked wheel for the running Python.

    Args:
        out_dir: where the wheel goes; made when missing. The stock wheel is kept in `out_dir/stock`.
        wheel: the stock wheel; fetched with pip when None.
        series: the patches; the current ones when None.

    Returns:
        The path of the forked wheel.

    Raises:
        ForkError: the wheel cannot be had, is not the one the patches were made for, or a patch fails.
        ConfigError: the extra `fork` is not installed.
    """
    require_extra("fork", "Building the fork")
    series = series or current_series()
    out_dir.mkdir(parents=True, exist_ok=True)
    stock = wheel or stock_wheel(out_dir / "stock", series.sglang_version)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".build-") as tmp:
        tree = unpack(stock, Path(tmp), series.sglang_version)
        verify(tree, series.files, "stock_sha256", f"of {stock.name}")
        apply_patches(tree, series.patches)
        verify(tree, series.files, "fork_sha256", "after patching")
        set_version(tree, series.sglang_version, series.fork_version)
        return pack(tree, out_dir)


def record(work_dir: Path, *, wheel: Path | None = None, blend_number: int | None = None) -> PatchSeries:
    """Apply the current patches and write down the hashes of all files they touch.

    For maintainers, after a patch was added or changed. Raises ForkError when a patch does not apply.
    """
    require_extra("fork", "Building the fork")
    old = current_series()
    stock = wheel or stock_wheel(work_dir / "stock", old.sglang_version)
    with tempfile.TemporaryDirectory(dir=work_dir, prefix=".record-") as tmp:
        tree = unpack(stock, Path(tmp), old.sglang_version)
        paths = sorted({p for patch in old.patches for p in touched_paths(patch)})
        before = {p: sha256(tree / p) for p in paths}
        apply_patches(tree, old.patches)
        files = tuple(
            TouchedFile(path=p, stock_sha256=before[p], fork_sha256=sha256(tree / p)) for p in paths
        )
    series = replace(old, files=files, blend_number=blend_number or old.blend_number)
    write_manifest(series)
    return series


def stock_wheel(directory: Path, version: str) -> Path:
    """The stock wheel for the running Python, fetched with pip unless it is already there."""
    directory.mkdir(parents=True, exist_ok=True)
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    pattern = f"sglang-{version}-{tag}-*.whl"
    if not any(directory.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        _run(
            [*command, "--dest", str(directory), f"sglang=={version}"],
            f"pip could not fetch the stock wheel sglang=={version}; fetch it yourself and pass --wheel FILE",
        )
    found = sorted(directory.glob(pattern))
    if not found:
        raise ForkError(
            f"No wheel sglang {version} for Python {tag} in {directory}: "
            "use Python 3.11 or 3.12, or pass --wheel FILE."
        )
    return found[-1]


def unpack(wheel: Path, directory: Path, version: str) -> Path:
    """Unpack a wheel (its RECORD is checked on the way); returns the tree's root."""
    if not wheel.is_file():
        raise ForkError(
            f"No such wheel: {wheel}; pass the stock sglang {version} wheel, or leave --wheel out."
        )
    _run(
        [sys.executable, "-m", "wheel", "unpack", "--dest", str(directory), str(wheel)],
        f"{wheel} is not a sound wheel; delete it and run the command again",
    )
    tree = directory / f"sglang-{version}"
    if not tree.is_dir():
        raise ForkError(
            f"{wheel.name} is not sglang {version}: pass the stock wheel of exactly that release."
        )
    return tree


def verify(tree: Path, files: Sequence[TouchedFile], which: str, where: str) -> None:
    """Compare the touched files under `tree` with the recorded hashes.

    Raises:
        ForkError: one differs or is missing; names it.
    """
    for file in files:
        path = tree / file.path
        found = sha256(path) if path.is_file() else "no such file"
        if found != getattr(file, which):
            raise ForkError(
                f"{file.path} {where} has SHA-256 {found}, recorded is {getattr(file, which)}: "
                "the patches are for another build of SGLang; use the stock wheel from the package index."
            )


def apply_patches(tree: Path, patches: Sequence[Path]) -> None:
    """Apply patches in order, without fuzz; `tree` is changed in place.

    Raises:
        ForkError: one does not apply exactly.
    """
    import patch_ng

    for patch in patches:
        patch_set = patch_ng.fromfile(str(patch))
        if not patch_set or not patch_set.apply(strip=0, root=str(tree), fuzz=False):
            raise ForkError(f"{patch.name} does not apply to {tree.name}: it was made for another SGLang.")
        logger.info("applied %s", patch.name)


def touched_paths(patch: Path) -> list[str]:
    """Paths a patch changes, relative to the tree."""
    return re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), flags=re.MULTILINE)


def set_version(tree: Path, old: str, new: str) -> None:
    """Give the tree a version of its own: `sglang/_version.py`, METADATA and the dist-info's name."""
    version_py = tree / "sglang" / "_version.py"
    release, local = new.split("+")
    new_tuple = (*map(int, release.split(".")), local)
    _substitute(version_py, rf"^(__version__ = version = )'{re.escape(old)}'$", rf"\g<1>'{new}'")
    _substitute(version_py, r"^(__version_tuple__ = version_tuple = )\(.*\)$", rf"\g<1>{new_tuple!r}")
    dist_info = tree / f"sglang-{old}.dist-info"
    _substitute(dist_info / "METADATA", rf"^Version: {re.escape(old)}$", f"Version: {new}")
    dist_info.rename(tree / f"sglang-{new}.dist-info")


def pack(tree: Path, out_dir: Path) -> Path:
    """Zip the tree into a wheel with a fresh RECORD; returns its path."""
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".pack-") as tmp:
        _run(
            [sys.executable, "-m", "wheel", "pack", "--dest-dir", tmp, str(tree)], "packing the wheel failed"
        )
        (packed,) = Path(tmp).glob("*.whl")
        return packed.replace(out_dir / packed.name)


def _substitute(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    if count != 1:
        raise ForkError(
            f"{path} has no line like {pattern!r}: the wheel is not the one the fork is made from."
        )
    path.write_text(text)


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        detail = (done.stderr or done.stdout).strip().splitlines()
        raise ForkError(f"{failure} ({detail[-1] if detail else 'exit code ' + str(done.returncode)}).")
