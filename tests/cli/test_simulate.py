"""`sglang-blend simulate` prints a record for each order and mode, and refuses what it cannot do in a
sentence.
"""

import argparse
import json
from typing import Any

import pytest

from sglang_blend.cli import simulate
from sglang_blend.core.orders import order_names
from sglang_blend.errors import BlendError
from sglang_blend.simulate.engine_config import MODES
from shared_folder import shared_file


def run(*words: str) -> int:
    """Parses and runs the subcommand as the dispatcher does."""
    parser = argparse.ArgumentParser()
    simulate.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["simulate", *words])
    return args.run(args)


def test_json_has_one_record_for_each_order_and_mode(capsys: pytest.CaptureFixture[str]) -> None:
    """Every order but auto in every mode, with the promised fields."""
    assert run("--paper-trace", "1", "--num-requests", "300", "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = [(order, mode) for order in order_names() if order != "auto" for mode in MODES]
    assert [(r["order"], r["mode"]) for r in records] == expected
    for record in records:
        assert record["makespan_s"] > record["optimum_s"] > 0
        assert record["optimum_fraction"] == pytest.approx(record["optimum_s"] / record["makespan_s"])
        assert 0 <= record["sharing_kept"] <= 1
        assert record["retractions"] >= 0
        assert record["simulated"] is True


def test_a_trace_of_lengths_is_simulated_and_the_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The text output names the job, the engine and the seed, and that it is simulated."""
    path = shared_file("traces/azure_2023_conv.csv")
    assert (
        run(
            "--trace",
            str(path),
            "--limit",
            "200",
            "--orders",
            "fcfs,dfs",
            "--modes",
            "default,mixed",
            "--seed",
            "3",
        )
        == 0
    )
    out = capsys.readouterr().out
    assert out.startswith("simulated: azure_2023_conv.csv")
    assert "200 requests" in out
    assert "seed 3" in out
    assert len(out.splitlines()) == 3 + 4


def test_a_batch_file_is_simulated_and_auto_chooses_for_each_engine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The shared batch file, without a model folder: tokens are approximate and the heading says so."""
    path = shared_file("text/mixed_small.jsonl")
    assert run("--file", str(path), "--orders", "dfs,auto", "--modes", "mixed,overlap") == 0
    out = capsys.readouterr().out
    assert "200 requests" in out
    assert "approximate" in out
    assert [line.split()[:2] for line in out.splitlines()[3:7]] == [
        ["dfs", "mixed"],
        ["dfs", "overlap"],
        ["auto", "mixed"],
        ["auto", "overlap"],
    ]


@pytest.mark.slow
def test_policies_run_as_sglang_runs_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its own admission; stock ones compute a shared prefix again while it is being computed."""
    path = shared_file("text/bbh_direct.jsonl.gz")
    words = ["--file", str(path), "--max-total-tokens", "6000", "--modes", "default", "--json"]
    assert run(*words, "--policies", "fcfs@random,lpm@random,fcfs@dfs,dual-scan") == 0
    records = {r["order"]: r for r in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(records) == ["fcfs@random", "lpm@random", "fcfs@dfs", "dual-scan"]
    kept = {name: record["sharing_kept"] for name, record in records.items()}
    assert kept["fcfs@random"] < kept["lpm@random"] < kept["fcfs@dfs"] < kept["dual-scan"]
    assert kept["dual-scan"] > 0.99
    assert run(*words, "--orders", "dfs") == 0
    assert json.loads(capsys.readouterr().out)["sharing_kept"] > kept["fcfs@dfs"]


def test_same_seed_same_records(capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte."""
    words = ("--density", "1.2", "--sharing", "0.2", "--num-requests", "200", "--modes", "overlap", "--json")
    outputs = []
    for seed in ("4", "4", "5"):
        run(*words, "--seed", seed)
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_replicas_share_the_job_and_say_how_much_faster_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A record for each number, ascending, against the smallest of them."""
    words = (
        "--paper-trace",
        "1",
        "--num-requests",
        "600",
        "--orders",
        "dfs,stationary",
        "--modes",
        "overlap",
    )
    assert run(*words, "--replicas", "4,1,2", "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["order"], r["replicas"]) for r in records] == [
        (order, num) for order in ("dfs", "stationary") for num in (1, 2, 4)
    ]
    for record in records:
        first = next(r for r in records if (r["order"], r["replicas"]) == (record["order"], 1))
        assert record["speedup"] == pytest.approx(first["makespan_s"] / record["makespan_s"])
        assert record["efficiency"] == pytest.approx(record["speedup"] / record["replicas"])
        assert record["optimum_s"] == pytest.approx(first["optimum_s"] / record["replicas"])
        assert record["makespan_s"] > record["optimum_s"]
        assert 0 < record["busy_ratio"] <= 1
        assert record["simulated"] is True
    assert [r["speedup"] for r in records if r["replicas"] == 1] == [1.0, 1.0]
    assert all(r["speedup"] > 1 for r in records if r["replicas"] > 1)
    assert all(r["cut_lost_ratio"] > 0 for r in records if r["replicas"] > 1)


def test_one_replica_is_what_is_simulated_without_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Same plan, same engine, same seconds."""
    words = ("--paper-trace", "2", "--num-requests", "300", "--orders", "stationary,auto", "--json")
    run(*words, "--modes", "overlap")
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    run(*words, "--modes", "overlap", "--replicas", "1")
    shared = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["order"] for r in plain] == [r["order"] for r in shared]
    for name in ("makespan_s", "sharing_kept", "optimum_fraction", "practical_optimum_s"):
        # A replica holds fewer waiting requests near the end, so that others can take them.
        assert [r[name] for r in plain] == pytest.approx([r[name] for r in shared], rel=0.01)


def test_the_table_of_replicas_has_a_line_for_each_number(capsys: pytest.CaptureFixture[str]) -> None:
    """Beginning with it."""
    words = ("--paper-trace", "1", "--num-requests", "200", "--orders", "dfs", "--modes", "mixed")
    assert run(*words, "--replicas", "1,3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:5] == ["replicas", "order", "mode", "makespan_s", "speedup"]
    assert [line.split()[:3] for line in lines[3:]] == [["1", "dfs", "mixed"], ["3", "dfs", "mixed"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name one job to simulate"),
        (("--paper-trace", "1", "--prompt-column", "q"), "--prompt-column q is for the table that --file"),
        (("--density", "1"), "name one job to simulate"),
        (("--paper-trace", "1", "--density", "1", "--sharing", "0.1"), "name one job to simulate"),
        (("--paper-trace", "1", "--orders", "best"), "order 'best' is unknown; allowed are fcfs"),
        (("--paper-trace", "1", "--modes", "turbo"), "mode 'turbo' is unknown; allowed are default"),
        (("--paper-trace", "1", "--hardware", "V100"), "unknown hardware 'V100'"),
        (("--paper-trace", "1", "--model-shape", "llama-9"), "'llama-9' is neither"),
        (("--paper-trace", "1", "--tp-size", "0"), "tp_size is 0"),
        (("--paper-trace", "1", "--model-shape", "llama-3.1-70b"), "leaves no room for KV"),
        (("--paper-trace", "1", "--replicas", "1,two"), "--replicas is '1,two'; whole numbers of 1 or more"),
        (("--paper-trace", "1", "--replicas", "0"), "--replicas is '0'"),
        (("--paper-trace", "1", "--replicas", ""), "--replicas is ''"),
        (("--paper-trace", "1", "--replicas", "2", "--html", "x.html"), "leave out --replicas"),
        (("--paper-trace", "1", "--policies", "lof"), "policy 'lof' is not simulated; .*lpm"),
        (("--paper-trace", "1", "--policies", "lpm@best"), "order 'best' is unknown"),
        (("--paper-trace", "1", "--policies", "dual-scan@unplanned"), "leave @unplanned out"),
        (("--paper-trace", "1", "--policies", "lpm", "--orders", "dfs"), "leave out --orders"),
        (("--trace", "absent.csv"), "cannot be read"),
        (("--trace", "absent.csv", "--limit", "0"), "--limit is 0"),
        (("--paper-trace", "1", "--num-requests", "100", "--max-total-tokens", "50"), "the pool holds 50"),
        (
            ("--paper-trace", "1", "--num-requests", "100", "--admission", "hope"),
            "admission 'hope' is unknown",
        ),
    ],
)
def test_wrong_options_are_answered_in_a_sentence(words: Any, message: str) -> None:
    """The dispatcher prints the error's sentence and leaves with its exit code."""
    with pytest.raises(BlendError, match=message):
        run(*words)
