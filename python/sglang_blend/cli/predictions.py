"""Simulated makespans of one job's schedules in one engine, each order once."""

from __future__ import annotations

from sglang_blend.core.output_length import draw_lengths
from sglang_blend.core.request import Schedule
from sglang_blend.core.workload import Workload
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.predict import MakespanPredictor, Predicted


class Predictions:
    """Remembers what each order was predicted to take; outputs are taken to be as long as expected.

    Attributes:
        num_simulated: requests that the last prediction was made with.
    """

    def __init__(self, workload: Workload, cost: RooflineCost, engine: EngineConfig, seed: int) -> None:
        self._predictor = MakespanPredictor(workload.table, cost, engine, tree=workload.tree, seed=seed)
        drawn = draw_lengths(workload.table, workload.lengths, seed)
        #: Seconds of a schedule with output lengths drawn at random; None where they are known.
        self.predict_drawn: MakespanPredictor | None = None
        if drawn is not None:
            self.predict_drawn = MakespanPredictor(
                workload.table, cost, engine, tree=workload.tree, output_len=drawn, seed=seed
            )
        self._known: dict[str, Predicted] = {}
        self.num_simulated = workload.tree.n

    def predict(self, schedule: Schedule) -> Predicted:
        """Seconds and sharing of a schedule."""
        if schedule.order not in self._known:
            self._known[schedule.order] = self._predictor.predict(schedule)
            self.num_simulated = self._predictor.sample_size(schedule) or schedule.n
        return self._known[schedule.order]

    def makespan_s(self, schedule: Schedule) -> float:
        """Seconds of a schedule, as `make_schedule` asks for them."""
        return self.predict(schedule).makespan_s
