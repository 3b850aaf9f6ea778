"""One file of named numpy columns: a header line of JSON, then the raw arrays.

`RequestTable` and `Schedule` are kept in it. The same columns and header always give the same bytes (no time
stamps, sorted keys), a file is either whole or absent (temporary name, then rename), and a reader may map it
instead of loading it, so a token array larger than memory can be planned.

    write_columns(path, kind="schedule", header={"seed": 0}, columns={"rank": rank})
    header, columns = read_columns(path, kind="schedule")
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sglang_blend.errors import PlanError

MAGIC = b"sglang-blend columns 1\n"
_ALIGN_BYTES = 64


def write_columns(
    path: str | os.PathLike[str], *, kind: str, header: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]
) -> None:
    """Write the columns under a temporary name, flush them to the disk and rename.

    Args:
        path: the file; an existing one is replaced in one step.
        kind: what the file holds; `read_columns` checks it.
        header: JSON values, kept beside the columns.
        columns: 1-D arrays, written in the order given. Object arrays are not allowed.
    """
    entries, offset = [], 0
    for name, column in columns.items():
        assert column.ndim == 1, (name, column.shape)
        assert column.dtype.kind != "O", (name, column.dtype)
        entries.append({"name": name, "dtype": column.dtype.str, "len": len(column), "offset": offset})
        offset += _padded(column.nbytes)
    meta = orjson.dumps(
        {"kind": kind, "header": dict(header), "columns": entries}, option=orjson.OPT_SORT_KEYS
    )
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    with open(partial, "wb") as file:
        preamble = MAGIC + meta + b"\n"
        file.write(preamble + b"\0" * (_padded(len(preamble)) - len(preamble)))
        for column in columns.values():
            raw = np.ascontiguousarray(column)
            if raw.nbytes:
                file.write(raw.data.cast("B"))
            file.write(b"\0" * (_padded(raw.nbytes) - raw.nbytes))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, target)


def read_columns(
    path: str | os.PathLike[str], *, kind: str, mmap: bool = True
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read a file of `write_columns`.

    Args:
        path: the file.
        kind: the kind that is expected in it.
        mmap: map the columns read-only instead of loading them.

    Returns:
        The header and the columns by name.

    Raises:
        PlanError: the file is missing, is not of this kind, or has been cut off.
    """
    try:
        with open(path, "rb") as file:
            magic, meta = file.readline(), file.readline()
    except OSError as error:
        raise PlanError(f"cannot read the {kind} file {os.fspath(path)!r}: {error.strerror}") from error
    if magic != MAGIC:
        raise PlanError(
            f"{os.fspath(path)!r} is not a {kind} file of sglang-blend; write one with its save()"
        )
    try:
        described = orjson.loads(meta)
    except orjson.JSONDecodeError as error:
        raise PlanError(f"the {kind} file {os.fspath(path)!r} has a broken header; plan again") from error
    if described["kind"] != kind:
        raise PlanError(f"{os.fspath(path)!r} holds a {described['kind']}, where a {kind} was expected")
    first_byte = _padded(len(magic) + len(meta))
    size = os.path.getsize(path)
    columns: dict[str, NDArray[Any]] = {}
    for entry in described["columns"]:
        dtype, length, offset = np.dtype(entry["dtype"]), entry["len"], first_byte + entry["offset"]
        if offset + dtype.itemsize * length > size:
            raise PlanError(
                f"the {kind} file {os.fspath(path)!r} has been cut off at {size} bytes; plan again"
            )
        if length == 0:
            columns[entry["name"]] = np.empty(0, dtype)
        elif mmap:
            columns[entry["name"]] = np.memmap(path, dtype, "r", offset, (length,))
        else:
            columns[entry["name"]] = np.fromfile(path, dtype, length, offset=offset)
    return described["header"], columns


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGN_BYTES) * _ALIGN_BYTES
