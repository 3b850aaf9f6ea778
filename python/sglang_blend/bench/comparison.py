"""Runs side by side: which answers are equal, and the table."""

from __future__ import annotations

from statistics import mean, median
from typing import Any


def compare_answers(runs: list[dict[str, Any]]) -> None:
    """Replace each run's `text` by how it compares with the first run's, in place.

    `equal_answers` is the share (0 to 1) of requests with the same text; `first_difference` is the median
    character at which the others part (None where all are equal).
    """
    reference: dict[str, str] = runs[0]["text"]
    for run in runs:
        text: dict[str, str] = run.pop("text")
        both = [(reference[key], text[key]) for key in reference if key in text]
        apart = [_first_difference(a, b) for a, b in both if a != b]
        run["equal_answers"] = 1.0 - len(apart) / len(both) if both else None
        run["first_difference"] = median(apart) if apart else None


def _first_difference(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


_COLUMNS = (
    ("wall s", "wall_s", "{:.1f}"),
    ("CPU s", "scheduler_cpu_s", "{:.1f}"),
    ("predicted", "predicted_s", "{:.1f}"),
    ("of optimum", "of_optimum", "{:.0%}"),
    ("tok/s", "tokens_per_s", "{:,.0f}"),
    ("computed", "computed_prompt_tokens", "{:,.0f}"),
    ("of minimum", "of_minimum", "{:.3f}"),
    ("cached", "cached_prompt_tokens", "{:,.0f}"),
    ("steps", "steps", "{:,.0f}"),
    ("batch", "mean_batch", "{:.1f}"),
    ("retracted", "retractions", "{:.1f}"),
    ("tail s", "tail_s", "{:.1f}"),
    ("policy ms", "policy_ms_per_step", "{:.3f}"),
    ("equal", "equal_answers", "{:.1%}"),
    ("failed", "failed", "{:.0f}"),
)


def table(report: dict[str, Any]) -> str:
    """Means over the shuffles, one line a policy."""
    minimum = report["tree_minimum_prompt_tokens"]
    groups: dict[str, list[dict[str, float]]] = {}
    for run in report["runs"]:
        derived = {
            "tokens_per_s": (run["prompt_tokens"] + run["output_tokens"]) / run["wall_s"],
            "of_minimum": run["computed_prompt_tokens"] / max(minimum, 1),
            "of_optimum": run["optimum_s"] and run["optimum_s"] / run["wall_s"],
        }
        groups.setdefault(run["policy"], []).append(run | derived)
    lines = [f"{'policy':14}" + "".join(f"{title:>12}" for title, _, _ in _COLUMNS)]
    for policy, runs in groups.items():
        cells = [_cell([run[key] for run in runs], form) for _, key, form in _COLUMNS]
        lines.append(f"{policy:14}" + "".join(f"{cell:>12}" for cell in cells))
    lines.append(f"The prefix tree of all prompts has {minimum:,} tokens: the least that must be computed.")
    lines.append(
        "of optimum: the larger of compute and KV reads, by the machine's rates, over the time taken."
    )
    return "\n".join(lines)


def _cell(values: list[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(mean(known)) if known else "-"
