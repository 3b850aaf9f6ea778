"""How many requests a replica holds at a time."""

from __future__ import annotations

# Near the end a replica holds those that it runs, and this many more so that none of its slots stays free.
_SPARE_RATIO, _LEAST_SPARE = 0.1, 8


def window_of(window: int, num_running: int, *, num_waiting: int, num_replicas: int) -> int:
    """Requests that a replica may hold, running and waiting.

    While much is left, a full window lets its scheduler choose. Near the end, what waits at one replica
    cannot be taken by an idle one, so it waits in the queue instead.

    Args:
        window: where much is left.
        num_running: in its running batch, as far as is known.
        num_waiting: in the queues of all replicas.
    """
    if num_waiting > window * num_replicas:
        return window
    return min(window, num_running + max(_LEAST_SPARE, int(_SPARE_RATIO * num_running)))
