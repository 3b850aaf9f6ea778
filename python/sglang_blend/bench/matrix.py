"""What a benchmark runs: policies, orders, shuffles."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from sglang_blend.core import order_names
from sglang_blend.errors import ConfigError
from sglang_blend.location import Location, location
from sglang_blend.request import POLICIES

# In place of an order: fed as the file comes and without hints, so that our policies plan their own queue.
UNPLANNED = "unplanned"


class Contender(NamedTuple):
    """A schedule policy and the order in which it is fed.

    Stock policies are fed in the shuffled order of the file unless another is named; ours in their plan.
    """

    policy: str
    order: str

    @property
    def name(self) -> str:
        """As the user writes it."""
        default = self.policy if self.policy in POLICIES else "fcfs"
        return self.policy if self.order == default else f"{self.policy}@{self.order}"

    @classmethod
    def parse(cls, text: str) -> Contender:
        """From `POLICY` or `POLICY@ORDER`; SGLang checks the policy when the engine starts.

        Raises:
            ConfigError: the order is unknown.
        """
        policy, at, order = text.strip().partition("@")
        if not at:
            return cls(policy, policy if policy in POLICIES else "fcfs")
        allowed = (*order_names(), UNPLANNED)
        if order not in allowed:
            raise ConfigError(
                f"--policies {text!r}: order {order!r} is unknown; the orders are {', '.join(allowed)}."
            )
        return cls(policy, order)


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What one worker runs.

    Attributes:
        file: the batch file, or table of prompts.
        reading: how it is read, the attributes of a `config.Reading`.
        contenders: as text; they have one policy.
        num_shuffles: orders of the lines.
        first_shuffle: the first of them to run, from 0.
        minutes: since the worker's start; a shuffle that would end later, if it took as long as the longest
            so far, is left out. None runs all.
        limit: lines to take after the first shuffle; None takes all.
        window: requests with the engine at a time; None as for a job.
        num_warm_up: requests that run before anything is measured; 0 for none.
        engine_argv: SGLang's flags, the same for every worker.
    """

    file: str
    contenders: list[str]
    num_shuffles: int
    first_shuffle: int
    minutes: float | None
    limit: int | None
    window: int | None
    num_warm_up: int
    engine_argv: list[str]
    reading: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Location:
        """Where the file lies."""
        return location(self.file)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
