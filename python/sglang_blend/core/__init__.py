"""Planning in plain numpy: requests in, a schedule out.

    table = RequestTable.from_lists(prompts, max_new_tokens=caps)
    schedule = make_schedule(table, cost, PlanConfig(order="dual-scan"))
    schedule.sequence      # rows in the order to run them

In data-flow order: `request` (table, schedule; `table_builder` makes the one, `columns` is the file of both),
`config`, `token_sort` and `prefix_tree`, `output_length`, `cost_model` (a Protocol) and `density`,
`shared_reads`, `workload`, `split`, `memory_split` and `dual_scanner`, `orders`, `sharing`; `overview` is
what a person is shown of it.
"""

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import CostModel
from sglang_blend.core.orders import make_schedule, make_workload, order_names
from sglang_blend.core.output_length import OutputEstimate, OutputLengths, choose_sample
from sglang_blend.core.prefix_tree import PrefixTree, build_prefix_tree
from sglang_blend.core.request import RequestTable, Schedule, Side
from sglang_blend.core.sharing import sharing_kept
from sglang_blend.core.workload import Workload

__all__ = [
    "CostModel",
    "OutputEstimate",
    "OutputLengths",
    "PlanConfig",
    "PrefixTree",
    "RequestTable",
    "Schedule",
    "Side",
    "Workload",
    "build_prefix_tree",
    "choose_sample",
    "make_schedule",
    "make_workload",
    "order_names",
    "sharing_kept",
]
