"""What a decoder layer reaches at each size of a step, attention left out.

A layer of a Llama-like model as SGLang runs it: norms, fused QKV, rotary embedding, output projection, fused
gate and up, activation, down. Several layers take turns, so that small steps have to read their weights from
memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sglang.srt.layers.activation import SiluAndMul
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.rotary_embedding import get_rope
from sglang.srt.runtime_context import get_context, publish
from sglang.srt.server_args import ServerArgs

from sglang_blend.srt.calibration.timing import captured, seconds

# Weights that take turns are at least so large together, more than any cache.
_LEAST_WEIGHT_BYTES = 2**29
_ROPE_THETA = 10_000


class LayerShape(NamedTuple):
    """Widths of a decoder layer."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: dict[str, object]) -> LayerShape:
        """From a model's config.json; keys that are missing raise a KeyError."""
        hidden, heads = int(str(config["hidden_size"])), int(str(config["num_attention_heads"]))
        return cls(
            hidden=hidden,
            intermediate=int(str(config["intermediate_size"])),
            heads=heads,
            kv_heads=int(str(config.get("num_key_value_heads") or heads)),
            head_dim=int(str(config.get("head_dim") or hidden // heads)),
        )

    @property
    def qkv_width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def num_params(self) -> int:
        """Of the linear layers."""
        attention = self.hidden * (self.qkv_width + self.heads * self.head_dim)
        return attention + 3 * self.hidden * self.intermediate


class _Layer:
    """Random weights of one layer, and its forward pass without attention, by SGLang's own layers.

    Source: `LlamaDecoderLayer.forward` of SGLang.
    """

    def __init__(self, shape: LayerShape, most_tokens: int, dtype: torch.dtype) -> None:
        def weight(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns, dtype=dtype) / columns**0.5

        self._norm = RMSNorm(shape.hidden).to(dtype)
        self._act = SiluAndMul()
        self._rope = get_rope(shape.head_dim, shape.head_dim, most_tokens, _ROPE_THETA, dtype=dtype)
        self._qkv = weight(shape.qkv_width, shape.hidden)
        self._out = weight(shape.hidden, shape.heads * shape.head_dim)
        self._gate_up = weight(2 * shape.intermediate, shape.hidden)
        self._down = weight(shape.hidden, shape.intermediate)
        self._widths = [shape.heads * shape.head_dim, *(2 * [shape.kv_heads * shape.head_dim])]

    def forward(
        self, positions: torch.Tensor, x: torch.Tensor, residual: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) int64 and twice (n, hidden) -> twice (n, hidden); may write into its arguments."""
        x, residual = self._norm(x, residual)
        q, k, _ = F.linear(x, self._qkv).split(self._widths, dim=-1)
        q, _ = self._rope(positions, q, k)
        x, residual = self._norm(F.linear(q, self._out), residual)
        return F.linear(self._act(F.linear(x, self._gate_up)), self._down), residual


@torch.inference_mode()
def gemm_flop_per_s(
    shape: LayerShape, num_tokens: list[int], dtype: torch.dtype, device: torch.device
) -> list[float]:
    """FLOP/s at each number of tokens; 2 FLOP for every parameter and token."""
    layer_bytes = shape.num_params * dtype.itemsize
    num_layers = max(2, -(-_LEAST_WEIGHT_BYTES // layer_bytes))
    # SGLang's layers ask for server arguments when they are made and when they run.
    with get_context().preserve_config(), device:
        publish(ServerArgs(model_path="dummy"), role="test")
        layers = [_Layer(shape, max(num_tokens), dtype) for _ in range(num_layers)]
        return [
            2 * shape.num_params * n * num_layers / _pass_seconds(layers, shape, n, dtype, device)
            for n in num_tokens
        ]


def _pass_seconds(
    layers: list[_Layer], shape: LayerShape, num_tokens: int, dtype: torch.dtype, device: torch.device
) -> float:
    positions = torch.arange(num_tokens)
    x, residual = (torch.randn(num_tokens, shape.hidden, dtype=dtype) for _ in range(2))

    def one_pass() -> None:
        hidden, rest = x, residual
        for layer in layers:
            hidden, rest = layer.forward(positions, hidden, rest)

    return seconds(captured(one_pass, device), device)
