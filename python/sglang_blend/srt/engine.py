"""`sglang_blend.Engine`: SGLang's engine with one difference, that a list of prompts is run as a planned job.

    with sglang_blend.Engine(model_path="...") as engine:
        answers = engine.generate(prompts, {"max_new_tokens": 64}, on_error="return", progress=True)

Everything else is SGLang's. What a notebook needs besides: the engine has an event loop of its own, so that
every method works where a loop is running; Ctrl-C ends the call and not the engine; `shutdown` ends the
processes of this engine and no others.

SGLang 0.5.17: `Engine.generate`, `async_generate`, `_launch_scheduler_processes`,
`_launch_detokenizer_subprocesses`, `shutdown`; every method that waits does so by `self.loop`.
"""

from __future__ import annotations

import atexit
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from multiprocessing import resource_tracker
from typing import Any, Literal, get_args

import psutil
from sglang.srt.entrypoints.engine import Engine as SGLangEngine
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.plugins import load_plugins

from sglang_blend import fork
from sglang_blend.config import JOB_ORDERS
from sglang_blend.errors import ConfigError
from sglang_blend.request import EngineFacts
from sglang_blend.srt.engine_facts import engine_facts
from sglang_blend.srt.flags import with_engine_defaults
from sglang_blend.srt.list_answers import ListOptions, answer_list, error_answer, is_worth_planning
from sglang_blend.srt.loop_thread import LoopThread
from sglang_blend.srt.own_processes import children_without_interrupts, end_processes
from sglang_blend.srt.request_list import is_list

OnError = Literal["raise", "return"]
_STOCK_GENERATE = inspect.signature(SGLangEngine.generate)


def _also_takes_what_sglang_takes(method: Callable[..., Any]) -> Callable[..., Any]:
    """Show SGLang's parameters, and ours after them, to whoever asks for the signature."""
    stock = inspect.signature(getattr(SGLangEngine, method.__name__))
    parameters = inspect.signature(method).parameters.values()
    ours = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    method.__signature__ = stock.replace(parameters=[*stock.parameters.values(), *ours])  # type: ignore[attr-defined]
    return method


class Engine(SGLangEngine):
    """Takes SGLang's arguments (`ServerArgs`) and three more.

    Args:
        order: in which a list is run; "auto" picks by predicted time.
        window: prompts of a list that are with the scheduler at a time; None takes twice what it runs at
            once, at least 256 and at most 4096.
        kwargs: of SGLang's `ServerArgs`. Without `model_path` the demo model is used; without
            `schedule_policy` ours, "dual-scan". With another policy a list is handed over as SGLang does.

    Raises:
        ForkError: the installed sglang is not the fork.
        ConfigError: the order or the window is none.
    """

    send_to_rpc: Any  # set by SGLang's Engine

    def __init__(self, *, order: str = "auto", window: int | None = None, **kwargs: Any) -> None:
        fork.require()
        if order not in JOB_ORDERS:
            raise ConfigError(f"order is {order!r}; one of {', '.join(JOB_ORDERS)} is allowed.")
        if window is not None and window < 1:
            raise ConfigError(f"window is {window}; at least 1, or None, is allowed.")
        self._order, self._window = order, window
        self._facts: EngineFacts | None = None
        self._is_shut_down = False
        load_plugins()
        resource_tracker.ensure_running()  # Python's own, which outlives the engine
        before = set(psutil.Process().children())
        try:
            super().__init__(**(kwargs if "server_args" in kwargs else with_engine_defaults(kwargs)))
        except BaseException:
            atexit.unregister(self.shutdown)
            end_processes([process.pid for process in set(psutil.Process().children()) - before])
            raise
        self.loop = LoopThread("engine")

    @_also_takes_what_sglang_takes
    def generate(
        self, *args: Any, on_error: OnError = "raise", progress: bool = False, **kwargs: Any
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        """As SGLang's `generate`; a list is planned, and its answers come back in its order.

        Args:
            *args: SGLang's.
            **kwargs: SGLang's.
            on_error: "raise" ends the call at the first prompt that fails, and aborts the others; "return"
                puts `{"error": {"message", "type", "param", "code"}, "meta_info": {"id"}}` in its place.
            progress: draw a bar on stderr while a list runs.

        Raises:
            ValueError: as SGLang's. Prompts and parameters of a planned list are judged before it runs.
            EngineError: the engine was shut down.
        """
        request = self._request(*args, **kwargs)
        answers = self._answers(request, self._options(on_error, progress))
        if request.stream:
            return self.loop.iterate(answers)
        return self.loop.run_until_complete(_only(answers))

    @_also_takes_what_sglang_takes
    async def async_generate(
        self, *args: Any, on_error: OnError = "raise", progress: bool = False, **kwargs: Any
    ) -> dict[str, Any] | list[dict[str, Any]] | AsyncIterator[dict[str, Any]]:
        """`generate` for somebody in an event loop; see there. Cancelled, it aborts its requests."""
        request = self._request(*args, **kwargs)
        answers = self._answers(request, self._options(on_error, progress))
        if request.stream is True:
            return self.loop.aiterate(answers)
        return await self.loop.run(_only(answers))

    @_also_takes_what_sglang_takes
    async def async_encode(self, *args: Any, **kwargs: Any) -> Any:
        """As SGLang's, from any event loop."""
        return await self.loop.run(super().async_encode(*args, **kwargs))

    @_also_takes_what_sglang_takes
    async def async_score(self, *args: Any, **kwargs: Any) -> Any:
        """As SGLang's, from any event loop."""
        return await self.loop.run(super().async_score(*args, **kwargs))

    @_also_takes_what_sglang_takes
    async def async_load_lora_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """As SGLang's, from any event loop."""
        return await self.loop.run(super().async_load_lora_adapter(*args, **kwargs))

    @_also_takes_what_sglang_takes
    async def async_unload_lora_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """As SGLang's, from any event loop."""
        return await self.loop.run(super().async_unload_lora_adapter(*args, **kwargs))

    def shutdown(self) -> None:
        """End the processes of this engine, and wait until they are gone; more than once does no harm.

        SGLang's own kills every child of this process, also those of another engine.
        """
        if self._is_shut_down:
            return
        self._is_shut_down = True
        atexit.unregister(self.shutdown)
        if self.tokenizer_manager is not None and self.tokenizer_manager._subprocess_watchdog is not None:
            self.tokenizer_manager._subprocess_watchdog.stop()
        if self.send_to_rpc is not None:
            self.send_to_rpc.close(linger=0)
            self.send_to_rpc = None
        self._terminate_weight_cache_daemons(self._weight_cache_daemon_procs)
        self.loop.close(at_end=self._close_sockets)
        end_processes(self.get_all_child_pids())

    def _close_sockets(self) -> None:
        """Those of the tokenizer manager, which belong to the loop."""
        if isinstance(manager := self.tokenizer_manager, TokenizerManager):
            manager.send_to_scheduler.context.destroy(linger=0)

    @classmethod
    def _launch_scheduler_processes(cls, *args: Any, **kwargs: Any) -> Any:
        with children_without_interrupts():
            return super()._launch_scheduler_processes(*args, **kwargs)

    @classmethod
    def _launch_detokenizer_subprocesses(cls, *args: Any, **kwargs: Any) -> Any:
        with children_without_interrupts():
            return super()._launch_detokenizer_subprocesses(*args, **kwargs)

    def _request(self, *args: Any, **kwargs: Any) -> GenerateReqInput:
        """The arguments of `generate` as SGLang's `generate` packs them."""
        bound = _STOCK_GENERATE.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        del given["self"]
        rank = self._resolve_routed_dp_rank(given.pop("routed_dp_rank"), given.pop("data_parallel_rank"))
        return GenerateReqInput(text=given.pop("prompt"), routed_dp_rank=rank, **given)

    def _options(self, on_error: OnError, progress: bool) -> ListOptions:
        if on_error not in get_args(OnError):
            allowed = " or ".join(map(repr, get_args(OnError)))
            raise ConfigError(f"on_error is {on_error!r}; {allowed} is allowed.")
        return ListOptions(
            order=self._order, window=self._window, return_errors=on_error == "return", progress=progress
        )

    async def _answers(self, request: GenerateReqInput, options: ListOptions) -> AsyncGenerator[Any, None]:
        """Yields what SGLang's `generate_request` yields; runs in the loop of the engine."""
        answers = self.tokenizer_manager.generate_request(request, None)
        if listed := is_list(request):
            if self._facts is None:
                self._facts = await engine_facts(self)
            if options.return_errors or options.progress or is_worth_planning(request, self._facts):
                answers = answer_list(self.tokenizer_manager, request, self._facts, options)
        try:
            async with aclosing(answers):
                async for answer in answers:
                    yield answer
        except Exception as e:
            if listed or not options.return_errors:
                raise
            yield error_answer(request.rid, e)


async def _only(answers: AsyncGenerator[Any, None]) -> Any:
    """The one thing that a generator yields."""
    async with aclosing(answers):
        return await anext(answers)
