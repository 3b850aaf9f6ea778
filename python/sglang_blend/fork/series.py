"""The patch series: which stock release it is for, which files it touches, and their hashes.

`patches/<sglang version>/` holds the patches, applied in the order of their names, and `series.json`:
the fork's number N and, for every touched file, the SHA-256 before (stock) and after (fork).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from sglang_blend.errors import ForkError

SGLANG_VERSION = "0.5.17"
MANIFEST = "series.json"


@dataclass(frozen=True, kw_only=True)
class TouchedFile:
    """One file the series changes; `path` is relative to site-packages."""

    path: str
    stock_sha256: str
    fork_sha256: str


@dataclass(frozen=True, kw_only=True)
class PatchSeries:
    """The patches made for one stock release."""

    directory: Path
    sglang_version: str
    blend_number: int
    files: tuple[TouchedFile, ...]

    @property
    def fork_version(self) -> str:
        """PEP 440 local version, such as 0.5.17+blend.1."""
        return f"{self.sglang_version}+blend.{self.blend_number}"

    @property
    def patches(self) -> tuple[Path, ...]:
        return tuple(sorted(self.directory.glob("*.patch")))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def patches_root() -> Path:
    """`patches/` inside an installed package, else of the checkout this file lies in.

    Raises:
        ForkError: neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for root in (package / "patches", package.parent.parent / "patches"):
        if root.is_dir():
            return root
    raise ForkError(
        f"No patches/ beside {package}: reinstall sglang-blend, or run from a complete checkout of it."
    )


def read_series(directory: Path) -> PatchSeries:
    """Read `series.json` of one patch directory.

    Raises:
        ForkError: it is missing or not a series.
    """
    manifest = directory / MANIFEST
    try:
        raw = json.loads(manifest.read_text())
        return PatchSeries(
            directory=directory,
            sglang_version=raw["sglang_version"],
            blend_number=raw["blend_number"],
            files=tuple(TouchedFile(**f) for f in raw["files"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ForkError(
            f"{manifest} is not a readable patch series ({e}): restore it from version control."
        ) from e


def current_series() -> PatchSeries:
    """The series for the SGLang release this version of sglang-blend is made for."""
    return read_series(patches_root() / SGLANG_VERSION)


def write_manifest(series: PatchSeries) -> None:
    """Write `series.json`; run by `sglang-blend fork record` after a patch was changed."""
    manifest = {
        "sglang_version": series.sglang_version,
        "blend_number": series.blend_number,
        "files": [vars(f) for f in series.files],
    }
    (series.directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
