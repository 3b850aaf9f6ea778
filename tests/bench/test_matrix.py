"""What a benchmark runs, and how its runs are compared."""

from typing import Any

import pytest

from sglang_blend.bench.comparison import compare_answers, table
from sglang_blend.bench.matrix import Contender
from sglang_blend.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "policy", "order"),
    [
        ("fcfs", "fcfs", "fcfs"),
        ("fcfs@dfs", "fcfs", "dfs"),
        ("dual-scan", "dual-scan", "dual-scan"),
        ("stationary@unplanned", "stationary", "unplanned"),
    ],
)
def test_a_contender_is_a_policy_and_an_order(text: str, policy: str, order: str) -> None:
    contender = Contender.parse(text)
    assert (contender.policy, contender.order, contender.name) == (policy, order, text)


def test_an_unknown_order_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'sorted' is unknown; the orders are .*dfs.*unplanned"):
        Contender.parse("fcfs@sorted")


def run(policy: str, text: dict[str, str]) -> dict[str, Any]:
    numbers = dict.fromkeys(
        (
            "computed_prompt_tokens", "cached_prompt_tokens", "steps", "mean_batch", "retractions", "tail_s",
            "policy_ms_per_step", "failed", "prompt_tokens", "output_tokens", "predicted_s", "optimum_s",
            "scheduler_cpu_s",
        ),
        100.0,
    )  # fmt: skip
    return {"policy": policy, "wall_s": 2.0, "text": text, **numbers}


def test_answers_are_compared_with_those_of_the_first_run() -> None:
    first = {"a": "one two", "b": "three", "c": "four"}
    runs = [run("fcfs", first), run("lpm", {"a": "one 2", "b": "three"}), run("other", {})]
    compare_answers(runs)
    assert [r["equal_answers"] for r in runs] == [1.0, 0.5, None]
    assert [r["first_difference"] for r in runs] == [None, 4, None]
    assert "text" not in runs[0]


def test_the_table_has_a_line_per_policy_with_means_over_shuffles() -> None:
    runs = [run("fcfs", {"a": "x"}), run("fcfs", {"a": "x"}), run("lpm", {"a": "x"})]
    runs[1]["steps"] = 300.0
    compare_answers(runs)
    lines = table({"tree_minimum_prompt_tokens": 50, "runs": runs}).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["fcfs", "lpm"]
    assert "200" in lines[1].split(), "mean of 100 and 300 steps"
    assert "2.000" in lines[1].split(), "computed twice the minimum"
