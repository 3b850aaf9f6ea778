"""A request with n > 1 runs as n requests with n = 1, and their answers become one.

SGLang itself would first run the prompt alone, one request after the other, to fill the cache. Here the order
of the job does that.
"""

from __future__ import annotations

from typing import Any

RID_WIDTH = 32  # hexadecimal digits, as wide as the uuid that SGLang would give


def request_rid(run: str, number: int, choice: int, prompt: int = 0) -> str:
    """Name of one request in the engine; never the beginning of another one.

    Args:
        run: 8 hexadecimal digits, of one start of the engine.
        number: which request of that run.
        choice: which of its n answers.
        prompt: which of its prompts.
    """
    rid = f"{run}{number:012x}{choice:06x}{prompt:06x}"
    assert len(rid) == RID_WIDTH, f"rid {rid} has {len(rid)} digits"
    return rid


def merge_choices(bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer with all choices, numbered as OpenAI does: the n choices of a prompt stand together.

    Args:
        bodies: the answers to the n requests, in order; the first is changed and returned.
    """
    merged, n = bodies[0], len(bodies)
    if n == 1:
        return merged
    choices = [
        {**choice, "index": choice["index"] * n + copy}
        for copy, body in enumerate(bodies)
        for choice in body["choices"]
    ]
    merged["choices"] = sorted(choices, key=lambda choice: choice["index"])
    usage = merged["usage"]
    # The prompt counts once, whatever n is; so does what came of it from the cache.
    for name in ("completion_tokens", "reasoning_tokens"):
        if usage.get(name) is not None:
            usage[name] = sum(body["usage"][name] for body in bodies)
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    return merged
