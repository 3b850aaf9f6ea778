"""What this Python lacks for sglang-blend, and which versions to take: called by scripts/install_fork.sh.

    python scripts/missing_requirements.py EXTRAS FOLDER

Writes three files for pip into FOLDER: `missing.txt`, the requirements of pyproject.toml that are not met;
`held.txt`, the version of everything that is installed, so that nothing which SGLang brought is moved;
`locked.txt`, the locked version of everything that is not. SGLang itself is in
none of them: the fork replaces it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
OWN = ("sglang", "sglang-blend")


def installed_versions() -> dict[str, Version]:
    """Version by canonical name; a distribution whose version is none (Debian has such) is left out."""
    found: dict[str, Version] = {}
    for distribution in metadata.distributions():
        try:
            name, version = canonicalize_name(distribution.metadata["Name"]), Version(distribution.version)
        except (InvalidVersion, TypeError):
            continue
        found.setdefault(name, version)  # the first on sys.path is the one that is imported
    return found


def missing(extras: Sequence[str], installed: Mapping[str, Version]) -> list[Requirement]:
    """Requirements of the project with these extras that `installed` does not meet.

    Raises:
        SystemExit: there is no such extra.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = project["optional-dependencies"]
    if wrong := [extra for extra in extras if extra not in known]:
        raise SystemExit(f"install_fork: no extra {', '.join(wrong)}; there are {', '.join(sorted(known))}.")
    texts = [*project["dependencies"], *(text for extra in extras for text in known[extra])]
    wanted = [Requirement(text) for text in texts]
    return [r for r in wanted if canonicalize_name(r.name) not in OWN and not _is_met(r, installed)]


def _is_met(wanted: Requirement, installed: Mapping[str, Version]) -> bool:
    version = installed.get(canonicalize_name(wanted.name))
    met = version is not None and wanted.specifier.contains(version, prereleases=True)
    # The dependencies of an extra (`ray[default]`) are looked at by pip; it moves nothing that is there.
    return met and not wanted.extras


def locked_lines(lock: str) -> Iterator[tuple[str, str]]:
    """Canonical name and `name==version ; marker` of each entry of requirements.lock, without its hashes."""
    for line in lock.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==[^\\]+", line):
            yield canonicalize_name(match[1]), match[0].strip()


def main(extras: str, folder: Path) -> None:
    installed = installed_versions()
    lacking = missing([extra for extra in extras.split(",") if extra], installed)
    may_move = {canonicalize_name(r.name) for r in lacking if not r.extras} | set(OWN)
    held = {name: version for name, version in installed.items() if name not in may_move}
    locked = [
        line
        for name, line in locked_lines((ROOT / "requirements.lock").read_text())
        if name not in held and name not in OWN
    ]
    for name, lines in (
        ("missing.txt", [str(r) for r in lacking]),
        ("held.txt", [f"{name}=={version}" for name, version in sorted(held.items())]),
        ("locked.txt", locked),
    ):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
