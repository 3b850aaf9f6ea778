"""docs/architecture.md and the docstrings of folders name what is there, all of it and nothing else."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from docs.commands import ROOT

PACKAGE = ROOT / "python" / "sglang_blend"
PAGE = ROOT / "docs" / "architecture.md"
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def module_map() -> Any:
    spec = importlib.util.spec_from_file_location("module_map", ROOT / "scripts" / "module_map.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_module_is_listed_with_its_first_sentence() -> None:
    page = PAGE.read_text()
    assert page == module_map().rewritten(page), "run: python scripts/module_map.py"
    modules = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"}
    assert set(re.findall(r"^- `(\S+\.py)` - \S", page, re.MULTILINE)) == modules


def test_every_file_that_the_page_names_exists() -> None:
    named = re.findall(r"(?<![\w/])((?:\w+/)*\w+\.py)\b", PAGE.read_text())
    assert len(named) > 200
    gone = [path for path in named if not (PACKAGE / path).exists() and not (ROOT / path).exists()]
    assert gone == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_a_folder_says_which_modules_are_in_it(folder: Path) -> None:
    said = set(re.findall(r"\w+", ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""))
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert modules | folders <= said


def test_a_folder_imports_only_what_stands_above_it() -> None:
    """Also inside functions; of the ground floor anybody may import."""
    place = {name: number for number, name in enumerate(module_map().FOLDERS)}
    upward = [
        f"{path.relative_to(PACKAGE)} imports {imported}"
        for folder in place
        if folder
        for path in (PACKAGE / folder).rglob("*.py")
        for imported in imports_of(path)
        if place.get(imported.split(".")[1], 0) > place[folder]
    ]
    assert upward == []


def imports_of(path: Path) -> list[str]:
    """Modules of this package, with what is taken from them: `sglang_blend.core.request.Side`."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sglang_blend"):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("sglang_blend.")]
    return found
