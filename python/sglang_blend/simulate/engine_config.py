"""Everything the simulated engine can be told, with the constants of the model in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from sglang_blend.cost.hardware import Hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import ConfigError
from sglang_blend.request import POLICIES
from sglang_blend.simulate.kv_pool import EvictionPolicy

Mode = Literal["default", "mixed", "pdmux", "overlap"]
AdmissionPolicy = Literal["peak", "ratio", "reserve"]
Queue = Literal["fcfs", "lpm", "dfs-weight"]
MODES: tuple[Mode, ...] = get_args(Mode)
_STOCK_QUEUES: dict[str, Queue] = {name: name for name in get_args(Queue)}
SIMULATED_POLICIES = (*POLICIES, *_STOCK_QUEUES)
# A job feeds twice what can run, and never less than this (`job.offline`).
_LEAST_WINDOW = 256

# SGLang's chunked prefill size on large accelerators; mixed steps do better with less.
_CHUNK_TOKENS: dict[str, int] = {"default": 8192, "mixed": 2048, "pdmux": 4096}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """One engine to simulate.

    Attributes:
        mode: how a step combines prefill and decode.
            default: a step is prefill or decode, prefill first (SGLang without flags);
            mixed: prefill chunks ride with decode, operators one after the other (`--enable-mixed-chunk`);
            overlap: the same step, GEMM and attention side by side (NanoFlow, the paper's engine);
            pdmux: decode and prefill on separate parts of the multiprocessors (`--enable-pdmux`).
        chunk_tokens: token budget of a step with prefill, decode included; None takes the mode's own.
        paced: whether overlap and mixed steps take the token budget n* of our scheduler instead, up to
            `chunk_tokens`.
        admission: who decides when a request may start.
            peak: our scheduler, the same code that runs inside SGLang, by the expected peak of memory;
            ratio: SGLang's new_token_ratio, falling from `ratio_start` to `ratio_end`, raised by retraction;
            reserve: SGLang's rule with all of max_new_tokens reserved.
        eviction: "lru" as SGLang, or "demand": what waiting requests need goes last.
        queue: how SGLang's own rules order those that wait: "fcfs", or "lpm" and "dfs-weight" by what is
            cached. Our scheduler follows the plan.
        interference: share of the shorter side that an overlapped step loses.
        step_overhead_s: host time of a step that the GPU waits for.
        pdmux_bandwidth_gain: decode on a share x of the multiprocessors reaches min(1, gain * x) of
            the bandwidth.
        pdmux_contention, pdmux_prefill_contention: slow-down of decode and of prefill while they share the
            device.
        pdmux_splits: shares x to choose from, rising; by default what SGLang offers on 132 multiprocessors.
        max_running: requests in the running batch.
        refresh_steps: steps between looks at the remaining work (split of the multiprocessors).
        ratio_start, ratio_end, ratio_decay_steps: SGLang's new_token_ratio.
        clip_new_tokens: SGLang's CLIP_MAX_NEW_TOKENS: more than this is never reserved for one request.
    """

    mode: Mode = "default"
    chunk_tokens: int | None = None
    paced: bool = False
    admission: AdmissionPolicy = "ratio"
    eviction: EvictionPolicy = "lru"
    queue: Queue = "fcfs"
    interference: float = 0.07
    step_overhead_s: float = 0.0005
    pdmux_bandwidth_gain: float = 2.75
    pdmux_contention: float = 1.05
    pdmux_prefill_contention: float = 1.05
    pdmux_splits: tuple[float, ...] = (20 / 132, 28 / 132, 36 / 132, 44 / 132, 52 / 132, 60 / 132)
    max_running: int = 4096
    refresh_steps: int = 8
    ratio_start: float = 0.7
    ratio_end: float = 0.098
    ratio_decay_steps: int = 600
    clip_new_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} is unknown; allowed are {', '.join(MODES)}.")
        if self.admission not in get_args(AdmissionPolicy):
            raise ConfigError(
                f"admission {self.admission!r} is unknown; allowed are "
                f"{', '.join(get_args(AdmissionPolicy))}."
            )
        kinds = (("eviction", EvictionPolicy), ("queue", Queue))
        for name, kind in kinds:
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"{name} {getattr(self, name)!r} is unknown; allowed are {', '.join(get_args(kind))}."
                )
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise ConfigError(
                f"chunk_tokens is {self.chunk_tokens}, allowed is 1 or more; correct --chunk-tokens."
            )

    @property
    def window(self) -> int:
        """Requests that a job keeps in the engine, running and waiting."""
        return max(2 * self.max_running, _LEAST_WINDOW)

    def on(self, hardware: Hardware) -> EngineConfig:
        """The same engine with the constants that were measured on a machine; others stay."""
        measured = hardware.measured
        if measured is None:
            return self
        return replace(
            self,
            step_overhead_s=measured.step_overhead_s or self.step_overhead_s,
            pdmux_bandwidth_gain=measured.bandwidth_gain or self.pdmux_bandwidth_gain,
            pdmux_contention=measured.contention or self.pdmux_contention,
            pdmux_prefill_contention=measured.gemm_contention or self.pdmux_prefill_contention,
            pdmux_splits=measured.sm_shares or self.pdmux_splits,
        )

    def under(self, policy: str) -> EngineConfig:
        """The same engine as a schedule policy of SGLang or of ours runs it.

        Ours pace mixed chunk, and divide the multiprocessors by the work that is left. Stock goes by the
        number of decoding requests: from 36 on, nearly always here, decode has the largest share.

        Args:
            policy: one of `SIMULATED_POLICIES`.

        Raises:
            ConfigError: another one; it is not modelled.
        """
        if policy in POLICIES:
            return replace(
                self,
                paced=self.paced or self.mode == "mixed",
                admission="peak",
                eviction="demand",
            )
        if (queue := _STOCK_QUEUES.get(policy)) is not None:
            return replace(
                self,
                paced=False,
                admission="ratio",
                eviction="lru",
                queue=queue,
            )
        allowed = ", ".join(SIMULATED_POLICIES)
        raise ConfigError(f"policy {policy!r} is not simulated; {allowed} are.")

    def budget_tokens(self, cost: RooflineCost) -> int:
        """The largest number of tokens in a step with prefill.

        In overlap mode it is the balanced step: as many tokens as GEMMs take while the weights and a full
        pool are read.
        """
        if self.chunk_tokens is not None:
            return self.chunk_tokens
        if self.mode != "overlap":
            return _CHUNK_TOKENS[self.mode]
        sweep_s = cost.weight_s(1.0) + cost.kv_pool_tokens * sum(cost.kv_read_s)
        return max(64, int(sweep_s / cost.token_s))
