"""Writes a page as one HTML file that needs nothing else: style, data and the drawing code are inside.

Every text goes through `escape`, every value of the data through JSON whose `<` is written as `\\u003c`; and
the page forbids itself the network (Content-Security-Policy), whatever is in it.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path

import orjson

from sglang_blend import __version__
from sglang_blend.location import replace_small
from sglang_blend.report.bundle import javascript
from sglang_blend.report.page import Bar, Block, Cards, Cell, Chart, Page, Pair, Section, Table, Verdict

# Vega compiles expressions, which is what 'unsafe-eval' allows.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"
)
# Before anything is painted, so that a dark screen never flashes.
_FIRST = (
    'try{var t=localStorage.getItem("sglang-blend-theme")}catch(e){}'
    'document.documentElement.dataset.theme=t&&t!="auto"?t:'
    'matchMedia("(prefers-color-scheme: dark)").matches?"dark":"light"'
)


def write(page: Page, path: Path) -> int:
    """Write the file whole or not at all; returns its size in bytes.

    Raises:
        OSError: it cannot be written.
    """
    content = render(page).encode("utf-8", "replace")
    replace_small(path, content)
    return len(content)


def render(page: Page) -> str:
    """The page as text."""
    charts: list[Chart] = []
    body = "\n".join(_section(section, charts) for section in page.sections)
    data = [{"spec": chart.spec, "columns": chart.columns, "height": chart.height} for chart in charts]
    mark = '<span class="simulated">SIMULATED</span>' if page.simulated else ""
    facts = " ".join(f"<span>{escape(fact)}</span>" for fact in page.facts)
    notes = "".join(f"<li>{escape(note)}</li>" for note in page.notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(page.kind)} · {escape(page.name)}</title>
<link rel="icon" href="data:,">
<style>
{_asset("page.css")}</style>
<script>{_FIRST}</script>
</head>
<body>
<header class="top">
<div class="line"><span class="brand">sglang-blend</span>
<button class="theme" type="button">Theme: auto</button></div>
<h1>{escape(page.kind)}{mark}</h1>
<p class="name">{escape(page.name)}</p>
<p class="outcome">{escape(page.subtitle)}</p>
<p class="facts">{facts}</p>
{f'<ul class="notes">{notes}</ul>' if notes else ""}
<noscript><p class="notes">Charts need JavaScript; the tables below have all of their numbers.</p></noscript>
</header>
<main>
{body}
</main>
<footer>
<p>Measured figures come from the records of the scheduler and of the job. Modelled ones are arithmetic with
the hardware record named in the configuration; predicted and simulated ones come from a model of the
engine.</p>
<p>sglang-blend {escape(__version__)}. This file is complete: it loads nothing from anywhere.</p>
</footer>
<script type="application/json" id="charts">{_json(data)}</script>
<script>
{javascript()}
</script>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _section(section: Section, charts: list[Chart]) -> str:
    lead = f'<p class="lead">{escape(section.lead)}</p>' if section.lead else ""
    blocks = "\n".join(_block(block, charts) for block in section.blocks)
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{lead}\n{blocks}\n</section>"


def _block(block: Block, charts: list[Chart]) -> str:
    match block:
        case Cards():
            return _cards(block)
        case Chart():
            return _chart(block, charts)
        case Pair(left, right):
            return f'<div class="pair">{_block(left, charts)}{_block(right, charts)}</div>'
        case Table():
            return f'<div class="{"folded" if block.summary else "sheet"}">{_table(block)}</div>'


def _cards(block: Cards) -> str:
    cells = []
    for card in block.cards:
        title = f' title="{escape(card.definition)}"' if card.definition else ""
        note = f'<dd class="note">{escape(card.note)}</dd>' if card.note else ""
        label = f"<dt{title}>{escape(card.label)}</dt>"
        cells.append(f'<div>{label}<dd class="value">{escape(card.value)}</dd>{note}</div>')
    return f'<dl class="cards {block.size}">{"".join(cells)}</dl>'


def _chart(chart: Chart, charts: list[Chart]) -> str:
    number = len(charts)
    charts.append(chart)
    table = _table(chart.table) if chart.table is not None else ""
    return (
        f"<figure>\n<figcaption><h3>{escape(chart.title)}</h3><p>{escape(chart.caption)}</p></figcaption>\n"
        f'<div class="chart" id="chart-{number}" role="img" aria-label="{escape(chart.describes)}" '
        f'style="min-height:{chart.height + 44}px"></div>\n{table}</figure>'
    )


def _table(table: Table) -> str:
    head = "".join(
        f'<th class="{align}" scope="col">{escape(name)}</th>'
        for name, align in zip(table.head, table.align, strict=True)
    )
    rows = "\n".join(
        f"<tr>{''.join(_cell(cell, align) for cell, align in zip(row, table.align, strict=True))}</tr>"
        for row in table.rows
    )
    note = f'<p class="note-text">{escape(table.note)}</p>' if table.note else ""
    kind = ' class="prose"' if table.prose else ""
    text = (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>{note}"
    )
    if not table.summary:
        return text
    return f"<details><summary>{escape(table.summary)}</summary>{text}</details>"


def _cell(cell: Cell, align: str) -> str:
    match cell:
        case Bar(text, ratio):
            part = f"--part:{min(max(ratio, 0.0), 1.0):.3f}"
            return f'<td class="bars"><div><b>{escape(text)}</b><i style="{part}"></i></div></td>'
        case Verdict(text, good):
            return f'<td class="{align} {"good" if good else "bad"}">{escape(text)}</td>'
        case _:
            return f'<td class="{align}">{escape(cell)}</td>'


def _json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return orjson.dumps(value).decode().replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (files("sglang_blend.report") / "assets" / name).read_text(encoding="utf-8")
