"""What of the scheduler can be switched off, and what it counts of its decisions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions:
    """What can be switched off, to measure what it is worth.

    Attributes:
        leader_rule: one request computes a new prefix, its sharers wait for it.
        peak_admission: admit by the expected peak of memory; False reserves as stock SGLang does.
        paced_budget: in mixed chunk, prefill beside decode only as much as keeps compute and KV reads in the
            proportion of the whole job (n*); False fills the chunk.
    """

    leader_rule: bool = True
    peak_admission: bool = True
    paced_budget: bool = True


@dataclass
class Counters:
    """What was decided since the start, all counts; in `/server_info` as `blend.policy.counters`.

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
