"""What the records of a job cost it, and how long reports take to open.

.venv/bin/python scripts/bench_report.py [REPORT.html ...]
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.cost.step_use import step_use
from sglang_blend.job.run_record import RunRecord
from sglang_blend.jsonl import BoundedLines
from sglang_blend.request import Answer
from sglang_blend.scheduling.step_records import StepRecord

NUM_REQUESTS, NUM_STEPS, NUM_OPENINGS = 1_000_000, 100_000, 7


def requests(folder: Path) -> None:
    """The job's side."""
    record = RunRecord(folder / "x.runs.jsonl")
    answer, hints = Answer(200, {}, 400, 300, 60), {"rank": 3, "est_output_len": 70}
    start = time.perf_counter()
    for _ in range(NUM_REQUESTS):
        record.add(time.monotonic() - 1, answer, hints=hints, max_new_tokens=100)
    each_us = (time.perf_counter() - start) / NUM_REQUESTS * 1e6
    start = time.perf_counter()
    record.write(dict, {})
    write_s, size = time.perf_counter() - start, (folder / "x.runs.jsonl").stat().st_size
    print(
        f"requests: {each_us:.1f} us each; of {NUM_REQUESTS:,} {size:,} bytes are written in {write_s:.2f} s"
    )


def steps(folder: Path) -> None:
    """The scheduler's side, without what only SGLang's objects can tell."""
    cost = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100"))
    lines = BoundedLines(folder / "x.steps.jsonl")
    start = time.perf_counter()
    for step in range(NUM_STEPS):
        use = step_use(cost, [], 200, 123_456)
        record = StepRecord(start_s=step * 0.0123, t_s=step * 0.0123, steps=1, decode_tokens=200)
        record.compute_s, record.kv_read_s, record.weight_read_s = use
        record.kv_used_tokens, record.kv_left_tokens, record.kv_right_tokens = 391_234, 12_345.6, 345_678.9
        lines.append(record.to_json())
    each_us = (time.perf_counter() - start) / NUM_STEPS * 1e6
    lines.close()
    size = (folder / "x.steps.jsonl").stat().st_size / NUM_STEPS
    print(f"steps: {each_us:.0f} us and {size:.0f} bytes a line")


def opening(reports: list[Path]) -> None:
    """Load event, and the first chart drawn, in a fresh page each time."""
    chromium = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for report in reports:
            loaded, drawn = [], []
            for _ in range(NUM_OPENINGS):
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                start = time.perf_counter()
                page.goto(report.resolve().as_uri())
                loaded.append(time.perf_counter() - start)
                page.wait_for_selector("#chart-0[data-drawn]")
                drawn.append(time.perf_counter() - start)
                page.close()
            print(
                f"{report.name}: {report.stat().st_size:,} bytes; loaded after {_spread(loaded)}, "
                f"first chart after {_spread(drawn)}"
            )
        browser.close()


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        requests(Path(folder))
        steps(Path(folder))
    if len(sys.argv) > 1:
        opening([Path(name) for name in sys.argv[1:]])


if __name__ == "__main__":
    main()
