"""The index of a batch file: one row a line, custom_ids told apart exactly, whatever their hashes do."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_blend.errors import InputError
from sglang_blend.job import line_index
from sglang_blend.job.line_index import LineIndex
from sglang_blend.request import BatchLine, Rejection


class Lines:
    """A batch file in memory: its custom_ids, None for a line that is refused and has none."""

    def __init__(self, custom_ids: list[str | None]) -> None:
        self.custom_ids = custom_ids

    def scan(self) -> Any:
        return (self.item(i * 10, i + 1) for i in range(len(self.custom_ids)))

    def item(self, offset: int, number: int) -> BatchLine | Rejection:
        custom_id = self.custom_ids[number - 1]
        if custom_id is None:
            return Rejection(code="x", message="no id", line_number=number, offset=offset)
        return BatchLine(number, offset, custom_id, "/v1/completions", {"prompt": "p"})

    def line(self, offset: int, number: int) -> BatchLine:
        item = self.item(offset, number)
        assert isinstance(item, BatchLine)
        return item


some_ids = st.lists(st.one_of(st.none(), st.sampled_from("abcdefghij")), max_size=20)


@settings(deadline=None)  # machines that run tests are loaded
@given(some_ids, st.sampled_from([1, 3, 2**60]))
def test_the_first_line_owns_a_custom_id_and_the_others_are_refused_even_if_all_hashes_collide(
    custom_ids: list[str | None], num_hashes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_index, "hash", lambda custom_id: hash(custom_id) % num_hashes, raising=False)
        index = LineIndex.build(Lines(custom_ids))
        first_row: dict[str, int] = {}
        for row, custom_id in enumerate(custom_ids):
            if custom_id is not None:
                first_row.setdefault(custom_id, row)
        assert [line.line_number - 1 for line in index.accepted()] == list(first_row.values())
        assert [r.line_number - 1 for r in index.refused()] == sorted(
            set(range(len(custom_ids))) - set(first_row.values())
        )
        asked = [*"abcdefghij", "never used"]
        unknown = len(custom_ids)
        rows = index.rows_of(asked).tolist()
        # A custom_id that is not in the file may look like one that is: the files say whose job it is.
        assert [r for r, a in zip(rows, asked, strict=True) if a in first_row] == [
            first_row[a] for a in asked if a in first_row
        ]
        if num_hashes > 3:
            assert rows == [first_row.get(a, unknown) for a in asked]


def test_a_duplicate_names_the_line_that_came_first() -> None:
    (refused,) = LineIndex.build(Lines(["a", "b", "a"])).refused()
    assert (refused.code, refused.line_number, refused.param) == ("duplicate_custom_id", 3, "custom_id")
    assert "line 1" in refused.message


def test_what_is_done_comes_no_more() -> None:
    index = LineIndex.build(Lines(["a", None, "b", None]))
    index.mark_done(0)
    index.mark_done(3)
    assert [line.custom_id for line in index.accepted()] == ["b"]
    assert [r.line_number for r in index.refused()] == [2]
    assert index.num_pending == 1


def test_line_numbers_are_found_and_others_are_not() -> None:
    index = LineIndex.build(Lines(["a", "b"]))
    assert index.rows_of_lines([2, 1, 3, 0, 2**61]).tolist() == [1, 0, 2, 2, 2]


def test_a_file_that_changes_is_noticed() -> None:
    lines = Lines([None, "b"])
    index = LineIndex.build(lines)
    lines.custom_ids = ["a", "b"]
    with pytest.raises(InputError, match=r"changed while .* \(line 1\)"):
        list(index.refused())


def test_a_line_that_is_no_json_owns_no_custom_id() -> None:
    class Broken(Lines):
        def item(self, offset: int, number: int) -> BatchLine | Rejection:
            if number == 1:
                return Rejection(
                    code="invalid_json_line", message="", line_number=1, offset=offset, custom_id="a"
                )
            return super().item(offset, number)

    assert [line.line_number for line in LineIndex.build(Broken(["a", "a"])).accepted()] == [2]
