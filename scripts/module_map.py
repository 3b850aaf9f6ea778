"""Writes the module list of docs/architecture.md: each module with the first sentence of its docstring.

python scripts/module_map.py            # rewrites what stands between the two marks
python scripts/module_map.py --check    # exit code 1 where that would change something
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "sglang_blend"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- modules: scripts/module_map.py writes what follows -->\n", "<!-- end of modules -->\n"
# A folder imports only from those before it (tests/docs/test_architecture.py); "" is the package itself.
FOLDERS = (
    "", "fork", "core", "cost", "scheduling", "attention", "simulate", "plan", "engine", "job", "srt",
    "cluster", "report", "bench", "cli",
)  # fmt: skip


def module_map() -> str:
    """The list: a heading for each folder with what it is for, a line for each module in it."""
    found = [path.name for path in sorted(PACKAGE.iterdir()) if (path / "__init__.py").exists()]
    folders = [*FOLDERS, *(name for name in found if name not in FOLDERS)]
    return "\n".join(_folder(name) for name in folders if name in found or not name)


def _folder(name: str) -> str:
    folder = PACKAGE / name
    paths = sorted(folder.glob("*.py") if not name else folder.rglob("*.py"))
    lines = [
        f"- `{path.relative_to(PACKAGE)}` - {_first_sentence(path)}"
        for path in paths
        if path.name != "__init__.py"
    ]
    title = f"`{name}/`" if name else "The ground floor"
    return f"### {title}\n{_first_sentence(folder / '__init__.py')}\n\n" + "\n".join(lines) + "\n"


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentence = re.split(r"(?<=[.;])(?:\s|$)|\n\n", text, maxsplit=1)[0]
    return " ".join(sentence.split()).rstrip(":;.") + "."


def rewritten(page: str) -> str:
    """The page with the list of now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{module_map()}\n{END}{after}"


if __name__ == "__main__":
    page = PAGE.read_text()
    wanted = rewritten(page)
    if "--check" in sys.argv:
        sys.exit(page != wanted)
    PAGE.write_text(wanted)
