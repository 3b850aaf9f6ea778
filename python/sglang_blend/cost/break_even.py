"""When it pays to read a shared run of KV once for all of its readers.

A group costs a kernel call of its own, and the results of each reader have to be merged with those of its
other parts. What is read once is still multiplied with each reader's query, which on a CPU is not hidden
behind the read. All are stated in tokens: how many KV tokens of one request could be read in that time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sglang_blend.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """Costs of a shared run, in KV tokens that plain decode reads in the same time.

    Attributes:
        group_tokens: of the group's own kernel call.
        reader_tokens: of merging one reader's results.
        query_tokens: of multiplying one token of the run with one reader's query.
    """

    group_tokens: float
    reader_tokens: float
    query_tokens: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is {value}; a finite number of tokens from 0 is allowed.")

    def gain_tokens(self, num_readers: Any, num_tokens: Any) -> Any:
        """KV tokens saved by a step that reads `num_tokens` once for `num_readers`, less what it costs.

        Negative where reading apart is cheaper. Numbers, or arrays of one shape.
        """
        saved = (num_readers * (1.0 - self.query_tokens) - 1.0) * num_tokens
        return saved - self.group_tokens - self.reader_tokens * num_readers

    def pays(self, num_readers: int, num_tokens: int) -> bool:
        """Whether the run is worth a group of its own."""
        return bool(self.gain_tokens(num_readers, num_tokens) > 0)


# On the CPU platform: what scripts/bench_break_even.py measured, rather more, see docs/attention.md.
CPU = BreakEven(group_tokens=1000, reader_tokens=16, query_tokens=0.08)
# On an accelerator; a guess until scripts/bench_break_even.py has run on one: a kernel launch of some
# microseconds, while a GPU reads a token's KV of one layer in about a nanosecond.
GPU = BreakEven(group_tokens=4096, reader_tokens=16)


def break_even_of(device_name: str) -> BreakEven:
    """What reading together costs on a device ("NVIDIA H200", "cpu", ...)."""
    return CPU if device_name == "cpu" else GPU
