"""How much KV attention read, and how much it would have read without sharing."""

from __future__ import annotations

from dataclasses import asdict, dataclass

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

    def summary(self, kv_bytes_per_token: float) -> dict[str, float]:
        """The totals, and what people ask of them.

        Args:
            kv_bytes_per_token: of one token's KV in all layers.

        Returns:
            Beside the totals: bytes that decode read and would have read without sharing, the share (0 to 1)
            of decode steps that read something together, and the mean number of readers of a run.
        """
        read_tokens = self.decode_tokens - self.decode_saved_tokens
        return asdict(self) | {
            "decode_read_bytes": read_tokens * kv_bytes_per_token,
            "decode_unshared_bytes": self.decode_tokens * kv_bytes_per_token,
            "shared_steps_ratio": self.shared_decode_steps / max(self.decode_steps, 1),
            "mean_readers": self.readers / max(self.runs, 1),
        }

    def add_extend(self, num_tokens: int, runs: SharedRuns) -> None:
        """A prefill pass whose requests have `num_tokens` tokens of KV together."""
        self.extend_passes += 1
        self.shared_extend_passes += bool(runs.runs)
        self.extend_tokens += num_tokens
        self.extend_saved_tokens += runs.saved_tokens


class CountsReads:
    """An attention backend that counts what it reads."""

    read_counts: ReadCounts
