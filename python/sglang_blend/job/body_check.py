"""Request bodies, as far as they can be judged without an engine: names, types, ranges, nesting.

What is left to SGLang: whether the prompt fits, token ids exist, a template renders, a schema or grammar
compiles. Unknown names are refused, as OpenAI does: a misspelt `max_token` would change the answer silently.
Known are OpenAI's parameters and those SGLang adds (`top_k`, `regex`, `ebnf`, `chat_template_kwargs` ...);
`tests/srt/test_body_fields.py` holds the list against SGLang's own models.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from sglang_blend.job.fields import (
    INT64_MAX,
    Check,
    Problem,
    an_object,
    anything,
    array,
    boolean,
    either,
    filled_string,
    integer,
    number,
    one_of,
    short,
    string,
    wrong_type,
)

MAX_DEPTH = 100  # objects and arrays within each other; templates and schema compilers recurse
MAX_CHOICES = 128  # `n`, as OpenAI
MAX_LOGPROBS = 100
_LONGEST_NAME = 60  # that is compared with the known ones

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "latest_reminder")
CONTENT_TYPES = ("text", "image_url", "video_url", "audio_url", "thinking", "reasoning", "tool_reference")

# Accepted for OpenAI's sake; they do not change an answer.
NO_EFFECT: dict[str, Check] = dict.fromkeys(
    (
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    ),
    anything,
)

# Known to OpenAI or SGLang and refused: they would be dropped silently, or make no sense in a batch.
NOT_SERVED = {
    "audio": "the engine answers with text",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "modalities": "the engine answers with text",
    "rid": "custom_id names the request",
    "session_id": "requests of a batch run in any order",
    "session_params": "requests of a batch run in any order",
    "verbosity": "SGLang does not know it",
    "web_search_options": "the engine has no web search",
}

_STRINGS = either("a string or an array of strings", string, array(string))
_STOP = either("a string or an array of strings", filled_string, array(filled_string, allow_empty=True))


def _token_id(value: object) -> Problem | None:
    """The engine knows how many there are."""
    problem = integer(0, 2**31 - 1)(value)
    return problem and (problem if problem.code == "invalid_type" else problem._replace(code="invalid_value"))


_TOKEN_IDS = array(_token_id)


def _top_k(value: object) -> Problem | None:
    problem = integer(-1)(value)
    if problem is None and value == 0:
        problem = Problem("invalid_value", "is 0, but must be -1 (all tokens) or at least 1")
    return problem and (problem if problem.code == "invalid_type" else problem._replace(code="invalid_value"))


def _prompt(value: object) -> Problem | None:
    """A text, texts, token ids, or several lists of token ids; nothing empty."""
    if isinstance(value, str):
        return filled_string(value)
    if not isinstance(value, list):
        return wrong_type("a string, an array of strings, or token ids", value)
    first = value[0] if value else ""
    if isinstance(first, bool):
        return wrong_type("a string, token ids or a token id", first, ".0")
    of_kind: dict[type, Check] = {str: filled_string, list: _TOKEN_IDS, dict: anything}
    item = of_kind.get(type(first), _token_id)
    return array(item)(value)


def _logit_bias(value: object) -> Problem | None:
    if not isinstance(value, dict):
        return wrong_type("an object", value)
    for token_id, bias in value.items():
        if not token_id.isdecimal():
            return Problem("invalid_value", f"has the key {short(token_id)}, which is no token id")
        problem = number(-100, 100)(bias)
        if problem:
            return problem._replace(at=f".{token_id}")
    return None


def _message(value: object) -> Problem | None:
    if not isinstance(value, dict):
        return wrong_type("an object with role and content", value)
    if value.get("role") is None:
        return Problem("missing_required_parameter", "is missing", ".role")
    problem = one_of(*ROLES)(value["role"])
    if problem:
        return problem._replace(at=".role")
    content = value.get("content")
    if content is None:
        if value["role"] == "assistant":  # tool calls and reasoning come without
            return None
        return Problem("missing_required_parameter", "is missing", ".content")
    problem = either("a string or an array of content parts", string, array(_content_part))(content)
    return problem and problem._replace(at=f".content{problem.at}")


def _content_part(value: object) -> Problem | None:
    if not isinstance(value, dict):
        return wrong_type("a content part", value)
    if value.get("type") is None:
        return Problem("missing_required_parameter", "is missing", ".type")
    problem = one_of(*CONTENT_TYPES)(value["type"])
    if problem:
        return problem._replace(at=".type")
    if value["type"] != "text":
        return None
    if value.get("text") is None:
        return Problem("missing_required_parameter", "is missing", ".text")
    problem = string(value["text"])
    return problem and problem._replace(at=".text")


def _tool(value: object) -> Problem | None:
    if not isinstance(value, dict):
        return wrong_type("an object", value)
    function = value.get("function")
    if function is None:
        return Problem("missing_required_parameter", "is missing", ".function")
    if not isinstance(function, dict):
        return wrong_type("an object", function, ".function")
    if function.get("name") is None:
        return Problem("missing_required_parameter", "is missing", ".function.name")
    problem = filled_string(function["name"])
    return problem._replace(at=".function.name") if problem else _schemas(function)


def _tool_choice(value: object) -> Problem | None:
    if isinstance(value, dict):
        return None
    return one_of("none", "auto", "required")(value)


def _response_format(value: object) -> Problem | None:
    if not isinstance(value, dict):
        return wrong_type("an object with a type", value)
    if value.get("type") is None:
        return Problem("missing_required_parameter", "is missing", ".type")
    problem = one_of("text", "json_object", "json_schema", "structural_tag")(value["type"])
    if problem:
        return problem._replace(at=".type")
    if value["type"] == "json_schema" and not isinstance(value.get("schema"), dict):
        named = value.get("json_schema")
        if named is None:
            return Problem("missing_required_parameter", "needs json_schema with name and schema")
        if not isinstance(named, dict):
            return wrong_type("an object", named, ".json_schema")
        if not isinstance(named.get("schema"), dict | None):
            return wrong_type("an object", named["schema"], ".json_schema.schema")
    return _schemas(value)


def _schemas(value: object) -> Problem | None:
    """Of the schemas inside: none refers to itself only."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, list):
            waiting.extend(current)
        elif isinstance(current, dict):
            for name, inner in current.items():
                # `json_schema` names one with `schema` inside, or is one itself.
                if name in ("schema", "parameters", "json_schema") and isinstance(inner, dict):
                    if refers_to_itself(inner):
                        return Problem("invalid_json_schema", "has a $ref that leads only to itself")
                    if name == "json_schema":
                        waiting.append(inner)
                else:
                    waiting.append(inner)
    return None


def _json_schema(value: object) -> Problem | None:
    """A schema as text."""
    problem = string(value)
    if problem or not isinstance(value, str):
        return problem
    try:
        return _schemas({"schema": orjson.loads(value)})
    except orjson.JSONDecodeError:
        return None  # for the engine to say


def refers_to_itself(schema: dict[str, Any]) -> bool:
    """Whether following `$ref` from `$ref` never arrives; grammar compilers follow for ever.

    Each reference is followed once, so this takes time in proportion to the schema.
    """
    arrives: set[str] = set()
    for node in _objects(schema):
        on_the_way: set[str] = set()
        while (
            isinstance(node, dict) and isinstance(target := node.get("$ref"), str) and target not in arrives
        ):
            if target in on_the_way:
                return True
            on_the_way.add(target)
            node = _target(schema, target)
        arrives |= on_the_way
    return False


def _target(schema: dict[str, Any], reference: str) -> object:
    """What a local `#/a/b` names; None for anything else."""
    node: object = schema
    for name in reference.removeprefix("#").split("/")[1:] if reference.startswith("#") else ["", ""]:
        name = name.replace("~1", "/").replace("~0", "~")
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _objects(value: object) -> Iterator[Any]:
    """All objects within a value."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            yield current
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)


def _template_kwargs(value: object) -> Problem | None:
    """A template is a program: of the model's side, not of a line's."""
    if isinstance(value, dict) and "chat_template" in value:
        return Problem(
            "unsupported_value", "is not taken from a line: name it with --chat-template", ".chat_template"
        )
    return an_object(value)


def _reasoning_effort(value: object) -> Problem | None:
    return either("a string or a number", string, number(0, 1))(value)


_COMMON: dict[str, Check] = {
    **NO_EFFECT,
    "model": string,
    "priority": integer(-(2**31), 2**31 - 1),
    "lora_path": anything,
}

_GENERATION: dict[str, Check] = {
    **_COMMON,
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": number(0, 2, above_low=True),
    "temperature": number(0, float("inf")),
    "top_p": number(0, 1, above_low=True),
    "min_p": number(0, 1),
    "top_k": _top_k,
    "max_tokens": integer(1),
    "min_tokens": integer(0),
    "n": integer(1, MAX_CHOICES),
    "seed": integer(-INT64_MAX - 1),
    "stop": _STOP,
    "stop_token_ids": array(_token_id, allow_empty=True),
    "stop_regex": _STRINGS,
    "logit_bias": _logit_bias,
    "stream": boolean,
    "stream_options": an_object,
    "response_format": _response_format,
    "regex": string,
    "ebnf": string,
    "ignore_eos": boolean,
    "no_stop_trim": boolean,
    "skip_special_tokens": boolean,
    "custom_params": an_object,
    "extra_key": anything,
    "cache_salt": anything,
    "return_cached_tokens_details": boolean,
    "return_token_ids": boolean,
    "return_routed_experts": boolean,
    "routed_experts_start_len": integer(0),
    **dict.fromkeys(
        ("bootstrap_host", "bootstrap_port", "bootstrap_room", "custom_logit_processor",
         "data_parallel_rank", "disagg_prefill_dp_rank", "images_config", "return_hidden_states",
         "routed_dp_rank"),
        anything,
    ),
}  # fmt: skip

FIELDS: dict[str, dict[str, Check]] = {
    "/v1/chat/completions": {
        **_GENERATION,
        "messages": array(_message),
        "max_completion_tokens": integer(1),
        "logprobs": boolean,
        "top_logprobs": integer(0, MAX_LOGPROBS),
        "tools": array(_tool, allow_empty=True),
        "tool_choice": _tool_choice,
        "parallel_tool_calls": boolean,
        "reasoning": anything,
        "reasoning_effort": _reasoning_effort,
        "separate_reasoning": boolean,
        "stream_reasoning": boolean,
        "chat_template_kwargs": _template_kwargs,
        "continue_final_message": boolean,
        "input_ids": _TOKEN_IDS,
        "return_prompt_token_ids": boolean,
        "return_meta_info": boolean,
        "task": string,
        "max_dynamic_patch": integer(1),
        "min_dynamic_patch": integer(1),
        "use_audio_in_video": boolean,
    },
    "/v1/completions": {
        **_GENERATION,
        "prompt": _prompt,
        "best_of": integer(1, MAX_CHOICES),
        "custom_labels": anything,
        "echo": boolean,
        "logprobs": integer(0, MAX_LOGPROBS),
        "suffix": string,
        "json_schema": _json_schema,
    },
    "/v1/embeddings": {
        **_COMMON,
        "input": _prompt,
        "encoding_format": one_of("float", "base64"),
        "dimensions": integer(1),
        "embed_override_token_id": integer(0),
        "embed_overrides": anything,
    },
}
URLS = tuple(FIELDS)
REQUIRED = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}


def without_nulls(body: Mapping[str, Any], url: str) -> dict[str, Any]:
    """null means absent, for every parameter but the prompt."""
    return {name: value for name, value in body.items() if value is not None or name == REQUIRED[url]}


def check_body(url: str, body: Mapping[str, Any]) -> Problem | None:
    """The first thing wrong with a body, whose name is in `at`; None where it is for the engine to judge.

    Args:
        url: one of `URLS`.
        body: `without_nulls`.
    """
    if _is_too_deep(body):
        return Problem("invalid_value", f"nests more than {MAX_DEPTH} objects and arrays")
    known, required = FIELDS[url], REQUIRED[url]
    if required not in body:
        if url == "/v1/embeddings" and ("messages" in body or "prompt" in body):
            return Problem("url_mismatch", f"is {url}, but the body is one for generation", "url")
        return Problem("missing_required_parameter", f"is missing; {url} needs it", required)
    for name in body:
        if name not in known:
            return _unknown(name, known)
    for name, value in body.items():
        problem = known[name](value)
        if problem:
            return problem._replace(at=f"{name}{problem.at}")
    return _together(body)


def _together(body: Mapping[str, Any]) -> Problem | None:
    """Parameters that contradict each other, or that a batch cannot serve."""
    if body.get("stream"):
        return Problem("unsupported_value", "has no meaning in a batch; leave it out", "stream")
    if "stream_options" in body:
        return Problem("invalid_value", "is for streaming only; leave it out", "stream_options")
    if "top_logprobs" in body and not body.get("logprobs"):
        return Problem("invalid_value", "needs logprobs: true", "top_logprobs")
    unknown_tool = _unknown_tool(body)
    if unknown_tool:
        return unknown_tool
    best_of = body.get("best_of")
    if best_of is not None and best_of != body.get("n", 1):
        return Problem("unsupported_value", f"is {best_of}; SGLang gives n answers and ranks none", "best_of")
    return None


def _unknown_tool(body: Mapping[str, Any]) -> Problem | None:
    """A `tool_choice` must name one of the tools, of the request or of one of its messages."""
    choice = body.get("tool_choice")
    if not isinstance(choice, dict) or any("tools" in message for message in body["messages"]):
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    names = [tool["function"]["name"] for tool in body.get("tools", ())]
    if name in names:
        return None
    known = ", ".join(names) or "none"
    return Problem("invalid_value", f"names the tool {short(name)}; the request has {known}", "tool_choice")


def _unknown(name: str, known: Mapping[str, Check]) -> Problem:
    if name in NOT_SERVED:
        return Problem("unsupported_parameter", f"is not served: {NOT_SERVED[name]}", name)
    close = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1)
    hint = f"; did you mean {close[0]}?" if close else "; take it out"
    return Problem("unknown_parameter", f"is unknown{hint}", name)


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[object] = []
        for element in level:
            if isinstance(element, dict):
                inner.extend(v for v in element.values() if isinstance(v, dict | list))
            elif isinstance(element, list):
                inner.extend(v for v in element if isinstance(v, dict | list))
        if not inner:
            return False
        level = inner
    return True
