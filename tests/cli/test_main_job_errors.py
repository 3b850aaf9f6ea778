"""What a new user does wrong with the main job: one sentence, exit code 2, no traceback, nothing lost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sglang_blend import cli, launch_offline
from sglang_blend.cli.reference import subcommands

GOOD_LINE = '{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "hi"}}\n'


def launch(*args: object, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sglang_blend.launch_offline", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        input=input,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.strip().splitlines()[-1]


def test_a_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in refused(launch("--file", tmp_path / "none.jsonl"))


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert "is empty" in refused(launch("--file", tmp_path / "empty.jsonl"))
    assert not (tmp_path / "empty.output.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--output", "answers.csv"), "answers.csv: answers are written as JSON Lines or as Parquet"),
        (("--output", "s3:/bucket/out.jsonl"), "one slash too few: s3://bucket/out.jsonl"),
    ],
)
def test_an_output_that_would_not_be_what_it_is_called(
    options: tuple[str, str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "batch.jsonl").write_text(GOOD_LINE)
    done = subprocess.run(
        [sys.executable, "-m", "sglang_blend.launch_offline", "--file", "batch.jsonl", *options],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert words in refused(done)
    assert [path.name for path in tmp_path.iterdir()] == ["batch.jsonl"]


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refused(launch("--file", tmp_path))


def test_no_file_at_all() -> None:
    assert "--file" in refused(launch())


def test_a_window_of_zero(tmp_path: Path) -> None:
    assert "--window 0" in refused(launch("--file", tmp_path, "--window", 0))


@pytest.mark.engine
def test_results_that_exist_are_kept(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(GOOD_LINE)
    (tmp_path / "b.output.jsonl").write_text("precious\n")
    assert "--overwrite" in refused(launch("--file", tmp_path / "b.jsonl"))
    assert (tmp_path / "b.output.jsonl").read_text() == "precious\n"


@pytest.mark.engine
def test_a_flag_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(GOOD_LINE)
    said = refused(launch("--file", tmp_path / "b.jsonl", "--model-path", tmp_path, "--outptu", "x"))
    assert "--outptu" in said
    assert "--help-engine" in said


@pytest.mark.engine
def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(GOOD_LINE)
    said = refused(launch("--file", tmp_path / "b.jsonl", "--model-path", tmp_path / "no-such-model"))
    assert "no-such-model" in said


@pytest.mark.slow
def test_lines_that_are_all_bad_need_no_engine(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"custom_id": "a"}\n')
    done = launch("--file", tmp_path / "b.jsonl")
    if "fork install" in done.stderr:
        pytest.skip("the forked SGLang is not installed here")
    assert done.returncode == 1
    assert "0 ok, 1 failed (missing_required_parameter 1)" in done.stdout
    assert (tmp_path / "b.errors.jsonl").read_text().count("\n") == 1


@pytest.mark.alone
def test_a_finished_job_given_again_returns_at_once_with_the_same_words(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"custom_id": "a"}\n')
    first = launch("--file", tmp_path / "b.jsonl")
    if "fork install" in first.stderr:
        pytest.skip("the forked SGLang is not installed here")
    started = time.monotonic()
    again = launch("--file", tmp_path / "b.jsonl")
    assert time.monotonic() - started < 2
    assert again.returncode == first.returncode == 1
    assert "0 ok, 1 failed (missing_required_parameter 1); 1 of them finished earlier" in again.stdout
    assert "nothing to do" in again.stderr


@pytest.mark.slow
def test_options_that_exclude_each_other_and_parameters_that_are_no_json(tmp_path: Path) -> None:
    both = launch("--file", tmp_path, "--keep-errors", "--retry-errors")
    assert "not allowed with" in refused(both)
    assert "--params '[1]' must be a JSON object" in refused(launch("--file", tmp_path, "--params", "[1]"))
    assert "--fsync-interval 0.0" in refused(launch("--file", tmp_path, "--fsync-interval", 0))


def test_a_pipe(tmp_path: Path) -> None:
    said = refused(launch("--file", "/dev/stdin", "--output", tmp_path / "o.jsonl", input="x\n"))
    assert "more than once" in said


def test_both_command_lines_take_the_same_options_and_say_the_same_of_them() -> None:
    (run,) = (p for p in subcommands(cli.make_parser()) if p.prog == "sglang-blend run")
    job = launch_offline.make_parser()
    assert [action.option_strings for action in run._actions] == [a.option_strings for a in job._actions]
    assert ["--help-engine"] in [action.option_strings for action in run._actions]
    assert str(job.epilog) in str(run.epilog)


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")  # SGLang's, at import
def test_the_flags_of_sglang_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "--help-engine"])
    assert not end.value.code
    assert "--chunked-prefill-size" in capsys.readouterr().out


def test_help_is_quick_and_names_the_way_to_all_flags() -> None:
    done = launch("--help")
    assert done.returncode == 0
    assert "--help-engine" in done.stdout


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """As `| head` does: no traceback, and the exit code that a shell knows."""
    file = Path(__file__).parents[2] / "examples" / "batch.jsonl"
    command = [sys.executable, "-m", "sglang_blend", "plan", "--file", str(file)]
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
