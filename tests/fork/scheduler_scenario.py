"""Run by test_neutral.py once on the stock tree and once on the fork: what does SGLang's scheduler decide?

Drives SGLang's own `SchedulePolicy`, `PrefillAdder` and `RadixCache` over random requests, and prints the
decisions as JSON. Nothing of sglang_blend is imported.
"""

import json
import random
from array import array
from types import SimpleNamespace

import sglang
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.schedule_policy import PrefillAdder, SchedulePolicy
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams, MatchPrefixParams
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler


def make_requests(rng: random.Random, n: int) -> list[Req]:
    """Requests over six shared prefixes, every third with custom params as a hint carrier would set."""
    prefixes = [[rng.randrange(1000) for _ in range(rng.randrange(20, 60))] for _ in range(6)]
    requests = []
    for i in range(n):
        ids = [*rng.choice(prefixes), *(rng.randrange(1000) for _ in range(rng.randrange(1, 20)))]
        params = SamplingParams(
            max_new_tokens=rng.randrange(1, 300), custom_params={"rank": i} if i % 3 == 0 else None
        )
        params.normalize(None)
        requests.append(Req(f"r{i:03d}", "", array("q", ids), params))
    return requests


def allocator(size: int) -> SimpleNamespace:
    """The parts of a KV allocator that admission asks."""
    return SimpleNamespace(
        available_size=lambda: size,
        device="cpu",
        free=lambda indices: None,
        free_segment=lambda indices, start_pos: None,
        page_size=1,
    )


def running(requests: list[Req], rng: random.Random) -> SimpleNamespace:
    """A running batch in which every request has generated some tokens."""
    for request in requests:
        request.output_ids.extend([1] * rng.randrange(request.sampling_params.max_new_tokens))
    return SimpleNamespace(reqs=requests, batch_size=lambda: len(requests))


def admission() -> dict[str, object]:
    """Verdicts beside a running batch, of a chunked request, and with ignore_eos and no cache."""
    rng = random.Random(11)
    requests = make_requests(rng, 40)
    tree = RadixCache.create_simulated(mock_allocator=allocator(6000))
    batch = running(requests[:10], rng)
    told: dict[str, object] = {}
    for ratio in (0.1, 0.7, 1.0):
        adder = PrefillAdder(1, tree, allocator(6000), batch, ratio, 2048, 128, 10)
        requests[10].init_next_round_input(tree)
        still_chunked = adder.add_chunked_req(requests[10])
        verdicts = []
        for request in requests[11:]:
            request.init_next_round_input(tree)
            verdicts.append(adder.add_one_req(request, still_chunked is not None, None).name)
        told[f"beside a running batch, ratio {ratio}"] = [
            verdicts,
            adder.rem_total_tokens,
            adder.cur_rem_tokens,
            adder.rem_chunk_tokens,
            [r.rid for r in adder.can_run_list],
        ]
    disabled = RadixCache.create_simulated(disable=True, mock_allocator=allocator(3000))
    adder = PrefillAdder(1, disabled, allocator(3000), batch, 0.5, 2048, None)
    verdicts = []
    for request in requests[20:]:
        request.sampling_params.ignore_eos = True
        request.init_next_round_input(disabled)
        verdicts.append(adder.add_one_req(request, False, None).name)
    told["ignore_eos without a cache"] = [verdicts, adder.rem_total_tokens]
    return told


def radix_cache(eviction_policy: str, page_size: int) -> list[object]:
    """What a long random life leaves in the cache: matches, sizes, and the leaves by content."""
    rng = random.Random(5)
    tree = RadixCache(
        CacheInitParams(
            disable=False,
            req_to_token_pool=None,
            token_to_kv_pool_allocator=allocator(0),
            page_size=page_size,
            eviction_policy=eviction_policy,
        )
    )
    told: list[object] = []
    locked = []
    for i in range(400):
        key = RadixKey(array("q", [rng.randrange(3) for _ in range(rng.randrange(1, 14))]))
        what = rng.random()
        if what < 0.45:
            told.append(tree.insert(InsertParams(key=key, value=None, priority=i % 4)).prefix_len)
        elif what < 0.8:
            found = tree.match_prefix(MatchPrefixParams(key=key))
            told.append(found.device_indices.tolist())
            if what > 0.7:
                locked.append(found.last_device_node)
                tree.inc_lock_ref(locked[-1])
        elif what < 0.9:
            told.append(tree.evict(EvictParams(num_tokens=rng.randrange(12))).num_tokens_evicted)
        elif locked:
            tree.dec_lock_ref(locked.pop(rng.randrange(len(locked))))
        told.append([tree.evictable_size(), tree.protected_size(), tree.total_size()])
    told.append(sorted(list(leaf.key.token_ids) for leaf in tree.evictable_leaves))
    return told


def main() -> None:
    set_global_server_args_for_scheduler(ServerArgs(model_path="dummy", device="cpu"))
    decisions: dict[str, dict[str, object]] = {}
    for policy in ("fcfs", "lpm", "dfs-weight", "lof"):
        rng = random.Random(7)
        requests = make_requests(rng, 90)
        tree = RadixCache.create_simulated(mock_allocator=allocator(4000))
        for request in requests[::4]:
            tree.insert(InsertParams(key=RadixKey(request.origin_input_ids), value=None))
        waiting = list(requests)
        SchedulePolicy(policy, tree, False, False, False).calc_priority(waiting)
        decisions[policy] = {"order": [request.rid for request in waiting]}
        for chunk in (None, 256):
            adder = PrefillAdder(1, tree, allocator(4000), None, 0.7, 2048, chunk)
            verdicts = []
            for request in waiting[:40]:
                request.init_next_round_input(tree)
                verdicts.append(
                    adder.add_one_req(request, has_chunked_req=False, truncation_align_size=None).name
                )
                if verdicts[-1] != "CONTINUE":
                    break
            decisions[policy][f"admitted, chunk {chunk}"] = [
                (r.rid, r.extend_range.start, r.extend_range.end) for r in adder.can_run_list
            ]
            decisions[policy][f"verdicts, chunk {chunk}"] = verdicts
    decisions["admission"] = admission()
    decisions["radix cache"] = {
        f"{policy}, page size {page_size}": radix_cache(policy, page_size)
        for policy in ("lru", "lfu", "fifo", "priority")
        for page_size in (1, 2)
    }
    hinted = make_requests(random.Random(7), 3)[0]
    print(
        json.dumps(
            {
                "version": sglang.__version__,
                "decisions": decisions,
                "request_refers_to_itself": "__req__" in hinted.sampling_params.custom_params,
            }
        )
    )


if __name__ == "__main__":
    main()
