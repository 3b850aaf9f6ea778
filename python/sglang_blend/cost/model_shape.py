"""What the planner needs to know of a model: parameters, attention widths, windows, KV bytes.

`shape_from_config(config)` reads a Hugging Face config dict, `shape_from_path(folder)` a model folder, and
`model_shape(name_or_path)` also knows the shapes of `shape_registry`. Models with state-space or linear-
attention
layers are refused: their memory does not grow with the context, which this cost model cannot express.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from sglang_blend.errors import ConfigError

KvDtype = Literal["auto", "fp4", "fp8", "bf16", "fp16", "fp32"]
KV_DTYPE_BYTES = {"fp4": 0.5, "fp8": 1.0, "bf16": 2.0, "fp16": 2.0, "fp32": 4.0}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """One decoder-only transformer, in numbers.

    Attributes:
        name: how reports call it.
        num_params: all parameters, embeddings included.
        active_params: of them, those outside routed experts and those of the experts that a token visits.
        head_params: parameters of the output layer, which only tokens that are sampled from pass.
        embedding_params: parameters that are looked up, a row a token; 0 where the output layer is the
            embedding.
        expert_params: parameters inside routed experts, of all experts; 0 for dense models.
        num_experts, experts_per_token: routed experts of a layer, and how many a token visits.
        num_layers: attention layers.
        num_heads: query heads.
        num_kv_heads: key/value heads; 1 for MQA and for MLA's single latent.
        qk_dim, v_dim: per head widths of the score and the value product in prefill.
        kv_width: numbers cached per token and layer (2 x heads x head_dim, or MLA's latent + rope).
        decode_flop_per_pair: FLOP per (query token, cached token, layer) in decode (MLA works on the latent).
        window: sliding window in tokens of `num_window_layers` layers; None without windows.
        num_window_layers: how many of `num_layers` see only the window.
        weight_bytes_per_param: 2 for bf16, 1 for fp8, 0.5 for 4-bit.
        kv_bytes: bytes of one cached number.
    """

    name: str
    num_params: float
    active_params: float
    head_params: float
    num_layers: int
    num_heads: int
    num_kv_heads: int
    qk_dim: int
    v_dim: int
    kv_width: int
    decode_flop_per_pair: float
    embedding_params: float = 0.0
    expert_params: float = 0.0
    num_experts: int = 0
    experts_per_token: int = 0
    window: int | None = None
    num_window_layers: int = 0
    weight_bytes_per_param: float = 2.0
    kv_bytes: float = 2.0
    max_context_len: int | None = None

    @property
    def is_mla(self) -> bool:
        """Whether one latent is cached for all heads (DeepSeek)."""
        return self.num_kv_heads == 1 and self.kv_width != self.qk_dim + self.v_dim

    @property
    def num_full_layers(self) -> int:
        """Layers that see the whole context."""
        return self.num_layers - self.num_window_layers

    @property
    def layer_params(self) -> float:
        """Parameters of the decoder layers that every token multiplies with."""
        return self.active_params - self.head_params - self.embedding_params

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.num_params * self.weight_bytes_per_param

    @property
    def prefill_flop_per_pair(self) -> float:
        """FLOP per (query token, visible token, layer) in prefill: score product plus value product."""
        return 2.0 * self.num_heads * (self.qk_dim + self.v_dim)

    def kv_bytes_per_token(self, tp_size: int = 1) -> float:
        """Bytes that one token occupies in the KV cache, over all `tp_size` ranks together.

        Ranks beyond the number of KV heads hold copies (MLA: every rank holds the latent).
        """
        copies = max(1.0, tp_size / self.num_kv_heads)
        return self.num_layers * self.kv_width * self.kv_bytes * copies

    def active_weight_bytes(self, num_tokens: float) -> float:
        """Bytes of weights that a step with `num_tokens` tokens reads.

        Routed experts are assumed to be chosen evenly, so a step visits E (1 - (1 - k/E)^n) of them.
        """
        dense = self.num_params - self.expert_params
        if not self.num_experts:
            return dense * self.weight_bytes_per_param
        idle: float = (1.0 - self.experts_per_token / self.num_experts) ** num_tokens
        return (dense + self.expert_params * (1.0 - idle)) * self.weight_bytes_per_param

    def with_kv_dtype(self, dtype: str) -> ModelShape:
        """The same model with another KV dtype ("auto" keeps the weights' own).

        Raises:
            ConfigError: unknown dtype.
        """
        if dtype == "auto":
            return self
        if dtype not in KV_DTYPE_BYTES:
            raise ConfigError(
                f"KV dtype {dtype!r} is unknown; allowed are auto, {', '.join(KV_DTYPE_BYTES)}."
            )
        return replace(self, kv_bytes=KV_DTYPE_BYTES[dtype])


def check_shape(shape: ModelShape) -> ModelShape:
    """Returns the shape, or refuses one that cannot exist.

    Raises:
        ConfigError: a size is not a finite number above 0.
    """
    for field in (
        "num_params",
        "active_params",
        "head_params",
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "kv_width",
        "kv_bytes",
    ):
        value = float(getattr(shape, field))
        if not math.isfinite(value) or value <= 0:
            raise ConfigError(
                f"model {shape.name!r}: {field} is {value:g}, allowed is a number above 0; check its "
                "config.json."
            )
    return shape
