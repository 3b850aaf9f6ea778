"""`sglang-blend plan` reads a batch file and reports, in text and in JSON."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from sglang_blend.cli import main
from sglang_blend.cli.batch_prompts import ByteTokenizer, read_batch_prompts
from sglang_blend.core.orders import order_names
from sglang_blend.cost.hardware import hardware

STORY = "Once upon a time there was a long shared prefix. " * 40


def line(custom_id: str, **body: Any) -> bytes:
    """A batch line; chat when there are messages."""
    url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    return orjson.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + b"\n"


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Twenty questions on one story, twenty short prompts with long answers, and three lines of rubbish."""
    lines = [line(f"a{i}", prompt=f"{STORY}Question {i}?", max_tokens=2) for i in range(20)]
    chat = [{"role": "user", "content": [{"type": "text", "text": "Write about it"}]}]
    lines += [line(f"b{i}", messages=chat, max_completion_tokens=900) for i in range(20)]
    lines += [b"not json\n", b"\n", line("c", prompt="x", max_tokens=-4), line("d", prompt="")]
    path = tmp_path / "batch.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def test_json_has_the_promised_keys(batch: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The interface that later work relies on."""
    shape = ["--model-shape", "llama-3-8b", "--hardware", "H200"]
    assert main(["plan", "--file", str(batch), *shape, "--json"]) == 0
    report = orjson.loads(capsys.readouterr().out)
    assert report["requests"] == 40
    assert report["skipped_lines"] == 3
    assert report["first_skipped"].startswith("line 41: ")
    assert report["tokens_approximate"] is True
    assert report["unique_prompt_tokens"] < report["prompt_tokens"] / 5
    assert report["sharing_possible"] == pytest.approx(
        1 - report["unique_prompt_tokens"] / report["prompt_tokens"]
    )
    assert report["root_density"] > 0
    assert report["order"] in report["orders"]
    assert set(report["orders"]) == set(order_names()) - {"auto"}
    for numbers in report["orders"].values():
        assert {"sharing_kept", "predicted_makespan_s", "optimum_fraction", "reason"} < set(numbers)
        assert 0 <= numbers["sharing_kept_at_run_time"] <= 1
        assert numbers["predicted_makespan_s"] > 0
        assert 0 < numbers["optimum_fraction"] <= 1
        assert numbers["predicted_makespan_s"] * numbers["optimum_fraction"] == pytest.approx(
            report["optimum_s"]
        )
    assert report["plan_seconds"] > 0
    assert report["peak_rss_bytes"] > 1e6


def test_text_names_what_a_user_wants_to_know(batch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests, approximate tokens, sharing, density histogram, every order, the optimum and the reason."""
    assert main(["plan", "--file", str(batch), "--order", "dfs"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "requests      40",
        "3 lines that cannot be planned; first: line 41",
        "(approximate)",
        "can come from the prefix cache",
        "####",
        "simulated     engine mode default",
        "max(compute, KV reads)",
        "order         dfs",
        *order_names()[:-1],
    ):
        assert words in shown


def test_one_line_is_not_told_as_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, html = tmp_path / "rows.jsonl", tmp_path / "plan.html"
    path.write_text('{"prompt": "x"}\nnot json\n')
    assert main(["plan", "--file", str(path), "--order", "dfs", "--html", str(html)]) == 0
    shown = capsys.readouterr().out
    assert "1 line that cannot be planned" in shown
    assert "1 without a cap, taken as 512" in shown
    assert "1 request without max_tokens, taken as 512." in html.read_text()


def test_packed_files_are_read_the_same(batch: Path, tmp_path: Path) -> None:
    """Gzip is recognised by its bytes, not by its name."""
    packed = tmp_path / "packed.jsonl"
    packed.write_bytes(gzip.compress(batch.read_bytes()))
    plain, unpacked = (read_batch_prompts(path, ByteTokenizer(), 10) for path in (batch, packed))
    assert (plain.table.token_ids == unpacked.table.token_ids).all()
    assert plain.num_skipped == unpacked.num_skipped == 3


def test_lengths_and_namespaces_come_from_the_body(tmp_path: Path) -> None:
    """Caps, ignore_eos, n, adapters, token ids as prompt, embeddings, and a missing cap."""
    path = tmp_path / "batch.jsonl"
    path.write_bytes(
        line("a", prompt=[5, 6, 7], max_tokens=9, ignore_eos=True)
        + line("b", prompt=["one", "two"], n=2)
        + line("c", prompt="one", max_tokens=4, lora_path="x")
        + orjson.dumps(
            {"custom_id": "d", "method": "POST", "url": "/v1/embeddings", "body": {"input": "words"}}
        )
    )
    batch = read_batch_prompts(path, ByteTokenizer(), 33)
    assert batch.table.max_new_tokens.tolist() == [9, 33, 33, 33, 33, 4, 0]
    assert batch.table.fixed_output.tolist() == [True] + [False] * 5 + [True]
    assert batch.table.namespace.tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert batch.table.prompt(0).tolist() == [5, 6, 7]
    assert batch.num_without_cap == 4
    assert (batch.table.prompt(1) == batch.table.prompt(3)).all()


def test_approximate_tokens_are_four_bytes_and_share_prefixes() -> None:
    """Two texts share as many tokens as whole fours of bytes."""
    tokens = ByteTokenizer()
    one, two = tokens.encode("abcdefghij"), tokens.encode("abcdefghXX")
    assert len(one) == 3
    assert [a == b for a, b in zip(one, two, strict=True)] == [True, True, False]
    assert min(tokens.encode("\udcff\u00ff漢字" * 9)) >= 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--order", "zigzag"], "order 'zigzag' is unknown; the orders are fcfs"),
        (["--hardware", "H9000"], "H9000"),
        (["--model-shape", "gpt-9"], "gpt-9"),
        (["--mode", "warp"], "mode 'warp' is unknown"),
        (["--page-size", "0"], "page_size is 0"),
        (["--default-max-tokens", "0"], "--default-max-tokens is 0, allowed is 1 or more"),
        (["--model-path", "/no/such/model"], "/no/such/model"),
    ],
)
def test_wrong_options_are_one_sentence(
    batch: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    """On stderr, with the value, exit code 2, nothing on stdout."""
    assert main(["plan", "--file", str(batch), *arguments]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.out == ""


def test_files_that_cannot_be_planned_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, empty, a directory, cut-off gzip."""
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"\n")
    torn = tmp_path / "torn.gz"
    torn.write_bytes(gzip.compress(np.random.default_rng(0).bytes(4000))[:600])
    for path, sentence in [
        (tmp_path / "absent", "does not exist"),
        (empty, "is empty"),
        (tmp_path, "is a directory"),
        (torn, "damaged gzip file"),
    ]:
        assert main(["plan", "--file", str(path)]) == 2
        assert sentence in capsys.readouterr().err


def test_the_tokenizer_of_a_model_folder_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --model-path prompts are real tokens, chat lines in the model's template."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    words = {word: number for number, word in enumerate(["<unk>", "user", "says", "hello", "answer"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    fast.chat_template = "{% for m in messages %}{{ m.role }} says {{ m.content }} {% endfor %}answer"
    fast.save_pretrained(tmp_path)
    config = {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 5,
        "torch_dtype": "bfloat16",
        "max_position_embeddings": 512,
    }
    (tmp_path / "config.json").write_bytes(orjson.dumps(config))
    batch = tmp_path / "batch.jsonl"
    chat = [{"role": "user", "content": "hello hello"}]
    batch.write_bytes(line("a", messages=chat, max_tokens=3) + line("b", prompt="hello", max_tokens=3))
    assert main(["plan", "--file", str(batch), "--model-path", str(tmp_path), "--json"]) == 0
    report = orjson.loads(capsys.readouterr().out)
    assert report["prompt_tokens"] == 5 + 1
    assert report["tokens_approximate"] is False


def test_shared_reads_shorten_a_job_that_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sixty long answers about one story: the engine that reads the story once a step needs less time."""
    path = tmp_path / "batch.jsonl"
    path.write_bytes(b"".join(line(f"q{i}", prompt=f"{STORY * 4}{i}?", max_tokens=400) for i in range(60)))
    seconds = []
    for flags in ([], ["--shared-reads"]):
        assert main(["plan", "--file", str(path), "--order", "dfs", "--json", *flags]) == 0
        seconds.append(orjson.loads(capsys.readouterr().out)["orders"]["dfs"]["predicted_makespan_s"])
    assert seconds[1] < 0.9 * seconds[0]


def test_a_record_of_a_cpu_shares_reads_as_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What reading together costs goes by the machine that a record is of, not by its file name."""
    path, record = tmp_path / "batch.jsonl", tmp_path / "measured.json"
    path.write_bytes(b"".join(line(f"q{i}", prompt=f"{STORY * 4}{i}?", max_tokens=400) for i in range(60)))
    record.write_bytes(hardware("cpu").to_json())
    seconds = []
    for name in ("cpu", str(record)):
        flags = ["--model-shape", "smollm2-135m", "--hardware", name, "--shared-reads", "--json"]
        assert main(["plan", "--file", str(path), "--order", "dfs", *flags]) == 0
        seconds.append(orjson.loads(capsys.readouterr().out)["orders"]["dfs"]["predicted_makespan_s"])
    assert seconds[0] == seconds[1]


def test_a_table_of_prompts_is_read_as_a_job_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By plan and by simulate; columns and parameters are named as for a job."""
    path = tmp_path / "rows.jsonl"
    rows = ({"question": f"{STORY}{i}?", "source": "a"} for i in range(12))
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    options = ["--file", str(path), "--prompt-column", "question", "--params", '{"max_tokens": 7}']
    html = tmp_path / "plan.html"
    assert main(["plan", *options, "--model-shape", "llama-3-8b", "--html", str(html)]) == 0
    assert "at most 84" in capsys.readouterr().out
    assert STORY[:20] in html.read_text()
    assert main(["simulate", *options, "--modes", "default", "--orders", "dfs"]) == 0
    assert "12 requests" in capsys.readouterr().out
