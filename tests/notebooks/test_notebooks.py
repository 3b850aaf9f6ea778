"""Notebooks run from top to bottom in a real kernel, on the demo model.

Every notebook in `examples/notebooks` is found here; `written_for_sglang.ipynb` beside this file imports
SGLang and runs on this package after changing that line, and the cells of `runtime_written_for_sglang.ipynb`
run on the server of `frontend_language.ipynb`.
"""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from sglang_blend.demo_model import demo_model_path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
WRITTEN_FOR_SGLANG = Path(__file__).with_name("written_for_sglang.ipynb")
RUNTIME_WRITTEN_FOR_SGLANG = Path(__file__).with_name("runtime_written_for_sglang.ipynb")
CELL_TIMEOUT_S = 400
# Kernel and client are told each other's ports by asyncio machinery that leaves sockets to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def read(path: Path) -> NotebookNode:
    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def client_of(notebook: NotebookNode, directory: Path) -> NotebookClient:
    return NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(directory)}},
    )


def printed(notebook: NotebookNode) -> str:
    """What the cells wrote to stdout, and their values."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    values = [output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(
        [output.get("text", "") for output in outputs if output.get("name") == "stdout"] + values
    )


def test_there_are_notebooks_to_run() -> None:
    expected = {"offline_batch.ipynb", "frontend_language.ipynb", "reading_a_report.ipynb"}
    assert {path.name for path in NOTEBOOKS} >= expected


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_the_documented_runtime_is_the_notebooks() -> None:
    """Which is run below."""
    docs = (EXAMPLES.parents[1] / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)\n```", docs[docs.index("\n## Runtime\n") :], re.DOTALL)
    cells = [cell.source for cell in read(EXAMPLES / "frontend_language.ipynb").cells]
    assert blocks
    assert set(blocks) <= set(cells)


@pytest.mark.engine
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    notebook = read(path)
    if path.stem == "frontend_language":
        assert notebook.cells.pop().source == "runtime.shutdown()"
        notebook.cells += read(RUNTIME_WRITTEN_FOR_SGLANG).cells  # ends with it
    client_of(notebook, tmp_path).execute()
    assert not [p for p in psutil.Process().children(recursive=True) if "sglang" in p.name()]
    said = printed(notebook)
    if path.stem == "offline_batch":
        rows = {words[0]: words[1:] for line in said.splitlines() if len(words := line.split()) == 3}
        # Seconds are not held against each other: the machine may be doing something else.
        # What SGLang computes twice depends on who is there when a batch is formed; 0.69 and less were seen.
        assert int(rows["planned"][1]) < 0.85 * int(rows["stock"][1]), said
        assert "context_length_exceeded" in said
    if path.stem == "frontend_language":
        assert "France -> Paris" in said
        assert "Tip 2:" in said
        assert "dual-scan" in said
    if path.stem == "reading_a_report":
        assert "labels.report.html" in said
        assert said.count("requests share") >= 2
        assert "Throughput" in said
        assert "invalid_type 1 " in said


@pytest.mark.engine
def test_a_notebook_written_for_sglang_runs_after_changing_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its cells is interrupted, as the stop button of a notebook does it; others are run twice."""
    monkeypatch.setenv("MODEL_PATH", str(demo_model_path()))
    notebook = read(WRITTEN_FOR_SGLANG)
    (imports,) = [cell for cell in notebook.cells if "import sglang as sgl\n" in cell.source]
    imports.source = imports.source.replace("import sglang as sgl\n", "import sglang_blend as sgl\n")
    client = client_of(notebook, tmp_path)
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            if "interrupted" not in cell.metadata.get("tags", ()):
                client.execute_cell(cell, index)
                continue
            kernel: Any = client.km
            press_stop = threading.Timer(3, lambda kernel=kernel: asyncio.run(kernel.interrupt_kernel()))
            press_stop.start()
            with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
                client.execute_cell(cell, index)
            press_stop.join()
            for before in range(1, index):
                client.execute_cell(notebook.cells[before], before)
