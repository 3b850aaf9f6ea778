"""Whatever SGLang's engine, runtime and package offer, ours offer too; without an engine running."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import sglang_blend
from sglang_blend.errors import ConfigError, ForkError

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

OURS_ONLY = {"__init__": {"order", "window"}, "generate": {"on_error", "progress"}}
OURS_ONLY["async_generate"] = OURS_ONLY["generate"]


def methods(cls: type) -> dict[str, Callable[..., Any]]:
    """The constructor and the public functions of a class."""
    found = inspect.getmembers(cls, callable)
    return {name: f for name, f in found if name == "__init__" or not name.startswith("_")}


def described(parameter: inspect.Parameter) -> tuple[Any, ...]:
    return parameter.name, parameter.kind, parameter.default


@pytest.mark.parametrize("name", ["Engine", "Runtime"])
def test_every_parameter_of_every_method_is_there(name: str) -> None:
    """With its default and in its place; ours come after them."""
    ours = getattr(sglang_blend, name)
    stock = ours.__mro__[1]
    assert stock.__module__.startswith("sglang.")
    for method_name, method in methods(stock).items():
        mine = list(inspect.signature(getattr(ours, method_name)).parameters.values())
        extra = OURS_ONLY.get(method_name, set()) if ours is sglang_blend.Engine else set()
        assert [described(p) for p in mine if p.name not in extra] == [
            described(p) for p in inspect.signature(method).parameters.values()
        ], method_name
        assert {p.name for p in mine} >= extra


def test_every_argument_of_generate_reaches_the_request() -> None:
    engine = object.__new__(sglang_blend.Engine)
    engine.server_args = SimpleNamespace(dp_size=2)
    stock = sglang_blend.Engine.__mro__[1]
    for name in list(inspect.signature(stock.generate).parameters)[1:]:
        value = 1 if name == "routed_dp_rank" else object()
        if name == "data_parallel_rank":
            with pytest.warns(DeprecationWarning, match="use 'routed_dp_rank'"):
                assert engine._request(data_parallel_rank=1).routed_dp_rank == 1
        else:
            request = engine._request(**{name: value})
            assert getattr(request, "text" if name == "prompt" else name) is value, name
    assert engine._request("a", {"n": 2}).sampling_params == {"n": 2}
    with pytest.raises(TypeError, match="no_such"):
        engine._request(no_such=1)


def test_the_options_of_sglang_and_ours_do_not_meet() -> None:
    assert not OURS_ONLY["__init__"] & {field.name for field in dataclasses.fields(server_args_class())}


def test_the_package_has_every_public_name_of_sglang() -> None:
    sglang = importlib.import_module("sglang")
    assert set(sglang_blend.__all__) == set(sglang.__all__)
    assert sglang_blend.gen is sglang.gen
    assert sglang_blend.set_default_backend is sglang.set_default_backend
    with pytest.raises(AttributeError, match="no_such"):
        _ = sglang_blend.no_such


def test_another_sglang_is_refused_with_the_mending_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglang_blend.fork.installed.installed_version", lambda: "0.5.16")
    for name in ("Engine", "Runtime"):
        with pytest.raises(ForkError, match=r"0\.5\.16 is installed: run `sglang-blend fork install`"):
            getattr(sglang_blend, name)
    with pytest.raises(ForkError):
        engine_class()()


def server_args_class() -> Any:
    from sglang.srt.server_args import ServerArgs

    return ServerArgs


def engine_class() -> Any:
    """As somebody has it who imported it before the installation changed."""
    from sglang_blend.srt.engine import Engine

    return Engine


@pytest.mark.parametrize(
    ("given", "words"),
    [({"order": "alphabetical"}, "one of .*dual-scan.* is allowed"), ({"window": 0}, "at least 1")],
)
def test_an_option_of_ours_that_means_nothing_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        engine_class()(**given)


def test_what_the_caller_names_goes_before_our_defaults() -> None:
    from sglang_blend.srt.flags import with_engine_defaults

    assert with_engine_defaults({"model_path": "mine"})["schedule_policy"] == "dual-scan"
    named = {"model_path": "mine", "schedule_policy": "lpm", "disable_overlap_schedule": False}
    assert with_engine_defaults(named) == named


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"prompt": ["a"] * 16}, True),
        ({"prompt": ["a"] * 15}, False),
        ({"input_ids": [[1]] * 16}, True),
        ({"prompt": "a", "sampling_params": {"n": 16}}, True),
        ({"prompt": ["a"] * 8, "sampling_params": [{"n": 2}] * 8}, True),
        ({"prompt": ["a"] * 16, "image_data": ["a.png"] * 16}, False),
        ({"prompt": ["a"] * 16, "image_data": [None] * 16}, True),
        ({"prompt": ["a"] * 16, "session_params": {"id": "s"}}, False),
        ({"prompt": ["a"] * 16, "bootstrap_host": "host"}, False),
    ],
)
def test_a_list_is_planned_where_any_order_will_do(given: dict[str, Any], expected: bool) -> None:
    """And never under a policy that does not execute plans."""
    from sglang_blend.request import EngineFacts
    from sglang_blend.srt.list_answers import is_worth_planning
    from sglang_blend.srt.request_list import is_list

    facts = EngineFacts({}, "cpu", 1, 1000, 1, 8, "dual-scan")
    request = object.__new__(sglang_blend.Engine)._request(**given)
    assert is_list(request)
    assert is_worth_planning(request, facts) is expected
    assert not is_worth_planning(request, facts._replace(policy="fcfs"))
