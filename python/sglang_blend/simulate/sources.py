"""Where prompt and output lengths come from: published means with a stated spread, or a trace CSV.

`SOURCES["burstgpt"]` names a fit; `read_trace(path)` reads the columns prompt_tokens and output_tokens;
`draw_lengths(source, num, rng)` gives lengths of either.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LengthFit:
    """A lognormal with a given mean, cut to a range; sigma 0 is a constant.

    Attributes:
        mean: tokens, of the cut distribution.
        sigma: of the logarithm.
        low, high: tokens, both allowed.
    """

    mean: float
    sigma: float
    low: int
    high: int

    def draw(self, num: int, rng: np.random.Generator) -> IntArray:
        """(num,) int64 lengths; the median is shifted until the cut distribution has the mean."""
        normal = rng.standard_normal(num)
        median = self.mean * float(np.exp(-(self.sigma**2) / 2.0))
        # The shift is found on fixed quantiles, so it does not depend on what was drawn.
        quantiles = np.exp(self.sigma * _QUANTILES)
        for _ in range(20):
            median *= self.mean / float(np.clip(median * quantiles, self.low, self.high).mean())
        return np.rint(np.clip(median * np.exp(self.sigma * normal), self.low, self.high)).astype(np.int64)


def _normal_quantiles(num: int) -> FloatArray:
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf((i + 0.5) / num) for i in range(num)])


_QUANTILES = _normal_quantiles(512)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of request.

    Attributes:
        name: for reports.
        prompt, output: lengths; for `trace` sources None.
        trace: (k, 2) int64 prompt and output lengths to draw rows from.
        num_groups: prefixes that its requests share besides the system prompt; 0 for none.
        group_prefix: lengths of these prefixes.
        output_known: whether the length follows from the request (video frames), so that the cap is exact.
        note: what the numbers are based on.
    """

    name: str
    prompt: LengthFit | None = None
    output: LengthFit | None = None
    trace: IntArray | None = None
    num_groups: int = 0
    group_prefix: LengthFit | None = None
    output_known: bool = False
    note: str = ""


# Means: BlendServe figure 2 and section 6.2. The spreads are ours: nobody published them.
SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="burstgpt",
            prompt=LengthFit(mean=244, sigma=1.0, low=8, high=4096),
            output=LengthFit(mean=27, sigma=1.0, low=1, high=512),
            note="means 244/27, sigma 1.0 assumed",
        ),
        Source(
            name="wildchat",
            prompt=LengthFit(mean=496, sigma=1.2, low=8, high=8192),
            output=LengthFit(mean=256, sigma=0.9, low=1, high=2048),
            note="means 496/256, sigmas assumed",
        ),
        Source(
            name="azure",
            prompt=LengthFit(mean=2508, sigma=0.8, low=16, high=16384),
            output=LengthFit(mean=23, sigma=0.8, low=1, high=512),
            note="means 2508/23, sigma 0.8 assumed",
        ),
        Source(
            name="sharegpt",
            prompt=LengthFit(mean=299, sigma=1.4, low=4, high=4096),
            output=LengthFit(mean=324, sigma=0.8, low=1, high=2048),
            note="means of the NanoFlow trace, sigmas assumed",
        ),
        Source(
            name="openvid",
            prompt=LengthFit(mean=121, sigma=0.3, low=32, high=512),
            output=LengthFit(mean=16384, sigma=0.4, low=4096, high=65536),
            output_known=True,
            note="prompt mean 121, frames x 256 normalised to a mean of 16384, sigma 0.4 assumed",
        ),
        Source(
            name="openvid-short",
            prompt=LengthFit(mean=121, sigma=0.3, low=32, high=512),
            output=LengthFit(mean=2150, sigma=0.4, low=500, high=6000),
            output_known=True,
            note="openvid scaled to a median near 2000 tokens, so that a small job has a steady state",
        ),
        Source(
            name="mmlu",
            prompt=LengthFit(mean=109, sigma=0.5, low=24, high=600),
            num_groups=57,
            group_prefix=LengthFit(mean=695, sigma=0.3, low=200, high=2000),
            output=LengthFit(mean=2, sigma=0.0, low=2, high=2),
            output_known=True,
            note="57 subjects, 5-shot prefix mean 695 + question mean 109 = 804, output 2, sharing 86.5%",
        ),
    )
}


def read_trace(path: Path) -> Source:
    """Reads a CSV (plain or gzip) with the columns prompt_tokens and output_tokens.

    Raises:
        InputError: unreadable, a column missing, a value that is no whole number from 1, or no row.
    """
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            reader = csv.DictReader(file)
            for column in ("prompt_tokens", "output_tokens"):
                if column not in (reader.fieldnames or ()):
                    raise InputError(
                        f"trace {str(path)!r} lacks the column {column!r}; needed are prompt_tokens, "
                        "output_tokens."
                    )
            rows = [(row["prompt_tokens"], row["output_tokens"]) for row in reader]
    except (OSError, UnicodeDecodeError, EOFError, csv.Error) as error:
        raise InputError(f"trace {str(path)!r} cannot be read ({error}); give a CSV file.") from error
    lengths = np.empty((len(rows), 2), dtype=np.int64)
    for at, (prompt, output) in enumerate(rows):
        try:
            lengths[at] = (int(prompt), int(output))
        except (TypeError, ValueError):
            raise InputError(
                f"trace {str(path)!r} line {at + 2} has {(prompt, output)}; allowed are whole numbers."
            ) from None
        if lengths[at, 0] < 1 or lengths[at, 1] < 0:
            raise InputError(
                f"trace {str(path)!r} line {at + 2} has lengths {prompt} and {output}; allowed are a "
                "prompt from 1 and an output from 0."
            )
    if not len(rows):
        raise InputError(f"trace {str(path)!r} has no requests; give at least one line after the header.")
    return Source(name=path.name.split(".")[0], trace=lengths, note=f"{len(rows)} rows of {path.name}")


def draw_lengths(source: Source, num: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """(num,) prompt and output lengths; rows of a trace are drawn together, without repeats while they
    last.
    """
    if source.trace is not None:
        repeats = -(-num // len(source.trace))
        rows = np.concatenate([rng.permutation(len(source.trace)) for _ in range(max(repeats, 1))])[:num]
        return source.trace[rows, 0], source.trace[rows, 1]
    assert source.prompt is not None, f"source {source.name} has no prompt lengths"
    assert source.output is not None, f"source {source.name} has no output lengths"
    return source.prompt.draw(num, rng), source.output.draw(num, rng)
