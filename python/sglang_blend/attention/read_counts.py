"""How much KV attention read, and how much it would have read without sharing."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_blend.attention.shared_runs import SharedRuns


@dataclass
class ReadCounts:
    """Totals since the engine started; KV tokens, each read in every layer.

    Attributes:
        decode_steps, shared_decode_steps: steps, and those that read something together.
        decode_tokens: KV tokens of all requests in decode, shared ones counted for each of them.
        decode_saved_tokens: of these, not read because another request read them in the same step.
        extend_passes, shared_extend_passes, extend_tokens, extend_saved_tokens: the same for prefill.
        runs, readers: shared runs of all decode steps, and their readers; readers / runs is the mean group.
        most_readers: of one run.
    """

    decode_steps: int = 0
    shared_decode_steps: int = 0
    decode_tokens: int = 0
    decode_saved_tokens: int = 0
    extend_passes: int = 0
    shared_extend_passes: int = 0
    extend_tokens: int = 0
    extend_saved_tokens: int = 0
    runs: int = 0
    readers: int = 0
    most_readers: int = 0

    def add_decode(self, num_tokens: int, runs: SharedRuns) -> None:
        """A decode step whose requests have `num_tokens` tokens of KV together."""
        self.decode_steps += 1
        self.shared_decode_steps += bool(runs.runs)
        self.decode_tokens += num_tokens
        self.decode_saved_tokens += runs.saved_tokens
        self.runs += len(runs.runs)
        self.readers += runs.num_readers
        self.most_readers = max(self.most_readers, runs.most_readers)

    def add_extend(self, num_tokens: int, runs: SharedRuns) -> None:
        """A prefill pass whose requests have `num_tokens` tokens of KV together."""
        self.extend_passes += 1
        self.shared_extend_passes += bool(runs.runs)
        self.extend_tokens += num_tokens
        self.extend_saved_tokens += runs.saved_tokens
