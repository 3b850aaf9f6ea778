"""SGLang's flags with which no job can run: one sentence, before anything is read or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.echo_engine import EchoEngine
from job.test_offline import batch_line, write_batch
from sglang_blend.cli import main
from sglang_blend.errors import ConfigError
from sglang_blend.job.engine_flags import NOT_FOR_JOBS, refuse_flags
from sglang_blend.job.offline import OfflineJob


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["b2.jsonl", "--tp-size", "1"], "'b2.jsonl' belongs to no option; a job has one --file"),
        (["--model", "/no/such/model"], "--model-path /no/such/model does not exist"),
        (["--tokenizer-path", "./nowhere"], "--tokenizer-path ./nowhere does not exist"),
        (["--chat-template=~/mine.jinja"], "--chat-template ~/mine.jinja does not exist"),
        (["--skip-tokenizer-init"], "--skip-tokenizer-init: prompts and answers of a job are texts"),
        (
            ["--disaggregation-mode", "prefill"],
            "--disaggregation-mode prefill: one engine does .* leave it out",
        ),
        (["--disaggregation-mode=decode"], "--disaggregation-mode decode: "),
        (["--encoder-only"], "--encoder-only: such an engine answers nothing"),
        (["--tokenizer-worker-num", "4"], "--tokenizer-worker-num 4: .* --prepare-workers"),
        (["--detokenizer-worker-num", "2"], "--detokenizer-worker-num 2: .* leave it out"),
        (["--nnodes", "2", "--node-rank", "1"], "--node-rank 1: only node 0 .* start the job there"),
        (["--max-queued-requests", "100"], "--max-queued-requests 100: .* --window"),
    ],
)
def test_a_flag_of_a_server_is_refused(tmp_path: Path, flags: list[str], words: str) -> None:
    config = write_batch(tmp_path / "b.jsonl", [batch_line("a", "fine")])
    with pytest.raises(ConfigError, match=words):
        OfflineJob(config, engine_argv=[*flags, "--tp-size", "1"]).run(EchoEngine)
    assert [path.name for path in tmp_path.iterdir()] == ["b.jsonl"]


def test_the_value_that_a_job_runs_with_may_be_given() -> None:
    refuse_flags([f"{name}={allowed}" for name, (allowed, _) in NOT_FOR_JOBS.items()])
    refuse_flags(["--model-path", "meta-llama/Llama-3.1-8B", "--chat-template", "chatml"])
    refuse_flags(["--tokenizer-worker-num", "1", "--node-rank", "0", "--disaggregation-mode", "null"])


def test_bench_refuses_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--file", "none.jsonl", "--disaggregation-mode", "prefill"]) == 2
    assert "--disaggregation-mode prefill: " in capsys.readouterr().err
