"""A Ray Data pipeline with planned generation: `python ray_data_job.py PROMPTS.parquet ANSWERS`."""

from __future__ import annotations

import sys

import ray

from sglang_blend.ray_data import generate


def main() -> None:
    ray.init(num_cpus=2, include_dashboard=False)
    prompts = ray.data.read_parquet(sys.argv[1])
    answers = generate(
        prompts,
        column="question",
        output_column="answer",
        sampling_params={"max_new_tokens": 6, "temperature": 0.0},
        max_total_tokens=20_000,
    )
    answers.write_parquet(sys.argv[2])


if __name__ == "__main__":
    main()
