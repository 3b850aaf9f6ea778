"""Is what was built fit to be given away? `python scripts/check_release.py DIST`, called by scripts/release.

Metadata of wheel and sdist by the rules of the package index (`packaging.metadata`), the version's section in
CHANGELOG.md, and the files that the package reads at run time.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("sglang_blend/py.typed", "sglang_blend/patches/0.5.17/series.json", "dist-info/licenses/LICENSE")


def problems(dist: Path) -> list[str]:
    """Sentences; none when all is well."""
    wheels, sdists = list(dist.glob("*.whl")), list(dist.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        return [f"{dist} holds {len(wheels)} wheels and {len(sdists)} sdists; one of each is needed."]
    with zipfile.ZipFile(wheels[0]) as archive:
        names = archive.namelist()
        (place,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        of_wheel = archive.read(place)
    with tarfile.open(sdists[0]) as tar:
        (member,) = [m for m in tar.getmembers() if re.fullmatch(r"[^/]+/PKG-INFO", m.name)]
        file = tar.extractfile(member)
        assert file is not None
        of_sdist = file.read()
    said = [f"{need} is not in {wheels[0].name}." for need in NEEDED if not any(need in n for n in names)]
    for name, text in ((wheels[0].name, of_wheel), (sdists[0].name, of_sdist)):
        try:
            metadata = Metadata.from_email(text, validate=True)
        except ExceptionGroup as e:
            said += [f"{name}: {each}" for each in e.exceptions]
            continue
        if not metadata.description or not metadata.classifiers:
            said.append(f"{name} has no description or no classifiers.")
        said += changelog_problems(metadata.version, (ROOT / "CHANGELOG.md").read_text())
    return sorted(set(said))


def changelog_problems(version: Version, changelog: str) -> list[str]:
    """A release has a section with a date; what is being made stands under Unreleased."""
    if version.is_devrelease:
        return [] if "## [Unreleased]\n" in changelog else ["CHANGELOG.md has no section [Unreleased]."]
    if re.search(rf"^## \[{re.escape(str(version))}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        return []
    return [f"CHANGELOG.md has no section [{version}] with a date."]


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print(*(found or ["The metadata of wheel and sdist is sound."]), sep="\n")
    sys.exit(bool(found))
