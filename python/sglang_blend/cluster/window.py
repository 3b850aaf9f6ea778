"""How many requests a replica holds at a time."""

from __future__ import annotations

from typing import NamedTuple

# Near the end a replica holds those that it runs, and this many more so that none of its slots stays free.
_SPARE_RATIO, _LEAST_SPARE = 0.1, 8


class ReplicaLoad(NamedTuple):
    """Requests in a replica's running batch, and in its scheduler's waiting queue."""

    num_running: int
    num_waiting: int


def window_of(window: int, load: ReplicaLoad | None, *, num_waiting: int, num_replicas: int) -> int:
    """Requests that a replica may hold, running and waiting.

    While much is left, a full window lets its scheduler choose. Near the end, what waits at one replica
    cannot be taken by an idle one, so it waits in the queue instead.

    Args:
        window: where much is left.
        load: of the replica, as it was last told; None before.
        num_waiting: in the queues of all replicas.
    """
    if num_waiting > window * num_replicas:
        return window
    if load is None or not load.num_waiting:  # nobody knows yet how many it can run
        known = 0 if load is None else 2 * load.num_running
        return min(window, max(known, num_waiting // (2 * num_replicas), _LEAST_SPARE))
    return min(window, load.num_running + max(_LEAST_SPARE, int(_SPARE_RATIO * load.num_running)))
