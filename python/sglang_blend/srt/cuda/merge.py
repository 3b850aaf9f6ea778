"""Attention over two parts of the context becomes attention over both, by log-sum-exp (base 2).

One launch for the rows of a level, in place. FlashInfer's and SGLang's `merge_state` take whole batches, so
that rows would have to be gathered and put back, and SGLang's second kernel, for many heads, is to base e.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _merge_kernel(out, lse, part, part_lse, rows, num_heads, head_dim, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    mine = tl.load(rows + at) * num_heads + head
    theirs = at * num_heads + head
    my_lse, their_lse = tl.load(lse + mine), tl.load(part_lse + theirs)
    top = tl.maximum(my_lse, their_lse)
    my_weight, their_weight = tl.exp2(my_lse - top), tl.exp2(their_lse - top)
    total = my_weight + their_weight
    column = tl.arange(0, BLOCK)
    inside = column < head_dim
    my_out = tl.load(out + mine * head_dim + column, mask=inside).to(tl.float32)
    their_out = tl.load(part + theirs * head_dim + column, mask=inside).to(tl.float32)
    merged = (my_out * my_weight + their_out * their_weight) / total
    tl.store(out + mine * head_dim + column, merged.to(out.dtype.element_ty), mask=inside)
    tl.store(lse + mine, tl.log2(total) + top)


def merge_into(
    out: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor, rows: torch.Tensor
) -> None:
    """Merge attention over another part of the context into some rows, in place.

    Args:
        out: (bs, heads, dim), contiguous; changed.
        lse: (bs, heads) float32, log2 of the sums of exponentials, contiguous; changed.
        part: (n, heads, dim) over the other part, contiguous.
        part_lse: (n, heads) float32, contiguous.
        rows: (n,) int64, whose they are; each row once.
    """
    for array in (out, lse, part, part_lse, rows):
        assert array.is_contiguous()
    _, num_heads, head_dim = out.shape
    block = triton.next_power_of_2(head_dim)
    _merge_kernel[(len(rows), num_heads)](out, lse, part, part_lse, rows, num_heads, head_dim, BLOCK=block)
