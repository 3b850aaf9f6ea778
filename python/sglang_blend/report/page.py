"""What a report shows, as data: `pages` fills it, `html` writes it. Texts are plain; `html` escapes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Columns = dict[str, list[Any]]


class Card(NamedTuple):
    """One number in large type; `note` stands below it, `definition` behind a tap."""

    label: str
    value: str
    note: str = ""
    definition: str = ""


class Bar(NamedTuple):
    """A table cell with a bar behind it; `ratio` is 0 to 1."""

    text: str
    ratio: float


class Verdict(NamedTuple):
    """A table cell that is good or bad news."""

    text: str
    good: bool


Cell = str | Bar | Verdict


@dataclass(frozen=True, kw_only=True)
class Table:
    """`align` has one letter a column, l or r. `summary` set means that it is folded behind these words.

    `prose`: the last column is long text, which gets a line of its own where there is little room.
    """

    head: tuple[str, ...]
    align: str
    rows: list[tuple[Cell, ...]]
    summary: str = ""
    note: str = ""
    prose: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A Vega-Lite specification whose data set `table` is in `columns`, and the same numbers as a table."""

    title: str
    caption: str
    spec: dict[str, Any]
    columns: Columns
    table: Table | None
    describes: str
    height: int = 220


@dataclass(frozen=True)
class Pair:
    """Two blocks side by side; one below the other where there is no room."""

    left: Chart | Table
    right: Chart | Table


@dataclass(frozen=True)
class Cards:
    """A row of numbers; the first ones of a page are large."""

    cards: list[Card]
    size: Literal["large", "small"] = "small"


Block = Chart | Table | Pair | Cards


@dataclass(frozen=True, kw_only=True)
class Section:
    """Title, a sentence or two, and what is shown."""

    title: str
    lead: str = ""
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Page:
    """`simulated` puts the word where nobody misses it."""

    kind: str
    name: str
    subtitle: str
    simulated: bool
    sections: list[Section]
    notes: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
