"""How long outputs turn out to be: what the plan says, or what is learnt while requests run.

`PlannedLen` carries the plan's estimate. Where the plan had to guess, a `LengthClass` learns from all
requests whose cap has the same power of two. What finishes first is short, so the mean of finished lengths
alone would be far too low while the long ones still run; the class therefore estimates the survival function
S(t), the share of outputs longer than t, from finished and running requests together (Kaplan-Meier), with a
weak uniform prior up to the cap. A request that has generated g tokens is expected to add the mean of what S
leaves beyond g.

Source: BlendServe, arXiv:2411.16102, section 5.4 asks for online adaptation and leaves the estimate open.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from typing import NamedTuple, Protocol

import numpy as np

# Of each class the newest lengths are kept, so that a shift in the job is followed.
_KEPT = 256
# The prior: so many pseudo-requests, evenly spread over the cap, weigh together as much as two real ones.
_PRIOR_POINTS, _PRIOR_WEIGHT = 16, 2.0
# The estimate is made again when this part of what it rests on is new.
_NEWS_RATIO = 1 / 16
_HIGH_QUANTILE = 0.9
_LEAST_REMAINING = 8.0


class ExpectedLen(NamedTuple):
    """Tokens that a request is expected to add: the mean, and the quantile to be safe with."""

    mean: float
    high: float


class ExpectedOutput(Protocol):
    """What is known of a request's output length.

    Attributes:
        version: changes when it has been learnt anew.
    """

    version: int

    def doubt(self, num_generated: int) -> float:
        """How far the estimate of what comes after `num_generated` may itself be off, for all requests alike.

        0 to 1, a part of the distance from its mean to its high quantile.
        """

    def mean(self, max_new_tokens: int) -> float:
        """Tokens of the whole output of a request that has not begun, within the cap."""

    def remaining(self, num_generated: int, max_new_tokens: int) -> ExpectedLen:
        """Tokens to come after `num_generated`, within the cap."""


class PlannedLen:
    """The plan's estimate: what is left of it, or an eighth of what was generated, at least 8 tokens.

    The formula is that of `core.output_length.remaining_len`.
    """

    version = 0

    def __init__(self, mean: float, high: float) -> None:
        self._mean, self._high = mean, max(mean, high)

    def mean(self, max_new_tokens: int) -> float:
        """See `ExpectedOutput`: as the plan says, while what is to come is never less than 8 tokens."""
        return min(self._mean, max_new_tokens)

    def remaining(self, num_generated: int, max_new_tokens: int) -> ExpectedLen:
        """See `ExpectedOutput`."""
        room = max(max_new_tokens - num_generated, 0)
        least = max(num_generated / 8, _LEAST_REMAINING)
        mean = min(max(self._mean - num_generated, least), room)
        return ExpectedLen(mean, min(max(self._high - num_generated, least), room))

    def doubt(self, num_generated: int) -> float:
        """None: the plan has sampled, or the length is fixed."""
        return 0.0


class LengthClass:
    """Output lengths of requests with similar caps; `refresh` after observing."""

    def __init__(self, most_tokens: int) -> None:
        """Start from the prior alone.

        Args:
            most_tokens: the largest cap in the class.
        """
        self.version = 0
        self._finished: deque[int] = deque(maxlen=_KEPT)
        self._num_new = 0
        self._prior = np.linspace(most_tokens / _PRIOR_POINTS, most_tokens, _PRIOR_POINTS)
        self._lengths: list[int] = []
        self._time: list[float] = []
        self._survival: list[float] = []
        self._area: list[float] = []
        self.refresh([])

    def observe(self, output_len: int) -> None:
        """A request of the class has finished by itself."""
        self._finished.append(output_len)
        self._num_new += 1

    @property
    def has_news(self) -> bool:
        """Whether enough has finished since the last `refresh` to change the estimate."""
        return self._num_new > len(self._finished) * _NEWS_RATIO

    def refresh(self, running: list[int]) -> None:
        """Estimate S again.

        Args:
            running: tokens that each running request of the class has generated.
        """
        self._lengths = sorted(self._finished)
        events = np.concatenate([self._prior, np.array(self._finished, np.float64)])
        weight = np.concatenate(
            [np.full(_PRIOR_POINTS, _PRIOR_WEIGHT / _PRIOR_POINTS), np.ones(len(self._finished))]
        )
        time, which = np.unique(events, return_inverse=True)
        ended = np.bincount(which, weight)
        # Weight of those that are known to have lasted until each time.
        at_risk = np.cumsum(ended[::-1])[::-1]
        ages = np.sort(np.array(running, np.float64))
        at_risk = at_risk + len(ages) - np.searchsorted(ages, time)
        survival = np.cumprod(1.0 - ended / at_risk)
        # S is 1 up to the first time, then survival[i] from time[i] on.
        self._time = [0.0, *time.tolist()]
        self._survival = [1.0, *survival.tolist()]
        width = np.diff(np.array(self._time))
        self._area = [0.0, *np.cumsum(width * np.array(self._survival[:-1])).tolist()]
        self._num_new = 0
        self.version += 1

    def mean(self, max_new_tokens: int) -> float:
        """See `ExpectedOutput`."""
        return self.remaining(0, max_new_tokens).mean

    def remaining(self, num_generated: int, max_new_tokens: int) -> ExpectedLen:
        """See `ExpectedOutput`."""
        room = max(max_new_tokens - num_generated, 0)
        left = self._survives(num_generated)
        if left <= 0.0:
            return ExpectedLen(room, room)
        mean = (self._area_to(max_new_tokens) - self._area_to(num_generated)) / left
        # survival falls: the first time at which no more than a tenth of those alive now are left.
        target = (1.0 - _HIGH_QUANTILE) * left
        at = bisect_right(self._survival, -target, key=lambda s: -s)
        high = self._time[min(at, len(self._time) - 1)] - num_generated
        mean = min(max(mean, 1.0), room)
        return ExpectedLen(mean, min(max(high, mean), room))

    def doubt(self, num_generated: int) -> float:
        """Full as long as nothing has lasted longer: the prior knows nothing of the job. Then the mean of the
        lengths seen errs by the root of their number.
        """
        return 1.0 / math.sqrt(1 + len(self._lengths) - bisect_right(self._lengths, num_generated))

    def _survives(self, tokens: float) -> float:
        return self._survival[bisect_right(self._time, tokens) - 1]

    def _area_to(self, tokens: float) -> float:
        """Integral of S from 0."""
        at = bisect_right(self._time, tokens) - 1
        return self._area[at] + (tokens - self._time[at]) * self._survival[at]


class LengthClasses:
    """A class per power of two of the cap, and which of them have news."""

    def __init__(self) -> None:
        self._classes: dict[int, LengthClass] = {}
        self._observed: dict[LengthClass, None] = {}  # since they were refreshed, in order

    def of(self, max_new_tokens: int) -> LengthClass:
        """The class of a request with this cap."""
        bits = max_new_tokens.bit_length()
        if bits not in self._classes:
            self._classes[bits] = LengthClass(2**bits - 1)
        return self._classes[bits]

    def observe(self, expected: ExpectedOutput, output_len: int) -> None:
        """A request has finished by itself; what the plan knew of it teaches nothing."""
        if isinstance(expected, LengthClass):
            expected.observe(output_len)
            self._observed[expected] = None

    def take_news(self) -> list[LengthClass]:
        """Classes to refresh: enough has finished there. They are not named again before more has."""
        news = [lengths for lengths in self._observed if lengths.has_news]
        for lengths in news:
            del self._observed[lengths]
        return news

    def forget(self) -> None:
        """What was learnt does not hold for what comes."""
        self._classes.clear()
        self._observed.clear()
