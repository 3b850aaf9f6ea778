"""Turns a trace of lengths into a request table, so that orders can be tried on real traffic.

`table_from_trace(path, limit=1200)` reads a CSV of prompt_tokens and output_tokens (no text: nothing is
shared), or JSON Lines that also have `hash_ids`, one id for each 512 prompt tokens: equal ids after an
equal prefix are the same tokens.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.request import RequestTable
from sglang_blend.errors import InputError
from sglang_blend.simulate.sources import read_trace

HASH_BLOCK_TOKENS = 512


def table_from_trace(path: Path, *, limit: int | None = None, seed: int = 0) -> tuple[RequestTable, IntArray]:
    """Reads a trace.

    Args:
        path: .csv or .jsonl, plain or gzip.
        limit: take the first so many requests.
        seed: of the random token ids of a CSV.

    Returns:
        The requests in file order, with their own output length rounded up to a power of two as
        max_new_tokens, and the true output lengths, (n,) int64.

    Raises:
        InputError: unreadable, or a line with wrong fields.
    """
    if ".jsonl" in path.suffixes:
        token_ids, prompt_len, output_len = _read_blocks(path, limit)
    else:
        trace = read_trace(path).trace
        assert trace is not None, "read_trace fills the trace"
        prompt_len, output_len = trace[:limit, 0].copy(), trace[:limit, 1].copy()
        token_ids = np.random.default_rng(seed).integers(0, 2**31 - 1, int(prompt_len.sum()), dtype=np.int32)
    caps = 2 ** np.ceil(np.log2(np.maximum(output_len, 1))).astype(np.int64)
    table = RequestTable(
        token_ids=token_ids,
        offsets=np.concatenate([[0], np.cumsum(prompt_len)]).astype(np.int64),
        max_new_tokens=np.maximum(caps, output_len),
        fixed_output=np.zeros(len(prompt_len), np.bool_),
        namespace=np.zeros(len(prompt_len), np.int32),
    )
    return table, output_len


def _read_blocks(path: Path, limit: int | None) -> tuple[NDArray[np.int32], IntArray, IntArray]:
    prompts: list[NDArray[np.int32]] = []
    outputs: list[int] = []
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if limit is not None and len(prompts) >= limit:
                    break
                prompt, output = _parse_block_line(path, number, line)
                prompts.append(prompt)
                outputs.append(output)
    except OSError as error:
        raise InputError(f"trace {str(path)!r} cannot be read ({error}); give a JSON Lines file.") from error
    if not prompts:
        raise InputError(f"trace {str(path)!r} has no requests; give at least one line.")
    lengths = np.array([len(p) for p in prompts], dtype=np.int64)
    return np.concatenate(prompts), lengths, np.array(outputs, dtype=np.int64)


def _parse_block_line(path: Path, number: int, line: bytes) -> tuple[NDArray[np.int32], int]:
    try:
        record = orjson.loads(line)
        prompt_len, output_len, ids = (
            int(record["prompt_tokens"]),
            int(record["output_tokens"]),
            record["hash_ids"],
        )
        first = np.asarray(ids, dtype=np.int64)[:, None] * HASH_BLOCK_TOKENS
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"trace {str(path)!r} line {number} is not a request ({error}); needed are prompt_tokens, "
            "output_tokens, hash_ids."
        ) from error
    tokens = (first + np.arange(HASH_BLOCK_TOKENS)).reshape(-1)
    if (
        prompt_len < 1
        or output_len < 0
        or len(tokens) < prompt_len
        or (len(tokens) and tokens.max() >= 2**31)
    ):
        raise InputError(
            f"trace {str(path)!r} line {number}: {len(ids)} hash_ids do not cover {prompt_len} prompt tokens."
        )
    return tokens[:prompt_len].astype(np.int32), output_len
