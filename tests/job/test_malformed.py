"""All malformed files without an engine: every line that can be judged by itself is judged as documented.

`tests/srt/test_malformed.py` asks the real engine about the lines that pass here.
"""

from pathlib import Path
from typing import Any

import pytest

from job.malformed import complaint, malformed_files
from sglang_blend.errors import InputError
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.job.line_index import LineIndex

# Refused only with a model at hand: too long for its context, beyond its vocabulary, nothing it can see.
NEEDS_ENGINE = {
    ("28_prompt_token_ids.jsonl", 3),
    ("30_prompt_too_long.jsonl.gz", 3),
    ("31_huge_line.jsonl.gz", 3),
    ("41_response_format.jsonl", 4),
    ("43_content_parts.jsonl", 2),
    ("43_content_parts.jsonl", 3),
    ("43_content_parts.jsonl", 4),
}


def test_every_line_is_accepted_or_refused_as_documented(tmp_path: Path) -> None:
    complaints = []
    num_lines = 0
    for file in malformed_files(tmp_path):
        name = file.manifest["file"]
        try:
            with BatchFile(file.path) as batch:
                index = LineIndex.build(batch)
                refused = {item.line_number: item for item in index.refused()}
                accepted = {item.line_number: item for item in index.accepted()}
        except InputError as e:
            if file.status == "processed" or str(file.path) not in str(e):
                complaints.append(f"{name}: {e}")
            continue
        if file.status == "rejected":
            complaints.append(f"{name}: must be rejected as a whole")
            continue
        assert sorted([*refused, *accepted]) == [line["line"] for line in file.expected]
        for expected in file.expected:
            num_lines += 1
            if (name, expected["line"]) in NEEDS_ENGINE:
                assert expected["line"] in accepted
                continue
            item: Any = refused.get(expected["line"])
            custom_id = (item or accepted[expected["line"]]).custom_id
            told = complaint(expected, item and item.code, item and item.param, custom_id)
            if told:
                complaints.append(f"{name}: {told}")
    assert not complaints, "\n".join(complaints)
    assert num_lines > 500


@pytest.mark.parametrize("name", ["47_plain_named_gz.jsonl.gz", "49_truncated.jsonl.gz"])
def test_a_file_that_is_not_what_its_name_says_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    (file,) = [f for f in malformed_files(tmp_path) if f.manifest["file"] == name]
    with pytest.raises(InputError, match="gzip"):
        BatchFile(file.path)
