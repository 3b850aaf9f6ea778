"""The use of a step is what the cost model says of its requests."""

import numpy as np
import pytest

from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.cost.step_use import step_use

COST = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100"))


def test_prefill_takes_the_compute_of_its_extends() -> None:
    use = step_use(COST, [(0, 300), (1000, 20)], 0, 0)
    seconds = COST.extend_compute_s(np.array([0, 1000]), np.array([300, 20])).sum()
    heads_s = 2 * (COST.decode_token_s - COST.token_s)  # each prompt gives a token
    assert use.compute_s == pytest.approx(seconds + heads_s)
    assert use.kv_read_s == 0


def test_the_decode_steps_of_a_request_read_what_the_cost_model_says() -> None:
    prompt, output = 500, 64
    steps = [step_use(COST, [], 1, prompt + step) for step in range(output)]
    whole = COST.memory_s(np.array([prompt]), np.array([output]))[0]
    assert sum(step.kv_read_s for step in steps) == pytest.approx(whole, rel=1e-3)
    assert sum(step.compute_s for step in steps) == pytest.approx(output * COST.decode_token_s)
    assert steps[0].weight_read_s == pytest.approx(COST.weight_s(1))


def test_a_window_bounds_what_is_read_and_computed() -> None:
    cost = RooflineCost(shape=model_shape("gemma-2-9b"), hardware=hardware("H200"))
    assert cost.shape.window is not None
    prompt, output = 3 * cost.shape.window, 10
    steps = [step_use(cost, [], 2, 2 * (prompt + step)) for step in range(output)]
    whole = 2 * cost.memory_s(np.array([prompt]), np.array([output]))[0]
    assert sum(step.kv_read_s for step in steps) == pytest.approx(whole, rel=1e-3)
    extend = step_use(cost, [(prompt, 50)], 0, 0).compute_s
    head_s = cost.decode_token_s - cost.token_s
    assert extend == pytest.approx(cost.extend_compute_s(np.array([prompt]), np.array([50]))[0] + head_s)
