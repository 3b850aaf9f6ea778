"""What the linear layers of a decoder layer reach at each size of a step.

A layer of a Llama-like model as SGLang runs it: norms, fused QKV, output projection, fused gate and up, down.
Attention is left out. Several layers take turns, so that small steps have to read their weights from memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from sglang_blend.srt.calibration.timing import seconds

# Weights that take turns are at least so large together, more than any cache.
_LEAST_WEIGHT_BYTES = 2**29


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
    """Random weights of one layer, and its forward pass without attention."""

    def __init__(self, shape: LayerShape, dtype: torch.dtype, device: torch.device) -> None:
        def weight(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns, device=device, dtype=dtype) / columns**0.5

        self.norm = torch.ones(shape.hidden, device=device, dtype=dtype)
        self.qkv = weight(shape.qkv_width, shape.hidden)
        self.out = weight(shape.hidden, shape.heads * shape.head_dim)
        self.gate_up = weight(2 * shape.intermediate, shape.hidden)
        self.down = weight(shape.hidden, shape.intermediate)
        self._heads_width = shape.heads * shape.head_dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, hidden) -> (n, hidden)."""
        hidden = (x.shape[1],)
        attention = F.linear(F.rms_norm(x, hidden, self.norm), self.qkv)[:, : self._heads_width]
        x = x + F.linear(attention, self.out)
        gate, up = F.linear(F.rms_norm(x, hidden, self.norm), self.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


@torch.inference_mode()
def gemm_flop_per_s(
    shape: LayerShape, num_tokens: list[int], dtype: torch.dtype, device: torch.device
) -> list[float]:
    """FLOP/s at each number of tokens; 2 FLOP for every parameter and token."""
    layer_bytes = shape.num_params * dtype.itemsize
    layers = [_Layer(shape, dtype, device) for _ in range(max(2, -(-_LEAST_WEIGHT_BYTES // layer_bytes)))]
    rates = []
    for n in num_tokens:
        x = torch.randn(n, shape.hidden, device=device, dtype=dtype)

        def all_layers(x: torch.Tensor = x) -> None:
            for layer in layers:
                layer.forward(x)

        rates.append(2 * shape.num_params * n * len(layers) / seconds(all_layers, device))
    return rates
