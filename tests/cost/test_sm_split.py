"""The share of the multiprocessors follows the work that is left."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sglang_blend.cost.sm_split import SplitWork, best_share

SHARES = (0.12, 0.24, 0.36, 0.5)
SECONDS = st.floats(0.01, 1000)


@given(SECONDS, SECONDS, SECONDS, SECONDS, st.floats(1, 4))
def test_no_other_share_ends_sooner(
    prefill_s: Any, gemm_s: Any, weight_s: Any, read_s: Any, gain: Any
) -> None:
    """The chosen one has the least makespan of all."""
    work = SplitWork(prefill_s, gemm_s, weight_s, read_s)
    chosen = work.makespan_s(SHARES[best_share(work, SHARES, gain)], gain)
    assert chosen == min(work.makespan_s(share, gain) for share in SHARES)


def test_more_prefill_gives_decode_less() -> None:
    """With little prefill left decode takes the largest share, with much the smallest."""
    decode = SplitWork(0.1, 10.0, 1.0, 10.0)
    assert SHARES[best_share(decode, SHARES, 2.5)] == 0.5
    assert SHARES[best_share(decode._replace(prefill_s=500.0), SHARES, 2.5)] == 0.12


def test_reading_alone_needs_no_more_than_the_share_that_reads_at_full_speed() -> None:
    """Beyond it a larger share only slows prefill down."""
    reading = SplitWork(8.0, 0.0, 0.0, 10.0)
    assert SHARES[best_share(reading, SHARES, 1 / 0.24)] == 0.24
