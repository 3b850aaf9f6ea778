"""What a job did, in numbers: collected while it runs, printed and saved at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import orjson

from sglang_blend.console import counted
from sglang_blend.location import Location, replace_small
from sglang_blend.request import REFUSED, Answer, Failure, Rejection


class Usage(NamedTuple):
    """Tokens of one answer."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int

    @classmethod
    def of_body(cls, body: object) -> Usage | None:
        """By the `usage` of a body, 0 for what it does not tell; None where that is no usage at all."""
        usage = body.get("usage") if isinstance(body, dict) else None
        usage = {} if usage is None else usage
        details = (usage.get("prompt_tokens_details") if isinstance(usage, dict) else None) or {}
        if not isinstance(usage, dict) or not isinstance(details, dict):
            return None
        counts = (usage.get("prompt_tokens"), details.get("cached_tokens"), usage.get("completion_tokens"))
        return cls(*(count or 0 for count in counts)) if all(map(_is_count, counts)) else None


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and value >= 0)


@dataclass(kw_only=True)
class Tally:
    """Counts that grow as requests finish; the only mutable part of a job's bookkeeping.

    `num_unsettled` is how many of the failed lines could end differently when they are tried again.
    """

    ok: int = 0
    failed_by_code: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    num_unsettled: int = 0

    def add_answer(self, answer: Answer) -> None:
        """Count an answer with status 200."""
        self.ok += 1
        self.prompt_tokens += answer.prompt_tokens
        self.cached_tokens += answer.cached_tokens
        self.output_tokens += answer.output_tokens

    def add_refused_answer(self, answer: Answer) -> None:
        """Count an answer with a status other than 200."""
        code = answer.body["error"]["code"] or answer.status_code
        self.failed_by_code[str(code)] += 1
        self.num_unsettled += answer.status_code != REFUSED

    def add_earlier_answer(self, usage: Usage) -> None:
        """Count an answer of an earlier run."""
        self.ok += 1
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.output_tokens += usage.output_tokens

    def add_earlier_error(self, code: str, *, is_refusal: bool) -> None:
        """Count a failed line of an earlier run."""
        self.failed_by_code[code] += 1
        self.num_unsettled += not is_refusal

    def add_failure(self, failure: Failure) -> None:
        """Count a request that got no answer."""
        self.failed_by_code[failure.code] += 1
        self.num_unsettled += 1

    def add_rejection(self, rejection: Rejection) -> None:
        """Count a refused line."""
        self.failed_by_code[rejection.code] += 1
        self.num_unsettled += rejection.status_code != REFUSED

    @property
    def failed(self) -> int:
        return self.failed_by_code.total()

    @property
    def total(self) -> int:
        return self.ok + self.failed

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Tally)})


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The end of a job. Times in seconds; `generate_s` is first submit to last result (the makespan).

    Counts and tokens are those of the whole job; `resumed_ok` and `resumed_failed` say how many of the lines
    were finished by earlier runs, `run_tokens` how many prompt and output tokens this run alone took.
    `peak_memory_bytes` is the largest resident memory of the process that reads, plans and writes.

    `start_engine_s` is how long the job had to wait for the engine; the model loads while requests are
    prepared. `stopped_by` names the signal that ended the job before its time. `num_restarts` counts the
    engines started in place of dead ones, `num_retries` the requests sent again because of that; requests
    that killed the engine are in `failed_by_code["engine_crash"]`. With `num_replicas` above 1 both count
    those of all replicas.

    `sharing_possible` is the share (0 to 1) of prompt tokens that the prefix tree of the accepted lines
    shares; `cached_tokens / prompt_tokens` is what the engine's radix cache really served. `sampled` requests
    ran first to learn output lengths; if none, `sample_skipped` says why.
    """

    file: str
    output: str
    error_file: str
    order: str
    order_reason: str
    sampled: int
    sample_skipped: str
    complete: bool
    ok: int
    failed: int
    failed_by_code: dict[str, int]
    not_run: int
    resumed_ok: int
    resumed_failed: int
    stopped_by: str | None
    num_restarts: int
    num_retries: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    run_tokens: int
    sharing_possible: float
    sharing_kept_planned: float
    read_s: float
    start_engine_s: float
    prepare_s: float
    generate_s: float
    wall_s: float
    peak_memory_bytes: int
    config: dict[str, Any]
    num_replicas: int = 1

    @property
    def sharing_achieved(self) -> float:
        """Cached share (0 to 1) of the prompt tokens, as the engine measured it."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Prompt and output tokens of this run over `generate_s`."""
        return self.run_tokens / self.generate_s if self.generate_s else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "sharing_achieved": self.sharing_achieved, "tokens_per_s": self.tokens_per_s}

    def save(self, place: Location) -> None:
        """Write JSON, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        replace_small(place, orjson.dumps(self.to_json(), option=orjson.OPT_INDENT_2) + b"\n")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Summary:
        """What `to_json` gave.

        Raises:
            TypeError: it is of another version, which had not all the fields.
        """
        names = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def text(self) -> str:
        """A few lines for the screen."""
        title = "finished" if self.complete else f"stopped with {counted(self.not_run, 'request')} not run"
        reasons = ", ".join(f"{code} {n}" for code, n in sorted(self.failed_by_code.items()))
        resumed = self.resumed_ok + self.resumed_failed
        rows = [
            (
                "requests",
                f"{self.ok} ok, {self.failed} failed"
                + (f" ({reasons})" if reasons else "")
                + (f"; {resumed} of them finished earlier" if resumed else ""),
            ),
            (
                "tokens",
                f"{self.prompt_tokens:,} prompt ({self.cached_tokens:,} from the cache), "
                f"{self.output_tokens:,} output",
            ),
            (
                "sharing",
                f"{self.sharing_achieved:.1%} of prompt tokens achieved, "
                f"{self.sharing_possible:.1%} possible (order {self.order})",
            ),
            (
                "time",
                f"{self.wall_s:.1f} s wall: engine start {self.start_engine_s:.1f}, "
                f"prepare {self.prepare_s:.1f}, generate {self.generate_s:.1f}",
            ),
            ("throughput", f"{self.tokens_per_s:,.0f} tok/s (prompt and output, while generating)"),
            ("memory", f"{self.peak_memory_bytes / 2**30:.2f} GiB at most, beside the engine's processes"),
            ("output", self.output),
        ]
        if self.order_reason:
            rows.insert(3, ("order", self.order_reason))
        if self.sampled:
            rows.insert(
                3, ("sample", f"{counted(self.sampled, 'request')} ran first to learn output lengths")
            )
        elif self.sample_skipped:
            rows.insert(3, ("sample", f"none: {self.sample_skipped}"))
        if self.num_replicas > 1:
            rows.insert(1, ("replicas", f"{self.num_replicas} engines shared the job"))
        if self.num_restarts:
            restarts = counted(self.num_restarts, "restart")
            rows.insert(1, ("engine", f"{restarts}, {counted(self.num_retries, 'request')} sent again"))
        if self.failed:
            rows.append(("errors", self.error_file))
        return "\n".join([f"Job {title}.", *(f"  {name:<11}{value}" for name, value in rows)])
