"""What reading a shared run together costs on this CPU, in KV tokens: the constants of `BreakEven`.

    python scripts/bench_break_even.py

One layer of the demo model's shape (9 heads, 3 KV heads of 64), float32, no engine. Plain decode gives the
time to read one token's KV; a run of a single token, which saves nothing, gives what a group and each of its
readers cost; a long run, what multiplying it with each reader's query costs. Medians; prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch

_HEADS, _KV_HEADS, _HEAD_DIM, _PRIVATE, _SHARED = 9, 3, 64, 100, 1000


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()

    from sglang_blend.cost.break_even import BreakEven
    from sglang_blend.srt.cpu.shared_attention import SharedPrefixAttnBackend

    never, always = BreakEven(group_tokens=1e12, reader_tokens=0), BreakEven(group_tokens=0, reader_tokens=0)
    random = torch.Generator().manual_seed(0)
    num_slots = 60_000
    k_cache, v_cache = (torch.randn(num_slots, _KV_HEADS, _HEAD_DIM, generator=random) for _ in range(2))

    def layer_s(num_requests: int, shared: int, private: int, break_even: BreakEven) -> float:
        backend = object.__new__(SharedPrefixAttnBackend)
        backend.start_sharing(break_even)
        backend._decode_groups = backend._extend_pieces = None
        table = torch.zeros(num_requests, shared + private, dtype=torch.int32)
        table[:, :shared] = torch.arange(1, shared + 1)
        own = torch.arange(shared + 1, shared + 1 + num_requests * private)
        table[:, shared:] = own.view(num_requests, private)
        lens = torch.full((num_requests,), shared + private)
        query = torch.randn(num_requests, _HEADS, _HEAD_DIM, generator=random)
        output, seconds = torch.empty_like(query), []
        for _ in range(args.repeats + 1):
            start = time.perf_counter()
            backend._run_sdpa_forward_decode(
                query, output, k_cache, v_cache, table, torch.arange(num_requests), lens, scaling=0.125
            )
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])

    read_s = (layer_s(32, 0, 1000, never) - layer_s(32, 0, _PRIVATE, never)) / (32 * (1000 - _PRIVATE))
    sizes = (2, 8, 32, 64)
    extra_s = [layer_s(n, 1, _PRIVATE, always) - layer_s(n, 1, _PRIVATE, never) for n in sizes]
    reader_s, group_s = np.polyfit(sizes, extra_s, 1)
    # Of a token that all read together: read once, multiplied with each query.
    together_s = [
        (layer_s(n, _SHARED, _PRIVATE, always) - layer_s(n, 1, _PRIVATE, always)) / (_SHARED - 1)
        for n in sizes
    ]
    query_s, read_together_s = np.polyfit(sizes, together_s, 1)
    report = {
        "read_us_per_token": 1e6 * read_s,
        "extra_us": dict(zip(sizes, [1e6 * s for s in extra_s], strict=True)),
        "group_tokens": group_s / read_s,
        "reader_tokens": reader_s / read_s,
        "together_us_per_token": dict(zip(sizes, [1e6 * s for s in together_s], strict=True)),
        "read_together_tokens": read_together_s / read_s,
        "query_tokens": query_s / read_s,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
