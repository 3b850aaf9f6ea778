"""The page of a plan: what will run, how long each order would take and cost, where the sharing is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglang_blend.report import charts, units
from sglang_blend.report.page import Block, Card, Cards, Cell, Chart, Page, Section, Table
from sglang_blend.report.scales import rounded, time_unit
from sglang_blend.report.units import NOTHING
from sglang_blend.report.workload import density_section, prefix_section


@dataclass(frozen=True, kw_only=True)
class OrderForecast:
    """What one order would take, simulated; both sharings and `optimum_ratio` are 0 to 1."""

    order: str
    sharing_kept: float
    sharing_at_run_time: float
    makespan_s: float
    optimum_ratio: float


@dataclass(frozen=True, kw_only=True)
class PlanForecast:
    """A plan before it runs.

    Attributes:
        name: of the batch file.
        facts: from `job.plan_facts.workload_facts`.
        orders: every order that was looked at.
        optimum_s: max(compute, KV reads), modelled.
        accelerators: how many of them work as one.
        price_per_hour: of one accelerator, in whatever currency; None where no price is known.
        settings: what was planned with, by name.
        notes: what a reader must know.
    """

    name: str
    facts: dict[str, Any]
    orders: list[OrderForecast]
    optimum_s: float
    accelerators: int
    price_per_hour: float | None
    settings: dict[str, str]
    notes: tuple[str, ...]

    def cost(self, seconds: float) -> float | None:
        """Price of the accelerators for this time; loading the model is not in it."""
        if self.price_per_hour is None:
            return None
        return self.price_per_hour * self.accelerators * seconds / 3600

    @property
    def taken(self) -> OrderForecast | None:
        """The order of the plan."""
        return next((each for each in self.orders if each.order == self.facts["order"]), None)


def plan_page(plan: PlanForecast) -> Page:
    """All of it."""
    settings: list[tuple[Cell, ...]] = [(name, value) for name, value in plan.settings.items() if value]
    table = Table(head=("setting", "value"), align="ll", rows=settings)
    sections = [
        Section(title="Summary", blocks=[_headline(plan)]),
        _orders(plan),
        prefix_section(plan.facts),
        density_section(plan.facts),
        Section(title="Configuration", blocks=[table]),
    ]
    return Page(
        kind="Plan",
        name=plan.name,
        subtitle=f"{plan.facts['requests']:,} requests, not yet run; times are simulated",
        simulated=True,
        notes=plan.notes,
        facts=(plan.settings["model"], plan.settings["hardware"], f"order {plan.facts['order']}"),
        sections=[section for section in sections if section.blocks],
    )


def _headline(plan: PlanForecast) -> Cards:
    facts, taken = plan.facts, plan.taken
    cards = []
    if taken is not None:
        of = f"{units.ratio(taken.optimum_ratio)} of the optimum"
        optimum = f"{of} ({units.seconds(plan.optimum_s)}, modelled)"
        cards.append(Card("Predicted makespan", units.seconds(taken.makespan_s), f"simulated; {optimum}"))
        cost = plan.cost(taken.makespan_s)
        if cost is not None:
            price = f"{plan.accelerators} x {units.money(plan.price_per_hour or 0)} an hour"
            cards.append(Card("Cost estimate", units.money(cost), f"{price}, loading excluded"))
        tokens = facts["prompt_tokens"] + facts["est_output_tokens"]
        rate = units.with_unit(tokens / taken.makespan_s if taken.makespan_s else None, "tok/s")
        cards.append(Card("Predicted throughput", rate, "prompt and output, simulated"))
    unique = units.count(facts["unique_prompt_tokens"])
    cards += [
        Card("Requests", units.count(facts["requests"])),
        Card("Prompt tokens", units.count(facts["prompt_tokens"]), f"{unique} of them unique"),
        Card(
            "Output tokens",
            units.count(facts["est_output_tokens"]),
            f"expected; at most {units.count(facts['max_output_tokens'])}",
        ),
        Card("Sharing possible", units.ratio(facts["sharing_possible"]), "of the prompt tokens"),
    ]
    if len(cards) % 3 == 1:
        density = units.with_unit(facts.get("root_density"), "density")
        cards += [
            Card("Compute density", density, "compute over KV read time"),
            Card("Shared prefixes", units.count(max(facts["num_nodes"] - 1, 0))),
        ]
    elif len(cards) % 3 == 2:
        density = units.with_unit(facts.get("root_density"), "density")
        cards.append(Card("Compute density", density, "compute over KV read time"))
    return Cards(cards, "large")


def _orders(plan: PlanForecast) -> Section:
    if not plan.orders:
        return Section(title="Predicted time by order")
    longest = max(each.makespan_s for each in plan.orders)
    unit, scale = time_unit(longest)
    priced = plan.price_per_hour is not None
    rows: list[tuple[Cell, ...]] = []
    for each in plan.orders:
        taken = each.order == plan.facts["order"]
        cells: list[Cell] = [f"{each.order} (taken)" if taken else each.order, units.seconds(each.makespan_s)]
        if priced:
            cells.append(units.with_unit(plan.cost(each.makespan_s), "money"))
        sharing = (units.ratio(each.sharing_kept), units.ratio(each.sharing_at_run_time))
        rows.append((*cells, units.ratio(each.optimum_ratio), *sharing))
    cost = ("cost",) if priced else ()
    table = Table(
        head=("order", "makespan", *cost, "of the optimum", "sharing planned", "sharing at run time"),
        align="lrrrr" + "r" * priced,
        rows=rows,
    )
    chart = Chart(
        title="Makespan of each order",
        caption="Simulated, with outputs as long as expected. No order can be faster than the dashed "
        "optimum: the larger of compute and KV read time, every shared prefix computed once.",
        spec=charts.orders(plan.optimum_s / scale, unit),
        columns={
            "order": [each.order for each in plan.orders],
            "value": rounded([each.makespan_s / scale for each in plan.orders]),
            "kind": ["taken" if each.order == plan.facts["order"] else "other" for each in plan.orders],
        },
        table=None,
        describes="Predicted makespan of each order",
        height=34 * len(plan.orders),
    )
    blocks: list[Block] = [chart, table]
    return Section(title="Predicted time by order", lead=plan.facts["reason"] or NOTHING, blocks=blocks)
