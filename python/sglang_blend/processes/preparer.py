"""Prepares requests in processes of this machine, without an engine beside them.

with Preparer(engine_argv, log=path, num_workers=2) as preparer:
    for line, prepared in preparer.prepare(lines): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sglang_blend.errors import ConfigError
from sglang_blend.processes.nursery import Nursery
from sglang_blend.processes.prepare_pool import PreparePool
from sglang_blend.request import BatchLine, Prepared, Rejection


class Preparer:
    """A nursery and its prepare workers. A context manager: no process is left behind."""

    def __init__(self, engine_argv: Sequence[str], *, log: Path, num_workers: int) -> None:
        """Start the processes.

        Args:
            engine_argv: SGLang's flags; they name the tokenizer.
            log: where the processes say what they have to say.

        Raises:
            ConfigError: SGLang refuses the flags.
            EngineError: a process died on the way.
        """
        self._nursery = Nursery(log)
        try:
            self._pool = PreparePool(self._nursery, engine_argv, num_workers=num_workers)
        except ConfigError:
            self._nursery.close_and_forget()  # the error says it all
            raise
        except BaseException:
            self._nursery.close()
            raise

    def __enter__(self) -> Preparer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        """See `job.engine.Engine`."""
        return self._pool.prepare(lines)

    def close(self) -> None:
        """End the processes; more than once does no harm."""
        self._nursery.close()
