"""n answers to one request become one answer, numbered and counted as OpenAI does."""

from typing import Any

from sglang_blend.srt.choices import RID_WIDTH, merge_choices, request_rid


def answer(*texts: str, prompt_tokens: int, completion_tokens: int, cached: int = 0) -> dict[str, Any]:
    return {
        "id": texts[0],
        "choices": [{"index": i, "text": text} for i, text in enumerate(texts)],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
            "reasoning_tokens": 1,
        },
    }


def test_one_answer_stays_as_it_is() -> None:
    assert merge_choices([answer("a", prompt_tokens=3, completion_tokens=2)]) == answer(
        "a", prompt_tokens=3, completion_tokens=2
    )


def test_choices_are_numbered_and_the_prompt_counts_once() -> None:
    merged = merge_choices(
        [
            answer(text, prompt_tokens=5, completion_tokens=n, cached=4)
            for n, text in enumerate("abc", start=1)
        ]
    )
    assert [(c["index"], c["text"]) for c in merged["choices"]] == [(0, "a"), (1, "b"), (2, "c")]
    assert merged["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 4},
        "reasoning_tokens": 3,
    }


def test_the_choices_of_a_prompt_stand_together() -> None:
    first = answer("a0", "b0", prompt_tokens=9, completion_tokens=2)
    second = answer("a1", "b1", prompt_tokens=9, completion_tokens=2)
    merged = merge_choices([first, second])
    assert [(c["index"], c["text"]) for c in merged["choices"]] == [
        (0, "a0"), (1, "a1"), (2, "b0"), (3, "b1"),
    ]  # fmt: skip


def test_no_rid_begins_like_another() -> None:
    """SGLang aborts by `startswith`: with rids of one width only equal ones match."""
    rids = [
        request_rid("0123abcd", number, choice, prompt)
        for number in (0, 1, 16, 10**9)
        for choice in (0, 127)
        for prompt in (0, 1, 16)
    ]
    assert {len(rid) for rid in rids} == {RID_WIDTH}
    assert len(set(rids)) == len(rids)
