"""Where every line of a job ends: as one record in one of the two files, counted once."""

from __future__ import annotations

from sglang_blend.job.output import JobOutput
from sglang_blend.job.records import (
    failure_record,
    refused_record,
    rejection_record,
    response_record,
)
from sglang_blend.job.summary import Tally
from sglang_blend.request import Answer, BatchLine, Failure, Rejection


class Results:
    """The result files and the counts that go with them."""

    def __init__(self, output: JobOutput, tally: Tally) -> None:
        self._output = output
        self._tally = tally

    def refuse(self, rejection: Rejection) -> None:
        """A line that never reached the engine."""
        self._output.write_error(rejection_record(rejection))
        self._tally.add_rejection(rejection)

    def answer(self, line: BatchLine, answer: Answer) -> None:
        """What the engine said: into the output if it is an answer, into the error file if a refusal."""
        if answer.status_code == 200:
            if answer.is_written:
                self._output.count_answer()
            else:
                self._output.write_answer(response_record(line.custom_id, answer.status_code, answer.body))
            self._tally.add_answer(answer)
        else:
            self._output.write_error(
                refused_record(line.custom_id, line.line_number, answer.status_code, answer.body)
            )
            self._tally.add_refused_answer(answer)

    def fail(self, line: BatchLine, failure: Failure) -> None:
        """A request that the engine could not answer."""
        record = failure_record(line.custom_id, failure.code, failure.message, line.line_number)
        self._output.write_error(record)
        self._tally.add_failure(failure)

    def sync(self) -> None:
        """Put both files on disk."""
        self._output.sync()
