"""Answers as a Parquet table, and back.

| column | |
|---|---|
| custom_id | of the request |
| text | of the first choice; null where there is none |
| finish_reason | of the first choice |
| prompt_tokens, output_tokens | as counted by the engine |
| status_code, id, request_id | of the record |
| body | the whole response body, as JSON |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import orjson

from sglang_blend.job.packing import BATCH_BYTES, MAX_BATCH_LINES, batches_of
from sglang_blend.job.records import Record

_ROW_GROUP_BYTES, _MAX_GROUP_ROWS = 16 << 20, 65_536


def write_table(file: IO[bytes], lines: Iterator[bytes]) -> None:
    """Write answer records as a table."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [
            ("custom_id", pyarrow.string()),
            ("text", pyarrow.string()),
            ("finish_reason", pyarrow.string()),
            ("prompt_tokens", pyarrow.int64()),
            ("output_tokens", pyarrow.int64()),
            ("status_code", pyarrow.int64()),
            ("id", pyarrow.string()),
            ("request_id", pyarrow.string()),
            ("body", pyarrow.large_string()),
        ]
    )
    with parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=["finish_reason"]) as writer:
        for some in batches_of(lines, _ROW_GROUP_BYTES, max_lines=_MAX_GROUP_ROWS):
            rows = [_row(orjson.loads(line)) for line in some]
            writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=schema))


def read_table(file: IO[bytes]) -> Iterator[bytes]:
    """The records of a table that `write_table` wrote, as JSON lines."""
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    metadata = table.metadata
    num_bytes = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    row_bytes = num_bytes // max(metadata.num_rows, 1)
    num_rows = min(max(BATCH_BYTES // max(row_bytes, 1), 1), MAX_BATCH_LINES)
    for batch in table.iter_batches(batch_size=num_rows):
        for row in batch.to_pylist():
            yield orjson.dumps(_record(row), option=orjson.OPT_APPEND_NEWLINE)


def _row(record: Record) -> dict[str, Any]:
    response = record["response"]
    body = response["body"]
    choice: dict[str, Any] = next(iter(body.get("choices") or ()), {})
    message = choice.get("message") or {}
    usage = body.get("usage") or {}
    return {
        "custom_id": record["custom_id"],
        "text": _string(message.get("content", choice.get("text"))),
        "finish_reason": _string(choice.get("finish_reason")),
        "prompt_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
        "status_code": response["status_code"],
        "id": record["id"],
        "request_id": response["request_id"],
        "body": orjson.dumps(body).decode(),
    }


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _record(row: dict[str, Any]) -> Record:
    response = {
        "status_code": row["status_code"],
        "request_id": row["request_id"],
        "body": orjson.loads(row["body"]),
    }
    return {"id": row["id"], "custom_id": row["custom_id"], "response": response, "error": None}
