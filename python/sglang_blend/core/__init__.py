"""Planning, pure numpy: requests in, schedule out."""

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_schedule, make_workload, order_names
from sglang_blend.core.request import RequestTable, Schedule, Side

__all__ = ["PlanConfig", "RequestTable", "Schedule", "Side", "make_schedule", "make_workload", "order_names"]
