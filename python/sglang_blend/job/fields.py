"""Checks of single values in a request body: small makers of functions from a value to a `Problem` or None.

JSON types are strict: `"8"` and `true` are no numbers. A whole number may be written `8.0`, as tools
for tables do. Codes are those of OpenAI's API.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

INT64_MAX = 2**63 - 1


class Problem(NamedTuple):
    """What is wrong with a value: an OpenAI error code and the rest of a sentence that begins with its name.

    `at` is the way from the field to the value, as in `.0.content`.
    """

    code: str
    message: str
    at: str = ""


Check = Callable[[Any], Problem | None]


def kind(value: object) -> str:
    """A JSON value's type in words."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def wrong_type(wanted: str, value: object, at: str = "") -> Problem:
    """The value's type is not allowed."""
    return Problem("invalid_type", f"must be {wanted}, not {kind(value)}", at)


def anything(value: object) -> Problem | None:
    """Whatever SGLang makes of it."""
    return None


def boolean(value: object) -> Problem | None:
    """true or false."""
    return None if isinstance(value, bool) else wrong_type("true or false", value)


def string(value: object) -> Problem | None:
    """Any string."""
    return None if isinstance(value, str) else wrong_type("a string", value)


def an_object(value: object) -> Problem | None:
    """Any object."""
    return None if isinstance(value, dict) else wrong_type("an object", value)


def integer(low: int, high: int = INT64_MAX) -> Check:
    """A whole number within bounds."""

    def check(value: object) -> Problem | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return wrong_type("a whole number", value)
        if isinstance(value, float) and not value.is_integer():
            return Problem("invalid_type", f"is {value}, but must be a whole number")
        if value < low:
            return Problem("integer_below_min_value", f"is {value:.0f}, but must be at least {low}")
        if value > high:
            return Problem("integer_above_max_value", f"is {value:.0f}, but must be at most {high}")
        return None

    return check


def number(low: float, high: float, *, above_low: bool = False) -> Check:
    """A finite number within bounds; `above_low` excludes the lower one."""

    def check(value: object) -> Problem | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return wrong_type("a number", value)
        if not math.isfinite(value):
            return Problem("invalid_value", "must be a finite number")
        if above_low and value <= low:
            return Problem("invalid_value", f"is {value}, but must be more than {low:g}")
        if value < low:
            return Problem("decimal_below_min_value", f"is {value}, but must be at least {low:g}")
        if value > high:
            return Problem("decimal_above_max_value", f"is {value}, but must be at most {high:g}")
        return None

    return check


def one_of(*allowed: str) -> Check:
    """One of these strings."""

    def check(value: object) -> Problem | None:
        if not isinstance(value, str):
            return wrong_type("a string", value)
        if value not in allowed:
            return Problem("invalid_value", f"is {short(value)}; allowed are {', '.join(allowed)}")
        return None

    return check


def either(wanted: str, *checks: Check) -> Check:
    """What one of the checks takes; `wanted` says it in words. The complaint is that of the closest check."""

    def check(value: object) -> Problem | None:
        problems = [check(value) for check in checks]
        if None in problems:
            return None
        closest = next((p for p in problems if p and (p.code != "invalid_type" or p.at)), None)
        return closest or wrong_type(wanted, value)

    return check


def array(item: Check, *, allow_empty: bool = False) -> Check:
    """An array whose elements all pass."""

    def check(value: object) -> Problem | None:
        if not isinstance(value, list):
            return wrong_type("an array", value)
        if not value and not allow_empty:
            return Problem("empty_array", "must not be empty")
        for i, element in enumerate(value):
            problem = item(element)
            if problem:
                return problem._replace(at=f".{i}{problem.at}")
        return None

    return check


def filled_string(value: object) -> Problem | None:
    """A string that is not empty."""
    if value == "":
        return Problem("invalid_value", "must not be empty")
    return string(value)


def short(value: object, limit: int = 60) -> str:
    """A value in an error message."""
    return cut(repr(value), limit)


def cut(text: str, limit: int) -> str:
    """At most so many characters, and dots for the rest."""
    return text if len(text) <= limit else f"{text[:limit]}..."
