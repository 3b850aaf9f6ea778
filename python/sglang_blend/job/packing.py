"""gzip and zstd, as streams of complete blocks (gzip members, zstd frames)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import zstandard

CHUNK_BYTES, DECODED_BYTES = 1 << 18, 1 << 11
# What is parsed or looked up together, so that memory does not go by the size of a record.
BATCH_BYTES, MAX_BATCH_LINES = 4 << 20, 4096


class Packing(NamedTuple):
    """One of the two formats. `decoder` makes an object with `decompress`, `eof` and `unused_data`."""

    name: str
    suffix: str
    magic: bytes
    decoder: Callable[[], Any]
    compress: Callable[[bytes], bytes]


PACKINGS = (
    Packing(
        "gzip",
        ".gz",
        b"\x1f\x8b",
        lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
        lambda block: gzip.compress(block, compresslevel=6, mtime=0),
    ),
    Packing(
        "zstd",
        ".zst",
        b"\x28\xb5\x2f\xfd",
        lambda: zstandard.ZstdDecompressor().decompressobj(),
        lambda block: zstandard.ZstdCompressor(level=3).compress(block),
    ),
)


class TornError(Exception):
    """A packed stream ends inside a block, or goes on with something else."""


def packing_of_name(name: str) -> Packing | None:
    """By suffix; None for a plain name."""
    return next((packing for packing in PACKINGS if name.endswith(packing.suffix)), None)


def packing_of_content(head: bytes) -> Packing | None:
    """By the first bytes; None for anything that is not packed."""
    return next((packing for packing in PACKINGS if head.startswith(packing.magic)), None)


def unpack(file: IO[bytes], packing: Packing) -> Iterator[bytes]:
    """The plain content of all blocks, piece by piece.

    Raises:
        TornError: after the last piece, where the stream is not whole.
    """
    decoder, inside = packing.decoder(), False
    for chunk in _chunks(file):
        while chunk:
            try:
                piece = decoder.decompress(chunk)
            except (zlib.error, zstandard.ZstdError) as e:
                raise TornError(str(e)) from e
            inside = True
            if piece:
                yield piece
            chunk = b""
            if decoder.eof:
                chunk = decoder.unused_data
                decoder, inside = packing.decoder(), False
    if inside:
        raise TornError("the file ends too early")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """A decoder gives all that a chunk unpacks to at once, and 4 bytes may unpack to 128 KiB."""
    while read := file.read(CHUNK_BYTES):
        for at in range(0, len(read), DECODED_BYTES):
            yield read[at : at + DECODED_BYTES]


def lines_of(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a stream into lines that end in \\n; the last may come without."""
    rest: list[bytes] = []  # pieces of a line that is longer than one of them
    for piece in pieces:
        *whole, tail = piece.split(b"\n")
        for line in whole:
            yield b"".join([*rest, line, b"\n"])
            rest = []
        rest.append(tail)
    if last := b"".join(rest):
        yield last


def batches_of(
    lines: Iterator[bytes], num_bytes: int = BATCH_BYTES, *, max_lines: int | None = MAX_BATCH_LINES
) -> Iterator[list[bytes]]:
    """Lines some at a time: as many as have so many bytes, one at least."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= num_bytes or len(batch) == max_lines:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
