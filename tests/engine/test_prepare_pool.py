"""Lines prepared by several processes come back in order, whatever happens to the processes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.word_nursery import WordNursery
from sglang_blend.engine import prepare_pool
from sglang_blend.engine.prepare_pool import PreparePool
from sglang_blend.errors import ConfigError, EngineError
from sglang_blend.request import BatchLine, Prepared, Rejection


def line(number: int, prompt: object) -> BatchLine:
    return BatchLine(number, 0, f"id-{number}", "/v1/completions", {"prompt": prompt})


@contextmanager
def pool_of(
    folder: Path, num_workers: int, *argv: str, **options: Any
) -> Iterator[tuple[PreparePool, WordNursery]]:
    nursery = WordNursery(folder)
    pool = PreparePool(nursery, argv, num_workers=num_workers, **options)  # type: ignore[arg-type]
    try:
        yield pool, nursery
    finally:
        pool.close()
        assert nursery.pids() == []


def outcome(pool: PreparePool, prompts: list[str]) -> list[list[int] | str]:
    """Token ids, or the code of a refusal, of each prompt; checks that the lines come back in order."""
    results = list(pool.prepare(line(n, prompt) for n, prompt in enumerate(prompts)))
    assert [got.line_number for got, _ in results] == list(range(len(prompts)))
    return [list(one.token_ids) if isinstance(one, Prepared) else one.code for _, one in results]


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("num_lines", [0, 1, 32, 500])
def test_results_come_in_the_order_of_the_lines(tmp_path: Path, num_workers: int, num_lines: int) -> None:
    with pool_of(tmp_path, num_workers) as (pool, _):
        prompts = ["x" * (n % 7 + 1) + " yy" for n in range(num_lines)]
        assert outcome(pool, prompts) == [[n % 7 + 1, 2] for n in range(num_lines)]


def test_a_refused_line_keeps_its_reason(tmp_path: Path) -> None:
    with pool_of(tmp_path, 1) as (pool, _):
        assert outcome(pool, ["a", "refuse", "b"]) == [[1], "invalid_value", [1]]


def test_only_a_few_lines_are_read_ahead(tmp_path: Path) -> None:
    read = 0

    def lines() -> Iterator[BatchLine]:
        nonlocal read
        for read in range(1, 100_000):
            yield line(read, "word")

    with pool_of(tmp_path, 2) as (pool, _):
        prepared = pool.prepare(lines())
        most = max(read - got.line_number for got, _ in (next(prepared) for _ in range(5000)))
    assert most <= 2 * prepare_pool.CHUNKS_AHEAD * prepare_pool.CHUNK_LINES


def test_large_lines_travel_in_small_chunks(tmp_path: Path) -> None:
    with pool_of(tmp_path, 2) as (pool, _):
        assert outcome(pool, ["w" * 2_000_000] * 20) == [[2_000_000]] * 20


def test_a_line_that_kills_its_worker_twice_is_refused_and_no_other_is(tmp_path: Path) -> None:
    prompts = ["a"] * 40 + ["die"] + ["b"] * 40
    with pool_of(tmp_path, 2) as (pool, nursery):
        assert outcome(pool, prompts) == [[1]] * 40 + ["prepare_crash"] + [[1]] * 40
        assert nursery.num_started == 2 + 2


def test_a_line_that_kills_its_worker_once_is_prepared(tmp_path: Path) -> None:
    with pool_of(tmp_path, 1) as (pool, nursery):
        assert outcome(pool, ["a", f"die once {tmp_path / 'died'}", "b"])[1] != "prepare_crash"
        assert nursery.num_started == 2


@pytest.mark.slow
def test_workers_killed_from_outside_lose_no_line(tmp_path: Path) -> None:
    with pool_of(tmp_path, 2) as (pool, nursery):
        codes = []
        for got, prepared in pool.prepare(line(n, "one two") for n in range(3000)):
            if got.line_number % 1000 == 500:
                os.kill(nursery.pids()[0], signal.SIGKILL)
            codes.append(isinstance(prepared, Prepared))
    assert codes == [True] * 3000


@pytest.mark.slow
def test_a_line_at_which_the_worker_hangs_is_refused(tmp_path: Path) -> None:
    with pool_of(tmp_path, 1, timeout_s=0.5) as (pool, _):
        assert outcome(pool, ["a", "hang", "b"]) == [[1], "prepare_crash", [1]]


def test_a_line_nested_too_deeply_to_be_sent_is_refused(tmp_path: Path) -> None:
    deep: object = "x"
    for _ in range(300):
        deep = [deep]
    with pool_of(tmp_path, 1) as (pool, _):
        results = list(pool.prepare([line(0, "a"), line(1, deep), line(2, "b")]))
    refused = results[1][1]
    assert isinstance(refused, Rejection)
    assert (refused.code, refused.custom_id) == ("invalid_value", "id-1")
    assert all(isinstance(results[n][1], Prepared) for n in (0, 2))


def test_a_flag_that_sglang_refuses_is_a_config_error(tmp_path: Path) -> None:
    with pool_of(tmp_path, 1, "--bad-flag") as (pool, _), pytest.raises(ConfigError, match="no such flag"):
        list(pool.prepare([line(0, "a")]))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 8])
def test_lines_that_kill_their_worker_end_as_records_however_many_there_are(
    tmp_path: Path, num_workers: int
) -> None:
    """Eleven of them beside each other ended the job, and each resume of it."""
    prompts = ["a"] * 10 + ["die"] * 40 + ["b"]
    with pool_of(tmp_path, num_workers) as (pool, _):
        assert outcome(pool, prompts) == [[1]] * 10 + ["prepare_crash"] * 40 + [[1]]


@pytest.mark.slow
def test_workers_that_die_at_their_start_one_after_the_other_end_the_job(tmp_path: Path) -> None:
    with (
        pool_of(tmp_path, 1, "--dies-at-its-start") as (pool, _),
        pytest.raises(EngineError, match="one after the other"),
    ):
        list(pool.prepare(line(n, "a") for n in range(500)))


def test_a_dead_engine_ends_the_preparation(tmp_path: Path) -> None:
    def check() -> None:
        raise EngineError("the engine died")

    with pool_of(tmp_path, 1, check=check) as (pool, _), pytest.raises(EngineError, match="the engine died"):
        list(pool.prepare([line(0, "a")]))
