"""Reads the prompts of a batch file for planning: lines to token ids, without the engine.

The main job tokenizes through SGLang's own serving classes; this is for looking at a file on a machine
without SGLang. Lines are read and checked as the job does (`job.batch_file`); one that cannot be used is
counted and left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sglang_blend.config import Reading
from sglang_blend.core.request import RequestTable
from sglang_blend.core.table_builder import TableBuilder
from sglang_blend.errors import ConfigError, InputError
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.job.line_index import LineIndex
from sglang_blend.job.plan_facts import text_of_body
from sglang_blend.location import Location
from sglang_blend.request import BatchLine, Prepared, Rejection, namespace

# Lengths are planned; a cap that a line does not name is guessed.
DEFAULT_MAX_TOKENS = 512
_APPROXIMATE_TOKEN_BYTES = 4


class Tokenizer(Protocol):
    """Text or chat turns to token ids."""

    name: str
    approximate: bool

    def encode(self, text: str) -> list[int]:
        """Token ids of a completion prompt."""
        ...

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """Token ids of chat turns in their template, ready for the answer."""
        ...


class ByteTokenizer:
    """Stands in for a tokenizer: four UTF-8 bytes are a token, chat turns are written in ChatML.

    English prose has about 4.4 bytes a token in common vocabularies, code and other scripts fewer.
    """

    name = f"bytes, {_APPROXIMATE_TOKEN_BYTES} a token (approximate)"
    approximate = True

    def encode(self, text: str) -> list[int]:
        """Ids are the bytes themselves, 31 bits of them."""
        raw = text.encode("utf-8", "surrogatepass")
        raw += b"\0" * (-len(raw) % _APPROXIMATE_TOKEN_BYTES)
        ids: list[int] = (np.frombuffer(raw, "<u4") & 0x7FFFFFFF).tolist()
        return ids

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """As text, each turn between `<|im_start|>` and `<|im_end|>`."""
        turns = [f"<|im_start|>{m.get('role', 'user')}\n{_text_of(m)}<|im_end|>\n" for m in messages]
        return self.encode("".join(turns) + "<|im_start|>assistant\n")


class ModelTokenizer:
    """The tokenizer and chat template of a model folder, through transformers."""

    approximate = False

    def __init__(self, model_path: str) -> None:
        """Load the tokenizer.

        Raises:
            ConfigError: transformers is not installed, or the folder has no tokenizer.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ConfigError(
                "--model-path needs the transformers package to tokenize; run `pip install transformers`, "
                "or name a --model-shape to count approximate tokens"
            ) from error
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"--model-path {model_path!r} has no usable tokenizer: {reason}") from error
        self.name = f"tokenizer of {model_path}"

    def encode(self, text: str) -> list[int]:
        """As the model sees a raw prompt."""
        return list(self._tokenizer.encode(text))

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """Through the model's chat template; without one, as plain text."""
        if self._tokenizer.chat_template is None:
            return self.encode("\n".join(_text_of(m) for m in messages))
        turns = [{**m, "content": _text_of(m)} for m in messages]
        try:
            ids = self._tokenizer.apply_chat_template(
                turns, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except ImportError as error:
            raise ConfigError(
                "the chat template of --model-path needs the jinja2 package; run `pip install jinja2`"
            ) from error
        return list(ids)


class BatchPrompts(NamedTuple):
    """A batch file, ready to plan.

    Attributes:
        table: the requests; rid is their number in the file.
        num_skipped: lines left out.
        first_skipped: why the first of them was, with its line number; empty when none was.
        num_without_cap: requests that name no max_tokens.
        positions: (n, 2) int64, byte offset and number of each line, as `BatchFile.line` takes them.
    """

    table: RequestTable
    num_skipped: int
    first_skipped: str
    num_without_cap: int
    positions: NDArray[np.int64]


def read_batch_prompts(
    place: Location, tokenizer: Tokenizer, default_max_tokens: int, reading: Reading | None = None
) -> BatchPrompts:
    """Tokenize every usable line of a batch file, or row of a table.

    Args:
        place: whatever a job can read.
        reading: format and columns; None: by a look at the file.
        default_max_tokens: cap for lines that name none.

    Raises:
        InputError: the file cannot be read, or no line of it can be used.
    """
    builder = TableBuilder()
    positions: list[tuple[int, int]] = []
    num_skipped, first_skipped, num_without_cap = 0, "", 0
    with BatchFile(place, reading=reading) as batch:
        for line in _first_of_each_custom_id(batch):
            try:
                if isinstance(line, Rejection):
                    raise ValueError(line.message)
                cap, named, exact = _cap(line.body, line.url, default_max_tokens)
                prompts = [np.array(ids, np.int32) for ids in _prompts(line.body, tokenizer)]
                if not prompts or not all(len(prompt) for prompt in prompts):
                    raise ValueError("the prompt is empty")
                copies = _whole(line.body, "n", 1)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                num_skipped += 1
                first_skipped = first_skipped or f"line {line.line_number}: {error}"
                continue
            for prompt in prompts * max(copies, 1):
                builder.append(Prepared(prompt, cap, exact, _namespace(line.body)))
                num_without_cap += not named
                positions.append((line.offset, line.line_number))
    if not len(builder):
        detail = f" ({first_skipped})" if first_skipped else ""
        raise InputError(
            f"{str(place)!r} has no line that can be planned{detail}; it must hold OpenAI Batch lines, "
            "or rows with prompts"
        )
    return BatchPrompts(
        builder.table(), num_skipped, first_skipped, num_without_cap, np.array(positions, np.int64)
    )


@contextmanager
def texts_of(
    place: Location, prompts: BatchPrompts, reading: Reading | None = None
) -> Iterator[Callable[[int], str]]:
    """What a request of `read_batch_prompts(place)` asks, as text, by its row."""
    with BatchFile(place, reading=reading) as batch:

        def text_of_row(row: int) -> str:
            offset, number = prompts.positions[row].tolist()
            return text_of_body(batch.line(offset, number).body)

        yield text_of_row


def _first_of_each_custom_id(batch: BatchFile) -> Iterator[BatchLine | Rejection]:
    index = LineIndex.build(batch)
    return itertools.chain(index.refused(), index.accepted())


def _cap(body: dict[str, Any], url: str, default: int) -> tuple[int, bool, bool]:
    """Output cap, whether the line names it, and whether the output is exactly that long."""
    if url.endswith("/embeddings"):
        return 0, True, True
    for key in ("max_completion_tokens", "max_tokens"):
        if body.get(key) is not None:
            return _whole(body, key, 0), True, bool(body.get("ignore_eos", False))
    return default, False, False


def _whole(body: dict[str, Any], key: str, default: int) -> int:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} is {value!r}, a whole number of 0 or more is allowed")
    return value


def _prompts(body: dict[str, Any], tokenizer: Tokenizer) -> list[list[int]]:
    if "messages" in body:
        return [tokenizer.encode_chat(body["messages"])]
    prompt = body["prompt"] if "prompt" in body else body["input"]
    encode: Callable[[Any], list[int]] = lambda p: tokenizer.encode(p) if isinstance(p, str) else list(p)  # noqa: E731
    several = isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt)
    return [encode(each) for each in prompt] if several else [encode(prompt)]


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content)


def _namespace(body: dict[str, Any]) -> str:
    return namespace(body.get("lora_path"), f"{body.get('cache_salt') or ''}{body.get('extra_key') or ''}")
