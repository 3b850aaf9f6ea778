"""Requests are brought to the front of a queue that SGLang changes meanwhile."""

import random
from typing import NamedTuple

from sglang_blend.scheduling.front import FrontOfQueue


class Req(NamedTuple):
    rid: str


def test_the_head_is_at_the_front_whatever_happens_to_the_queue() -> None:
    """Arrivals, admissions from the front, and aborts in the middle, many times over."""
    rng = random.Random(3)
    queue: list[Req] = []
    front = FrontOfQueue()
    num_made = num_arrived = num_admitted = 0
    for _ in range(500):
        front.update(queue, num_arrived, num_admitted)
        head = rng.sample(queue, min(len(queue), rng.randrange(8)))
        everyone = set(queue)
        front.bring(queue, head)
        assert queue[: len(head)] == head
        assert (len(queue), set(queue)) == (len(everyone), everyone)
        admitted = set(rng.sample(head, rng.randrange(len(head) + 1)))
        num_admitted = len(admitted)
        queue = [req for req in queue if req not in admitted]
        if queue and rng.random() < 0.1:
            del queue[rng.randrange(len(queue))]
        num_arrived = rng.randrange(5)
        queue += [Req(f"r{num_made + i}") for i in range(num_arrived)]
        num_made += num_arrived


def test_those_who_have_gone_are_forgotten() -> None:
    """A night's requests pass through a short queue."""
    front = FrontOfQueue()
    for batch in range(1000):
        queue = [Req(f"{batch}.{i}") for i in range(10)]
        front.update(queue, num_arrived=10, num_admitted=10 if batch else 0)
        front.bring(queue, queue[5:])
    assert len(front._index) < 2000
