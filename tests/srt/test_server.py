"""A stock SGLang server under `--schedule-policy dual-scan`, asked by stock clients, some with bad hints."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sglang_blend.demo_model import demo_model_path

pytestmark = pytest.mark.engine

PREFIXES = [
    "You are a careful clerk who answers in one word, always the same, without any explanation. " * 3,
    "The following is a list of facts about rivers, seas and mountains that children learn at school. " * 3,
]
BAD_HINTS: list[Any] = [
    5,
    {},
    {"rank": "first"},
    {"rank": -3},
    {"rank": 1, "side": 9},
    {"rank": 2, "est_output_len": 0},
    {"rank": 3, "est_output_len": 10**9},
    {"rank": 10**18},
    {"rank": None, "density": "high"},
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a running server with a pool too small for everything at once."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "sglang.launch_server", "--model-path", str(demo_model_path()),
            "--schedule-policy", "dual-scan", "--port", str(port), "--max-total-tokens", "1500",
            "--log-level", "error", "--disable-overlap-schedule",
        ],
        start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + 400
        while time.monotonic() < give_up and process.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def post(url: str, body: dict[str, Any], timeout_s: float = 300) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def blend_state(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/server_info", timeout=60) as response:
        state: dict[str, Any] = json.load(response)["internal_states"][0]["blend"]
        return state


def test_a_queue_without_hints_is_planned_and_bad_hints_hurt_nobody(server: str) -> None:
    bodies = [
        {
            "text": f"{PREFIXES[i % 2]} Question {i}:",
            "sampling_params": {"max_new_tokens": 4 + i % 5, "temperature": 0, "ignore_eos": True},
        }
        for i in range(60)
    ]
    for body, hints in zip(bodies[5:], BAD_HINTS, strict=False):
        body["sampling_params"]["custom_params"] = {"blend": hints}  # type: ignore[index]
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda body: post(server, body), bodies))
    for i, answer in enumerate(answers):
        assert answer["meta_info"]["completion_tokens"] == 4 + i % 5, answer
    state = blend_state(server)
    assert state["policy"]["name"] == "dual-scan"
    counters = state["policy"]["counters"]
    assert counters["refused_hints"] == sum(
        not (isinstance(h, dict) and h.get("rank") in (2, 3)) for h in BAD_HINTS
    )
    assert counters["finished"] >= len(bodies)  # SGLang warms up and checks its health with some more
    assert counters["plans"] >= 1
    assert state["policy"]["num_waiting"] == 0
    attention = state["attention"]
    assert attention["decode_steps"] > 0
    assert 0 < attention["decode_read_bytes"] <= attention["decode_unshared_bytes"]
    # Only prompt tokens that nobody shares are computed more than once, if at all.
    computed = state["totals"]["prefill_tokens"]
    prompt_tokens = sum(answer["meta_info"]["prompt_tokens"] for answer in answers)
    assert computed < prompt_tokens / 3


def test_an_aborted_request_is_forgotten(server: str) -> None:
    """Its client goes away while it runs; later requests are served as before."""
    body = {"text": "Count:", "sampling_params": {"max_new_tokens": 1000, "ignore_eos": True}}
    with pytest.raises(TimeoutError):
        post(server, body, timeout_s=2)
    assert post(server, {"text": "Hi", "sampling_params": {"max_new_tokens": 3}})["text"] is not None
    give_up = time.monotonic() + 60
    while (policy := blend_state(server)["policy"])["kv_left_tokens"] and time.monotonic() < give_up:
        time.sleep(0.5)
    assert (policy["kv_left_tokens"], policy["num_waiting"]) == (0, 0)
