"""What a job did, in numbers: collected while it runs, printed and saved at its end."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from sglang_blend.job.engine import Answer
from sglang_blend.job.records import Rejection


@dataclass(kw_only=True)
class Tally:
    """Counts that grow as requests finish; the only mutable part of a job's bookkeeping."""

    ok: int = 0
    failed_by_code: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

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

    def add_rejection(self, rejection: Rejection) -> None:
        """Count a refused line."""
        self.failed_by_code[rejection.code] += 1

    @property
    def failed(self) -> int:
        return self.failed_by_code.total()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The end of a job. Times in seconds; `generate_s` is first submit to last result (the makespan).

    `sharing_possible` is the share (0 to 1) of prompt tokens that the prefix tree of the accepted lines
    shares; `cached_tokens / prompt_tokens` is what the engine's radix cache really served.
    """

    file: str
    output: str
    error_file: str
    order: str
    complete: bool
    ok: int
    failed: int
    failed_by_code: dict[str, int]
    not_run: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    sharing_possible: float
    sharing_kept_planned: float
    start_engine_s: float
    prepare_s: float
    generate_s: float
    wall_s: float
    config: dict[str, Any]

    @property
    def sharing_achieved(self) -> float:
        """Cached share (0 to 1) of the prompt tokens, as the engine measured it."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Prompt and output tokens over `generate_s`."""
        return (self.prompt_tokens + self.output_tokens) / self.generate_s if self.generate_s else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "sharing_achieved": self.sharing_achieved, "tokens_per_s": self.tokens_per_s}

    def save(self, path: Path) -> None:
        """Write JSON under a temporary name, then rename."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(orjson.dumps(self.to_json(), option=orjson.OPT_INDENT_2) + b"\n")
        temporary.replace(path)

    def text(self) -> str:
        """A few lines for the screen."""
        title = "finished" if self.complete else f"stopped with {self.not_run} requests not run"
        reasons = ", ".join(f"{code} {n}" for code, n in sorted(self.failed_by_code.items()))
        rows = [
            ("requests", f"{self.ok} ok, {self.failed} failed" + (f" ({reasons})" if reasons else "")),
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
            ("output", self.output),
        ]
        if self.failed:
            rows.append(("errors", self.error_file))
        return "\n".join([f"Job {title}.", *(f"  {name:<11}{value}" for name, value in rows)])
