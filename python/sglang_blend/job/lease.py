"""Whose place it is, on a storage that has no locks: a small object there, which its owner renews.

    lease.take()       nobody else has it from now on
    lease.tick()       now and then; raises when somebody else took it meanwhile
    lease.release()

An owner that is gone renews no more. Where that cannot be seen - its machine is another one - the lease is
watched: unchanged for a minute it is free. An owner that was frozen for longer and wakes up finds the lease
taken, and stops. Two that take a free lease at one time: see `location.create_small`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import orjson

from sglang_blend.errors import ConfigError, OutputError
from sglang_blend.location import Location, create_small, read_small, remove, replace_small

logger = logging.getLogger(__name__)

RENEW_S = 10.0
FREE_AFTER_S = 60.0
_LOOK_S = 1.0


class Lease:
    """On the place `of`, kept in the object `place`."""

    def __init__(self, place: Location, *, of: Location) -> None:
        self._place, self._of = place, of
        self._id = uuid.uuid4().hex
        self._num_renewals = 0
        self._renewed_at: float | None = None  # while it is held

    def take(self) -> None:
        """Wait until it is known whose it is, a minute at most.

        Raises:
            ConfigError: it is another job's.
            OSError: the storage refuses.
        """
        while not create_small(self._place, self._content()):
            found = read_small(self._place)
            if found is None:  # released just now
                continue
            if not _is_of_dead_process(found):
                self._watch(found)
            # Who overwrites it and then finds something else was not alone.
            replace_small(self._place, self._content())
            if read_small(self._place) != self._content():
                raise self._busy("another job")
            break
        self._renewed_at = time.monotonic()

    def tick(self) -> None:
        """Renew it where that is due.

        Raises:
            OutputError: another job has it.
            OSError: the storage refuses.
        """
        if self._renewed_at is not None and time.monotonic() - self._renewed_at >= RENEW_S:
            self.check()
            self._num_renewals += 1
            replace_small(self._place, self._content())
            self._renewed_at = time.monotonic()

    def check(self) -> None:
        """Whether it is held still.

        Raises:
            OutputError: another job has it.
            OSError: the storage refuses.
        """
        found = read_small(self._place)
        if self._renewed_at is not None and _of(found).id != self._id:
            self._renewed_at = None
            raise OutputError(
                f"{self._of} was taken over by another job, because this one had stood still; what it had "
                "finished is kept: give the same command again when the other has ended.",
                may_pass=True,
            )

    def release(self) -> None:
        """Somebody else may have it; nothing happens the second time."""
        if self._renewed_at is not None:
            self._renewed_at = None
            with suppress(OSError):  # then it is free in a minute
                if _of(read_small(self._place)).id == self._id:
                    remove(self._place)

    def _watch(self, found: bytes) -> None:
        """Return when the lease is left alone."""
        logger.info(
            "%s was being written by %s; watching for %.0f s whether it still is.",
            self._of, _of(found), FREE_AFTER_S,
        )  # fmt: skip
        deadline = time.monotonic() + FREE_AFTER_S
        while time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            now = read_small(self._place)
            if now is None:
                return
            if now != found:
                raise self._busy(str(_of(now)))

    def _busy(self, owner: str) -> ConfigError:
        return ConfigError(
            f"{self._of} is being written by {owner}: wait for it, or name another --output.", may_pass=True
        )

    def _content(self) -> bytes:
        values = {
            "id": self._id,
            "renewals": self._num_renewals,
            "machine": _machine(),
            "process": os.getpid(),
        }
        return orjson.dumps({**values, "started": _start_of(os.getpid())})


class _Owner(NamedTuple):
    id: str | None = None
    machine: str = "unknown"
    process: int | None = None
    started: str | None = None

    def __str__(self) -> str:
        return f"another job (process {self.process} on {self.machine.partition(' ')[0]})"


def _of(content: bytes | None) -> _Owner:
    try:
        found = orjson.loads(content or b"")
        return _Owner(*(found[name] for name in _Owner._fields))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return _Owner()


def _is_of_dead_process(content: bytes) -> bool:
    """Whether its owner was a process of this machine, as this process sees it, and is no more."""
    owner = _of(content)
    return owner.machine == _machine() and _start_of(owner.process) != owner.started


def _machine() -> str:
    """Where process ids mean the same: host, boot, and what a container sees of both."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()} {boot_id} {os.readlink('/proc/self/ns/pid')}"


def _start_of(pid: int | None) -> str | None:
    """When a process began, in ticks since the boot: its id may be another's later. None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else fields[19].decode()
