"""A list given to `Engine.generate`, taken apart into single requests that are known to be sound.

    requests = await read_list(manager, request)      # a GenerateReqInput with a list in it
    requests.failed                                   # row -> why it cannot run, found before anything runs
    requests.table(requests.sound, context_len)       # what planning needs of the others

Row `i` is the `i`-th dict of the result, so a prompt with n answers has n rows. Prompts are tokenized and
judged by SGLang's own tokenizer manager.

SGLang 0.5.17: `GenerateReqInput.normalize_batch_and_arguments` and `__getitem__`,
`TokenizerManager._tokenize_texts`, `_validate_one_request` and `_create_tokenized_object`.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.sampling.sampling_params import SamplingParams

from sglang_blend.core import RequestTable
from sglang_blend.core.table_builder import TableBuilder
from sglang_blend.request import Prepared, namespace

# Texts tokenized in one call: the event loop stands still for so long.
_TEXTS_PER_CALL = 256


@dataclass
class RequestList:
    """The rows of a list.

    Attributes:
        singles: a request for each row, with token ids where they are known.
        params: what SGLang makes of the sampling parameters of each row that can run.
        failed: rows that cannot run, with the exception that SGLang raises for them.
    """

    singles: list[GenerateReqInput]
    params: dict[int, SamplingParams] = field(default_factory=dict)
    failed: dict[int, Exception] = field(default_factory=dict)

    @property
    def sound(self) -> list[int]:
        """The rows that can run, in input order."""
        return list(self.params)

    def table(self, rows: Sequence[int], context_len: int) -> RequestTable:
        """The rows as the planner wants them; row `i` of the table is `rows[i]`."""
        return TableBuilder().extend(self._prepared(row, context_len) for row in rows).table()

    def _prepared(self, row: int, context_len: int) -> Prepared:
        single, params = self.singles[row], self.params[row]
        room = context_len - len(single.input_ids)
        cap = room if params.max_new_tokens is None else min(params.max_new_tokens, room)
        key = namespace(single.lora_path, single.extra_key)
        return Prepared(single.input_ids, cap, bool(params.ignore_eos), key)


async def read_list(manager: TokenizerManager, request: GenerateReqInput) -> RequestList:
    """Take the list apart, tokenize it where it can be planned, and find the rows that cannot run.

    Normalizes `request`.

    Raises:
        ValueError: the arguments of the whole list do not fit together, as SGLang says it.
    """
    planned = can_plan(request)
    request.normalize_batch_and_arguments()
    copies = request.parallel_sample_num
    prompts = [request[i] for i in range(request.batch_size)]
    without_ids = await _tokenize(manager, prompts) if planned else {}
    requests = RequestList([single for prompt in prompts for single in _copies(prompt, copies)])
    read_params = _ParamsReader(manager)
    for row, single in enumerate(requests.singles):
        try:
            if (prompt_number := row // copies) in without_ids:
                raise without_ids[prompt_number]
            if planned:
                _check_prompt(manager, single)
            requests.params[row] = read_params(single.sampling_params)
        except (ValueError, TypeError) as e:
            requests.failed[row] = e
    return requests


def is_list(request: GenerateReqInput) -> bool:
    """Whether the answer is a list; SGLang says so only after normalization."""
    params = request.sampling_params
    if isinstance(params, dict) and params.get("n", 1) != 1:
        return True
    if request.text is not None:
        return not isinstance(request.text, str)
    if request.input_ids is not None:
        return bool(request.input_ids) and not isinstance(request.input_ids[0], int)
    return bool(request.input_embeds) and not isinstance(request.input_embeds[0][0], float)


def can_plan(request: GenerateReqInput) -> bool:
    """Whether every prompt is token ids and nothing else, and any order will do.

    Images and other media have tokens that only SGLang's processors know, sessions have an order, and in
    prefill-decode disaggregation the other side has one.
    """
    return (
        not request.contains_mm_input()
        and request.input_embeds is None
        and request.session_params is None
        and request.bootstrap_host is None
    )


def _copies(prompt: GenerateReqInput, n: int) -> list[GenerateReqInput]:
    """The prompt once for each of its answers, with parameters of its own; rids as SGLang makes them."""
    made = []
    for _ in range(n):
        single = copy.copy(prompt)
        single.sampling_params = {**prompt.sampling_params, **({"n": 1} if n > 1 else {})}
        if n > 1:
            single.regenerate_rid(prefix=prompt.rid)
        made.append(single)
    return made


async def _tokenize(manager: TokenizerManager, prompts: list[GenerateReqInput]) -> dict[int, Exception]:
    """Give each prompt of text its token ids; returns the prompts that have none, and why."""
    failed: dict[int, Exception] = {}
    texts = [i for i, prompt in enumerate(prompts) if prompt.input_ids is None]
    for start in range(0, len(texts), _TEXTS_PER_CALL):
        some = texts[start : start + _TEXTS_PER_CALL]
        if all(isinstance(prompts[i].text, str) and prompts[i].text for i in some):
            token_ids, _ = await manager._tokenize_texts([prompts[i].text for i in some])
            for i, ids in zip(some, token_ids, strict=True):
                prompts[i].input_ids = ids
        else:
            for i in some:
                try:
                    prompts[i].input_ids, _ = await manager._tokenize_texts(prompts[i].text)
                except (ValueError, TypeError) as e:
                    failed[i] = e
        await asyncio.sleep(0)
    return failed


def _check_prompt(manager: TokenizerManager, single: GenerateReqInput) -> None:
    """As SGLang before it sends a request, and what it checks nowhere: an id beyond the model's ends it."""
    ids, vocab_size = single.input_ids, manager.model_config.vocab_size
    if not ids:
        raise ValueError("The prompt has no token.")
    if min(ids) < 0 or max(ids) >= vocab_size:
        bad = next(i for i in ids if not 0 <= i < vocab_size)
        raise ValueError(f"The prompt has the token id {bad}; the model has 0 to {vocab_size - 1}.")
    manager._validate_one_request(single, ids)


class _ParamsReader:
    """SGLang's own reading of sampling parameters, once for rows that follow each other with the same."""

    def __init__(self, manager: TokenizerManager) -> None:
        self._manager = manager
        self._last: tuple[dict[str, Any], SamplingParams] | None = None

    def __call__(self, given: dict[str, Any]) -> SamplingParams:
        """Raises ValueError or TypeError, as SGLang would when the request runs."""
        if self._last is None or self._last[0] != given:
            manager = self._manager
            params = manager.sampling_params_class(**{**(manager.preferred_sampling_params or {}), **given})
            params.normalize(manager.tokenizer)
            params.verify(manager.model_config.vocab_size)
            self._last = given, params
        return self._last[1]
