"""Requests are brought to the front of a queue that SGLang changes meanwhile."""

import random
from typing import NamedTuple

from sglang_blend.srt.queue_head import QueueHead


class Req(NamedTuple):
    rid: str


def test_the_head_is_at_the_front_whatever_happens_to_the_queue() -> None:
    """Arrivals, admissions from the front, and aborts in the middle, many times over."""
    rng = random.Random(3)
    queue: list[Req] = []
    known: set[Req] = set()
    front = QueueHead()
    num_made = 0
    for _ in range(500):
        new = [req for req in queue if req not in known]
        assert front.arrivals(queue, known.__contains__) == new
        known = set(queue)
        head = rng.sample(queue, min(len(queue), rng.randrange(8)))
        everyone = set(queue)
        front.bring(queue, head)
        assert queue[: len(head)] == head
        assert (len(queue), set(queue)) == (len(everyone), everyone)
        admitted = set(rng.sample(head, rng.randrange(len(head) + 1)))
        for _ in admitted:
            front.admitted()
        queue = [req for req in queue if req not in admitted]
        if queue and rng.random() < 0.1:
            del queue[rng.randrange(len(queue))]
        known &= set(queue)
        for _ in range(rng.randrange(5)):
            queue.append(Req(f"r{num_made}"))
            num_made += 1


def test_those_who_have_gone_are_forgotten() -> None:
    """A night's requests pass through a short queue."""
    front = QueueHead()
    for batch in range(1000):
        queue = [Req(f"{batch}.{i}") for i in range(10)]
        assert len(front.arrivals(queue, lambda req: False)) == 10
        front.bring(queue, queue[5:])
        for _ in queue:
            front.admitted()
    assert len(front._index) < 2000
