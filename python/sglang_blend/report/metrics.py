"""Every figure of a report: its value, unit, source and definition, in one place.

A figure whose records are missing is None and is not shown. "Modelled" means by the cost model (`cost`) with
the hardware record that is named in the report's configuration: arithmetic, not a measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sglang_blend.report.records import JobRecord
from sglang_blend.report.timeline import Timeline

Unit = str  # "s", "tok/s", "tokens", "ratio" (0 to 1), "count", "density"


class Figure(NamedTuple):
    """A number and how to read it. `better`: +1 where more is better, -1 where less is, 0 neither."""

    name: str
    value: float | None
    unit: Unit
    definition: str
    better: int = 0


class LengthError(NamedTuple):
    """Expected against true output lengths over the sampled requests, tokens.

    Attributes:
        num_requests: how many are compared.
        mean_error: mean of |expected - true|.
        bias: mean of expected - true; below 0, outputs were longer than expected.
        under_ratio: share of requests that were longer than expected.
        total_ratio: sum of the expected over the sum of the true lengths.
    """

    num_requests: int
    mean_error: float
    bias: float
    under_ratio: float
    total_ratio: float


@dataclass(frozen=True)
class Metrics:
    """Computed from the records; properties are documented by the texts that the report shows."""

    job: JobRecord
    timeline: Timeline | None

    def _of_ends(self, read: Callable[[dict[str, Any]], float | None]) -> float:
        return float(sum(read(run.end) or 0 for run in self.job.runs if run.end))

    @property
    def makespan_s(self) -> float | None:
        """First submit to last result, seconds, summed over the runs of a resumed job; loading excluded."""
        seconds = self._of_ends(lambda end: end["seconds"].get("generate"))
        return seconds or self.job.summary.get("generate_s") or None

    @property
    def tokens(self) -> tuple[float, float]:
        """(prompt, output) tokens of the requests that were answered in the recorded runs."""
        if not any(run.end for run in self.job.runs):
            return self.job.summary["prompt_tokens"], self.job.summary["output_tokens"]
        return (
            self._of_ends(lambda end: end["prompt_tokens"]),
            self._of_ends(lambda end: end["output_tokens"]),
        )

    @property
    def throughput(self) -> float | None:
        """Prompt and output tokens over the makespan, tokens per second."""
        return _ratio(sum(self.tokens), self.makespan_s)

    @property
    def optimum_s(self) -> float | None:
        """max(compute, KV reads) of the job, every shared prefix computed once, modelled; the paper's T_o
        (BlendServe, section 3.3). With the true output lengths of finished requests.
        """
        bounds = [run.plan["bounds"]["optimum_s"] for run in self.job.runs if "bounds" in run.plan]
        return sum(bounds) or None

    @property
    def predicted_s(self) -> float | None:
        """Simulated makespan of the order that was taken, by what was known when the plan was made."""
        found = [run.plan.get("predicted", {}).get("makespan_s") for run in self.job.runs]
        return None if None in found else sum(found) or None

    @property
    def sharing_possible(self) -> float | None:
        """Share (0 to 1) of the prompt tokens that a perfect prefix cache would not compute."""
        possible = self.job.plan.get("sharing_possible", self.job.summary.get("sharing_possible"))
        return None if possible is None else float(possible)

    @property
    def sharing_achieved(self) -> float | None:
        """Share (0 to 1) of the prompt tokens that came from the engine's cache, as it counted."""
        return _ratio(self.job.summary["cached_tokens"], self.job.summary["prompt_tokens"])

    @property
    def sharing_kept(self) -> float | None:
        """Achieved over possible sharing."""
        if self.sharing_achieved is None or not self.sharing_possible:
            return None
        return self.sharing_achieved / self.sharing_possible

    def total(self, name: str) -> float | None:
        """A count of the schedulers, summed over runs and ranks (of the engine that was last in each run)."""
        counts = [
            scheduler["totals"].get(name)
            for run in self.job.runs
            for scheduler in run.end.get("schedulers", ())
            if "totals" in scheduler
        ]
        known = [count for count in counts if count is not None]
        return float(sum(known)) if known else None

    @property
    def latencies_s(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Submit to finish of the sampled requests, sorted, seconds; waiting inside the engine included."""
        found = [run.requests["sample"].get("latency_s", []) for run in self.job.runs if run.requests]
        return np.sort(np.array([second for part in found for second in part], np.float64))

    @property
    def length_pairs(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(expected, true) output lengths of the sampled requests that had an expectation, tokens."""
        expected: list[float] = []
        true: list[float] = []
        for run in self.job.runs:
            sample = run.requests.get("sample", {})
            for est, got in zip(sample.get("est_output_len", ()), sample.get("output_len", ()), strict=True):
                if est is not None:
                    expected.append(est)
                    true.append(got)
        return np.array(expected, np.float64), np.array(true, np.float64)

    @property
    def length_error(self) -> LengthError | None:
        """How good the expectations were."""
        expected, true = self.length_pairs
        if not len(true):
            return None
        error = expected - true
        return LengthError(
            len(true),
            float(np.abs(error).mean()),
            float(error.mean()),
            float((error < 0).mean()),
            float(expected.sum() / max(true.sum(), 1)),
        )

    def headline(self) -> list[Figure]:
        """The figures that stand first."""
        prompt, output = self.tokens
        predicted, optimum, makespan = self.predicted_s, self.optimum_s, self.makespan_s
        return [
            Figure(
                "Throughput", self.throughput, "tok/s",
                "Prompt and output tokens of the answered requests over the makespan.", 1,
            ),
            Figure(
                "Makespan", makespan, "s",
                "First submit to last result; loading the model and tokenizing are not in it.", -1,
            ),
            Figure(
                "Of the optimum", _ratio(optimum, makespan), "ratio",
                "max(compute, KV reads) of the job, modelled, over the makespan: 100% is perfect overlap of "
                "compute and memory traffic with every shared prefix computed once.", 1,
            ),
            Figure(
                "Predicted makespan", predicted, "s",
                "Simulated for the chosen order before the run, with the expected output lengths.",
            ),
            Figure(
                "Sharing possible", self.sharing_possible, "ratio",
                "Share of the prompt tokens that a perfect prefix cache would not compute.",
            ),
            Figure(
                "Sharing kept", self.sharing_kept, "ratio",
                "Prompt tokens that came from the cache over those that could have.", 1,
            ),
            Figure(
                "Prompt tokens", prompt, "tokens", "Of the answered requests, shared ones counted each time."
            ),
            Figure("Output tokens", output, "tokens", "Of the answered requests."),
        ]  # fmt: skip

    def engine(self) -> list[Figure]:
        """How the engine was used."""
        line, makespan = self.timeline, self.makespan_s
        figures = [
            Figure("Forward passes", self.total("steps"), "count", "Steps of the scheduler."),
            Figure(
                "Retractions", self.total("retracted"), "count",
                "Requests whose KV memory was taken back; they are computed again.", -1,
            ),
            Figure(
                "Recomputed tokens", self.total("recomputed_tokens"), "tokens",
                "Tokens computed again after a retraction.", -1,
            ),
        ]  # fmt: skip
        if line is not None:
            figures += [
                Figure(
                    "Compute use", line.compute_use, "ratio",
                    "Modelled compute seconds of all steps over the time of the engine.", 1,
                ),
                Figure(
                    "Memory use", line.memory_use, "ratio",
                    "Modelled seconds of KV and weight reads of all steps over the time of the engine.", 1,
                ),
                Figure(
                    "Mean batch", line.mean_batch, "count",
                    "Requests that decode in a step that decodes, mean over steps.",
                ),
                Figure(
                    "KV pool in use", line.mean_kv_occupancy, "ratio",
                    "Tokens that running requests hold over the pool, mean over time.",
                ),
                Figure(
                    "Tail", line.tail_s, "s",
                    "From the last moment when a request waited in the scheduler to the end.", -1,
                ),
                Figure(
                    "Tail share", _ratio(line.tail_s, makespan), "ratio", "The tail over the makespan.", -1
                ),
            ]  # fmt: skip
        return figures

    def latency(self) -> list[Figure]:
        """Percentiles over the sampled requests."""
        seconds = self.latencies_s
        if not len(seconds):
            return []
        text = "Submit to finish: {} of the sampled requests took no longer."
        figures = [
            Figure(f"p{percent}", float(np.percentile(seconds, percent)), "s", text.format(f"{percent}%"), -1)
            for percent in (50, 90, 95, 99)
        ]
        longest = max(run.requests.get("longest_latency_s", 0.0) for run in self.job.runs if run.requests)
        return [*figures, Figure("Longest", longest, "s", "Of all requests, not only the sampled ones.", -1)]


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
