"""Run by test_neutral.py once on the stock tree and once on the fork: what does SGLang's scheduler decide?

Drives SGLang's own `SchedulePolicy` and `PrefillAdder` over random requests and a simulated radix cache, and
prints the decisions as JSON. Nothing of sglang_blend is imported.
"""

import json
import random
from array import array
from types import SimpleNamespace

import sglang
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.schedule_policy import PrefillAdder, SchedulePolicy
from sglang.srt.mem_cache.base_prefix_cache import InsertParams
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
    return SimpleNamespace(available_size=lambda: size, device="cpu", free=lambda indices: None, page_size=1)


def main() -> None:
    set_global_server_args_for_scheduler(ServerArgs(model_path="dummy", device="cpu"))
    decisions = {}
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
