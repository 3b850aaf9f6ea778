"""Prefill and decode rates on this CPU: the engine beside plain transformers, in one run.

    .venv/bin/python scripts/bench_cpu.py > cpu.json

Rates are the best of `--repeats`, tokens a second. Both get the same weights, dtype and threads; the
engine's figures include tokenizer manager, scheduler and detokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

# (name, batch size, prompt tokens, output tokens)
CASES = (("prefill", 1, 512, 1), ("prefill", 8, 512, 1), ("decode", 1, 16, 33), ("decode", 32, 16, 33))


def prompts(case: int, repeat: int, batch_size: int, prompt_len: int) -> list[list[int]]:
    """Token ids that no earlier prompt starts with, so that no cache helps."""
    seed = case * 100 + repeat + 1
    return [
        [(seed * 7919 + row * 104729 + i * 31) % 40000 + 100 for i in range(prompt_len)]
        for row in range(batch_size)
    ]


def rates(generate: Callable[[list[list[int]], int], None], repeats: int) -> dict[str, float]:
    """Best rate of each case. Decode subtracts a run of one token, so that only decode steps count."""
    best = {}
    generate(prompts(99, 0, 1, 16), 4)
    for number, (kind, batch_size, prompt_len, output_len) in enumerate(CASES):
        seconds = []
        for repeat in range(repeats):
            start = time.monotonic()
            generate(prompts(number, 2 * repeat, batch_size, prompt_len), 1)
            first = time.monotonic()
            if kind == "prefill":
                seconds.append(first - start)
                continue
            generate(prompts(number, 2 * repeat + 1, batch_size, prompt_len), output_len)
            seconds.append(max(time.monotonic() - first - (first - start), 1e-9))
        tokens = batch_size * (prompt_len if kind == "prefill" else output_len - 1)
        best[f"{kind}_batch_{batch_size}"] = round(tokens / min(seconds), 1)
    return best


def transformers_rates(model_path: str, repeats: int) -> dict[str, float]:
    """Plain `model.generate`, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)

    def generate(ids: list[list[int]], num_tokens: int) -> None:
        batch = torch.tensor(ids)
        model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
        )

    return rates(generate, repeats)


def engine_rates(model_path: str, repeats: int) -> dict[str, float]:
    """SGLang on the CPU platform."""
    import sglang

    engine = sglang.Engine(model_path=model_path, dtype="float32", disable_overlap_schedule=True)

    def generate(ids: list[list[int]], num_tokens: int) -> None:
        params = {"max_new_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
        engine.generate(input_ids=ids, sampling_params=params)

    try:
        return rates(generate, repeats)
    finally:
        engine.shutdown()


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.machine import usable_cores
    from sglang_blend.srt.cpu.threads import set_thread_defaults

    set_thread_defaults()
    model_path = str(demo_model_path())
    result = {
        "cores": usable_cores(),
        "load_average_before": os.getloadavg()[0],
        "transformers": transformers_rates(model_path, args.repeats),
        "engine": engine_rates(model_path, args.repeats),
    }
    result["engine_over_transformers"] = {
        name: round(rate / result["transformers"][name], 2) for name, rate in result["engine"].items()
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
