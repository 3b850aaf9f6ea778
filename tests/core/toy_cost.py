"""A cost model of two lines: a dense 8B model with grouped-query attention on one A100."""

from dataclasses import dataclass

from sglang_blend.core.cost_model import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class ToyCost:
    """The paper's formulas, section 4, with Llama-3-8B and A100 figures."""

    kv_pool_tokens: int = 400_000
    flop_per_token: float = 2 * 8.03e9
    attention_flop: float = 4 * 4096 * 32
    flop_per_s: float = 312e12
    kv_bytes: float = 131_072
    bytes_per_s: float = 2.039e12

    shares_reads: bool = False

    def shared_gain_tokens(self, num_readers: FloatArray, num_tokens: IntArray) -> FloatArray:
        return (num_readers - 1) * num_tokens

    def compute_s(self, prompt_len: IntArray, output_len: IntArray) -> FloatArray:
        return (
            self.extend_compute_s(0 * prompt_len, prompt_len)
            + output_len * self.flop_per_token / self.flop_per_s
        )

    def memory_s(self, prompt_len: IntArray | FloatArray, output_len: IntArray) -> FloatArray:
        return (prompt_len * output_len + output_len**2 / 2) * self.kv_bytes / self.bytes_per_s

    def extend_compute_s(self, prefix_len: IntArray, extend_len: IntArray) -> FloatArray:
        end = prefix_len + extend_len
        attention = self.attention_flop * (end.astype(float) ** 2 - prefix_len.astype(float) ** 2)
        return (extend_len * self.flop_per_token + attention) / self.flop_per_s
