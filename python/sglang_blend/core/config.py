"""What a plan can be told: one frozen config, with every default of planning in it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sglang_blend.errors import PlanError

_LEAST = {"page_size": 1, "min_samples": 1, "min_left_requests": 1, "num_replicas": 1, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How to plan a job. The same requests, config and seed give the same schedule, byte for byte.

    Attributes:
        order: name of an order in the registry; `auto` takes the one with the lowest predicted makespan.
        seed: of every random choice.
        page_size: tokens of a KV page; only whole pages are shared.
        sharing_loss: largest part (0 to 1) of the possible sharing, and of the tokens that must be computed
            in any case, that an order may give up for a better mix.
        sample_ratio: share of the requests of unknown length to run first, to learn output lengths from.
        min_samples: sampled requests that a subtree needs before its mean is trusted; else its parent is
            asked.
        admission_quantile: quantile of the sampled lengths that memory is reserved by.
        unsampled_ratio: expected output over `max_new_tokens` while nothing has been sampled.
        unsampled_admission_ratio: the same for admission; SGLang starts with 0.7 (`--init-new-token-ratio`).
        right_class_ratio: dual-scan shuffles memory-intensive units whose densities lie within this factor,
            so that requests of one length do not come and go together; 1.0 keeps the paper's strict order.
        min_left_requests: whole requests that the left scanner's memory always has room for.
        early_tail: dual-scan starts long right requests early enough to end with the job; the paper does not.
        occupancy_ratio: part of the KV pool that a running job fills on average.
        unit_work_ratio: stationary: largest share of the job's work in a unit that stays together.
        num_replicas: engines that the job is cut for; units are so much smaller.
        min_blend_gain: auto: smallest gain that full overlap must promise before it plans more than dfs.
    """

    order: str = "auto"
    seed: int = 0
    page_size: int = 1
    sharing_loss: float = 0.01
    sample_ratio: float = 0.01
    min_samples: int = 3
    admission_quantile: float = 0.9
    unsampled_ratio: float = 0.5
    unsampled_admission_ratio: float = 0.7
    right_class_ratio: float = 2.0
    min_left_requests: int = 2
    early_tail: bool = True
    occupancy_ratio: float = 0.85
    unit_work_ratio: float = 0.01
    num_replicas: int = 1
    min_blend_gain: float = 0.02

    def __post_init__(self) -> None:
        for name in (
            "sharing_loss",
            "sample_ratio",
            "admission_quantile",
            "unsampled_ratio",
            "unsampled_admission_ratio",
            "occupancy_ratio",
            "unit_work_ratio",
        ):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise PlanError(f"{name} is {value}; a share from 0 to 1 is allowed")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise PlanError(f"{name} is {value}; {least} or more is allowed")
        if not (math.isfinite(self.right_class_ratio) and self.right_class_ratio >= 1.0):
            raise PlanError(f"right_class_ratio is {self.right_class_ratio}; 1 or more is allowed")
        if self.occupancy_ratio == 0.0:
            raise PlanError("occupancy_ratio is 0; a share above 0 is needed, such as 0.85")

    @property
    def unit_work_of_part_ratio(self) -> float:
        """`unit_work_ratio` of a replica's part, as a share of the whole job."""
        return self.unit_work_ratio / self.num_replicas

    def to_json(self) -> dict[str, Any]:
        """The config as JSON values, for the schedule file."""
        return asdict(self)
