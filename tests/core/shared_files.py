"""The shared workload files as request tables, with a cheap tokenizer that needs no model."""

import gzip
import re
import zlib
from typing import Any

import orjson

from sglang_blend.core.request import RequestTable
from shared_folder import shared_file

TEXT_FILES = (
    "bbh_cot.jsonl.gz",
    "bbh_direct.jsonl.gz",
    "gsm8k_cot.jsonl",
    "humaneval.jsonl",
    "ifeval.jsonl",
    "squality_match.jsonl.gz",
    "squality_summ.jsonl.gz",
    "qmsum_meetings.jsonl.gz",
    "mixed_small.jsonl",
    "mixed_large.jsonl.gz",
    "mixed_tiny.jsonl",
)
_PIECE = re.compile(r"\w{1,6}|\s|[^\w\s]")


def piece_ids(text: str) -> list[int]:
    """Token ids of pieces of up to six letters: deterministic, about as many tokens as a real tokenizer."""
    return [zlib.crc32(piece.encode()) % 50_000 for piece in _PIECE.findall(text)]


def read_text_file(name: str) -> RequestTable:
    """One of the files of text/, chat lines in a ChatML template."""
    raw = shared_file(f"text/{name}").read_bytes()
    lines = (gzip.decompress(raw) if name.endswith(".gz") else raw).splitlines()
    bodies = [orjson.loads(line)["body"] for line in lines]
    return RequestTable.from_lists(
        [piece_ids(_prompt(body)) for body in bodies],
        max_new_tokens=[body.get("max_tokens") or body["max_completion_tokens"] for body in bodies],
        rid=[orjson.loads(line)["custom_id"] for line in lines],
    )


def _prompt(body: dict[str, Any]) -> str:
    if "prompt" in body:
        return str(body["prompt"])
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in body["messages"]]
    return "".join(turns) + "<|im_start|>assistant\n"
