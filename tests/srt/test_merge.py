"""The kernel that merges attention over parts of the context: in Triton's interpreter, or on a GPU."""

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import torch
from sglang_blend.srt.cuda.merge import merge_into
from srt.flashinfer_stand_ins import attend

device = "cuda" if torch.cuda.is_available() else "cpu"
random = torch.Generator().manual_seed(0)
for heads, kv_heads, dim, dtype, tolerance in (
    (4, 2, 64, torch.float32, 1e-6), (9, 3, 80, torch.float32, 1e-6), (8, 8, 128, torch.bfloat16, 2e-2)
):
    q = torch.randn(5, heads, dim, generator=random).to(dtype)
    k, v = (torch.randn(70, kv_heads, dim, generator=random).to(dtype) for _ in range(2))
    rows = torch.tensor([3, 0, 4])
    whole, whole_lse = attend(q, k, v, False, None)
    out, lse = attend(q, k[40:], v[40:], False, None)
    untouched = out[[1, 2]].clone()
    part, part_lse = attend(q[rows], k[:40], v[:40], False, None)
    found, found_lse = out.to(device), lse.to(device)
    merge_into(found, found_lse, part.to(device), part_lse.to(device), rows.to(device))
    torch.testing.assert_close(found.cpu()[rows], whole[rows], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found_lse.cpu()[rows], whole_lse[rows], atol=1e-4, rtol=1e-4)
    assert torch.equal(found.cpu()[[1, 2]], untouched)
    # A part that weighs nothing, and one that is everything.
    far = torch.full_like(part_lse, -torch.inf)
    before = found.clone()
    merge_into(found, found_lse, part.to(device), far.to(device), rows.to(device))
    assert torch.equal(found, before)
print("merged on", device)
"""


@pytest.mark.slow
def test_two_parts_become_the_whole() -> None:
    """Several shapes and types; rows that are not named stay as they are."""
    torch = pytest.importorskip("torch")
    where = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env=os.environ | where | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "merged on" in done.stdout
