"""What a plan says about a job, as JSON values for the record of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sglang_blend.core.overview import density_histogram, largest_prefixes
from sglang_blend.core.request import Schedule, Side
from sglang_blend.core.workload import Workload
from sglang_blend.plan.job_plan import JobPlan

MOST_PREFIXES = 250
MOST_PREVIEWS = 30
_PREVIEW_CHARS = 90

TextOfRow = Callable[[int], str]


def plan_facts(plan: JobPlan, text_of_row: TextOfRow) -> dict[str, Any]:
    """A plan that was made, what it predicted, and the bounds by the output lengths that are known by now.

    Args:
        text_of_row: what a request asks, as text; asked for a few dozen rows.
    """
    facts = workload_facts(plan.workload, plan.schedule, text_of_row)
    predicted_s = plan.predict()
    facts["predicted"] = {"makespan_s": predicted_s, "orders": plan.predicted_s, "simulated": True}
    bounds, engine = plan.bounds(), plan.engine_facts
    if bounds is not None:
        facts["bounds"] = asdict(bounds) | {
            "optimum_s": bounds.optimum_s,
            "practical_s": bounds.practical_s,
            "sequential_s": bounds.sequential_s,
        }
    if engine is not None:
        facts["engine"] = {
            "device_name": engine.device_name,
            "tp_size": engine.tp_size,
            "kv_pool_tokens": engine.kv_pool_tokens,
            "page_size": engine.page_size,
            "max_running_requests": engine.max_running_requests,
            "takes_hints": engine.takes_hints,
        }
    return facts


def workload_facts(workload: Workload, schedule: Schedule, text_of_row: TextOfRow) -> dict[str, Any]:
    """The job, its largest shared prefixes, its densities, and the order that was taken."""
    tree = workload.tree
    facts: dict[str, Any] = {
        "requests": tree.n,
        "prompt_tokens": tree.num_prompt_tokens,
        "unique_prompt_tokens": tree.num_unique_tokens,
        "sharing_possible": tree.sharing_possible,
        "sharing_kept": schedule.sharing_kept,
        "est_output_tokens": int(schedule.est_output_len.sum()),
        "max_output_tokens": int(workload.table.max_new_tokens.sum()),
        "order": schedule.order,
        "reason": schedule.reason,
        "seed": schedule.seed,
        "num_nodes": tree.num_nodes,
        "sides": {side.name.lower(): int((schedule.side == side).sum()) for side in Side},
        "prefixes": _prefixes(workload, text_of_row),
    }
    if workload.cost is not None and tree.n:
        histogram = density_histogram(workload)
        facts |= {
            "root_density": schedule.root_density,
            "compute_s": workload.total.compute_s,
            "memory_s": workload.total.memory_s,
            "kv_pool_tokens": workload.kv_pool_tokens,
            "density_histogram": {name: column.tolist() for name, column in histogram._asdict().items()},
        }
    return facts


def _prefixes(workload: Workload, text_of_row: TextOfRow) -> list[dict[str, Any]]:
    tree = workload.tree
    shared = largest_prefixes(workload, limit=MOST_PREFIXES)
    prefixes = []
    for place in range(len(shared.node)):
        density = float(shared.density[place])
        start, end = int(shared.start[place]), int(shared.end[place])
        prefix: dict[str, Any] = {
            "start": start,
            "requests": end - start,
            "parent_len": int(shared.parent_len[place]),
            "prefix_len": int(shared.prefix_len[place]),
            "saved_tokens": int(shared.saved_tokens[place]),
            "density": density if math.isfinite(density) else None,
        }
        if place < MOST_PREVIEWS:
            first, last = int(tree.sequence[start]), int(tree.sequence[end - 1])
            prefix["preview"] = preview(text_of_row(first), text_of_row(last))
        prefixes.append(prefix)
    return prefixes


def preview(first: str, last: str) -> str:
    """What two texts begin with in common, shortened in the middle."""
    length = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    common = " ".join(first[:length].split())
    if len(common) <= 2 * _PREVIEW_CHARS:
        return common
    begin, _, _ = common[:_PREVIEW_CHARS].rpartition(" ")
    _, _, end = common[-_PREVIEW_CHARS:].partition(" ")
    return f"{begin or common[:_PREVIEW_CHARS]} \u2026 {end or common[-_PREVIEW_CHARS:]}"


def text_of_body(body: dict[str, Any]) -> str:
    """What a request asks, as one text; token ids are written out as numbers."""
    messages = body.get("messages")
    if isinstance(messages, list):
        return "\n".join(
            f"{m.get('role')}: {_text(m.get('content'))}" for m in messages if isinstance(m, dict)
        )
    return _text(body.get("prompt", body.get("input")))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(_text(part) for part in content)
    if isinstance(content, dict):
        text = content.get("text")
        return text if isinstance(text, str) else f"[{content.get('type', 'object')}]"
    return "" if content is None else str(content)
