"""The largest shared prefixes and the densities of a job."""

import numpy as np
import pytest
from hypothesis import given

from core.strategies import tables
from core.toy_cost import ToyCost
from sglang_blend.core import PlanConfig, RequestTable
from sglang_blend.core.orders import make_workload
from sglang_blend.core.overview import density_histogram, largest_prefixes, saved_tokens
from sglang_blend.core.prefix_tree import build_prefix_tree


@pytest.mark.slow
@given(tables())
def test_what_the_nodes_save_is_what_the_job_shares(table: RequestTable) -> None:
    tree = build_prefix_tree(table)
    assert saved_tokens(tree).sum() == tree.num_shared_tokens


def test_the_prefix_that_saves_most_comes_first() -> None:
    prompts = [[1] * 50 + [i] for i in range(2, 6)] + [[9] * 5 + [i] for i in range(20, 30)] + [[7, 7]]
    workload = make_workload(RequestTable.from_lists(prompts), ToyCost(), PlanConfig())
    shared = largest_prefixes(workload, limit=10)
    assert shared.saved_tokens.tolist() == [150, 45]
    assert shared.prefix_len.tolist() == [50, 5]
    assert (shared.end - shared.start).tolist() == [4, 10]
    assert np.isfinite(shared.density).all()
    assert len(largest_prefixes(workload, limit=1).node) == 1


def test_the_histogram_counts_every_request_and_all_work_once() -> None:
    prompts = [[i, *range(i)] for i in range(1, 40)]
    table = RequestTable.from_lists(prompts, max_new_tokens=[i * 7 % 90 for i in range(1, 40)])
    workload = make_workload(table, ToyCost(), PlanConfig())
    histogram = density_histogram(workload)
    assert histogram.num_requests.sum() == table.n
    assert np.isclose(histogram.compute_s.sum(), workload.total.compute_s)
    assert np.isclose(histogram.memory_s.sum(), workload.total.memory_s)
    assert histogram.num_requests[0] > 0
    assert histogram.num_requests[-1] > 0
