"""Which job a result file belongs to: a small JSON file beside it, `batch.job.json`.

Written before the first record and compared by the next run. It says nothing about what is finished - the
result files do - but of a job that came to its end it keeps the sizes they had, so that running it once more
needs no look into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from sglang_blend.errors import ConfigError
from sglang_blend.location import Location, may_pass, read_small, replace_small

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The state in which a job came to its end.

    Attributes:
        sizes: of the result files, in bytes.
        sorted: whether they are in input order.
        num_unsettled: failed lines that could end differently.
        summary: what was said.
    """

    sizes: dict[str, int]
    sorted: bool
    num_unsettled: int
    summary: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class JobIdentity:
    """What makes two runs one job.

    Attributes:
        input_sha256: of the input's plain content, as `sha256sum` prints it.
        input_stamp: `source.stamp_of` the input; where it is unchanged the content is not read again.
        reading: how lines are read: format and columns.
        flags: SGLang's flags that change answers, see `engine_flags`.
        refusals: everything a refusal depends on beside the line: all flags and versions. Where it changed,
            refused lines are tried again.
        finished: None until the job came to its end.
    """

    input_sha256: str
    input_stamp: str | None
    reading: dict[str, str]
    flags: dict[str, str]
    refusals: list[str]
    finished: Finished | None = None

    def difference(self, other: JobIdentity) -> str | None:
        """What tells this job from `other`, in words; None where they are one job."""
        if self.input_sha256 != other.input_sha256:
            return "the input has another content"
        for name in sorted({*self.flags, *other.flags, *self.reading, *other.reading}):
            mine = self.flags.get(name, self.reading.get(name))
            others = other.flags.get(name, other.reading.get(name))
            if mine != others:
                return f"{name} was {_said(others)} and is {_said(mine)}"
        return None

    def save(self, place: Location) -> None:
        """Write it whole or not at all.

        Raises:
            ConfigError: it cannot be written.
        """
        content = {"format": FORMAT, **vars(self), "finished": self.finished and vars(self.finished)}
        try:
            replace_small(place, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
        except OSError as e:
            raise ConfigError(
                f"{place} cannot be written ({e.strerror or e}): name another --output.", may_pass=may_pass(e)
            ) from e


def load_identity(place: Location) -> JobIdentity | None:
    """What an earlier run wrote; None where there is nothing, or nothing that this version can read."""
    content = read_small(place)
    try:
        found = orjson.loads(content or b"null")
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            return None
        finished = found.pop("finished")
        known = JobIdentity(**found, finished=Finished(**finished) if finished else None)
        kinds: list[tuple[object, type]] = [
            (known.input_sha256, str),
            (known.reading, dict),
            (known.flags, dict),
            (known.refusals, list),
        ]
        if known.finished is not None:
            kinds += [(known.finished.sizes, dict), (known.finished.summary["failed"], int)]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None
    return known if all(isinstance(value, kind) for value, kind in kinds) else None


def _said(value: str | None) -> str:
    return "not given" if value is None else value or "given"
