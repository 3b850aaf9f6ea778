"""What the scheduler counts of its decisions; in `/server_info` as `blend.policy.counters`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """Since the start; all counts.

    Attributes:
        admitted: requests admitted, again after a retraction.
        skipped: times that a request waited a pass for the prefix of another.
        finished: requests that ended by themselves.
        early, overrun: of those, by more than a quarter shorter or longer than expected.
        relocated: left requests that ran so far over that they count on the right.
        retracted: requests whose memory was taken back; they are computed again.
        refused_hints: requests whose hints could not be used.
        plans: pools planned here, without hints.
        paced_passes: prefill passes in mixed chunk that were given less than a chunk.
        admission_s: seconds spent on deciding about single requests.
    """

    admitted: int = 0
    skipped: int = 0
    finished: int = 0
    early: int = 0
    overrun: int = 0
    relocated: int = 0
    retracted: int = 0
    refused_hints: int = 0
    plans: int = 0
    paced_passes: int = 0
    admission_s: float = 0.0
