"""Decode and extend with a shared prefix: every attention backend in an engine of its own, same flags.

    python scripts/bench_attention.py --batch 32 --shared 1000 --private 60 --json
    python scripts/bench_attention.py --model-path MODEL --batch 256 --shared 1500 --private 200    # GPU

Seconds of a decode step of the batch, and of extending the cached prefix by all private parts at once, as a
client of the engine sees tokens arrive; median of the repeats, in which the backends take turns where an
engine each fits (on the CPU). `max_abs_error` compares log-probabilities with the first backend's, token by
token, as long as both chose the same tokens.

With --file the requests of a batch file instead, as one job with an empty cache: seconds, and which part of
the outputs is equal to the first backend's. With --groups a made-up job: so many groups of requests, a prefix
of 1,000 to 2,000 tokens each, 100 to 300 private.

    python scripts/bench_attention.py --file bbh_cot.jsonl.gz --limit 64 --max-tokens 64
    python scripts/bench_attention.py --model-path MODEL --groups 60 --limit 3000 --max-tokens 256    # GPU

With --predict (CPU) the simulator's gain beside the measured one. It is told how long `blend_unshared` takes
for a decode step with and without the prefix, and by `BreakEven` what sharing costs.

On a CPU: SGLang's torch_native, ours (`blend`), and ours reading every prefix for each request
(`blend_unshared`). On a GPU: flashinfer and triton with CUDA graphs, and `blend`, which runs without.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sglang_blend.demo_model import demo_model_path

_UNSHARED = "blend_unshared"
_VOCABULARY = 40_000


class _Client:
    """One engine with one backend."""

    def __init__(self, name: str, flags: dict[str, Any], args: argparse.Namespace) -> None:
        import sglang

        from sglang_blend.srt.options import BlendOptions

        self.name = name
        self._args = args
        BlendOptions(shared_prefix_attention=name != _UNSHARED).to_env(os.environ)
        backend = "blend" if name == _UNSHARED else name
        self._engine = sglang.Engine(attention_backend=backend, **flags)
        self._prefix = _tokens(0, args.shared)
        self._generate([self._prefix or _tokens(1, 1)], 2)

    def close(self) -> None:
        self._engine.shutdown()

    def prompts(self, repeat: int, with_prefix: bool = True) -> list[list[int]]:
        """The same for every backend; private parts that no earlier repeat had."""
        first = 1000 * (2 * repeat + with_prefix + 1)
        prefix = self._prefix if with_prefix else []
        return [prefix + _tokens(first + i, self._args.private) for i in range(self._args.batch)]

    def measure(self, repeat: int, with_prefix: bool = True) -> tuple[float, float]:
        """Seconds of an extend and of a decode step."""
        prompts = self.prompts(repeat, with_prefix)
        start = time.monotonic()
        arrived: dict[int, list[float]] = {}  # by request: when it had its first token, the second, ...
        num_tokens = 1 + self._args.steps
        # The first and the last token are told; telling the others would cost what is to be measured.
        for chunk in self._generate(prompts, num_tokens, stream=True, stream_interval=num_tokens):
            times = arrived.setdefault(chunk["index"], [])
            missing = chunk["meta_info"]["completion_tokens"] - len(times)
            times += [time.monotonic()] * missing
        first, last = (max(times[i] for times in arrived.values()) for i in (0, -1))
        return first - start, (last - first) / self._args.steps

    def logprobs(self, repeat: int) -> list[list[tuple[float, int]]]:
        """Of the first tokens of each prompt: (log-probability, token)."""
        answers = self._generate(self.prompts(repeat), 4, return_logprob=True)
        return [[(p, t) for p, t, _ in a["meta_info"]["output_token_logprobs"]] for a in answers]

    def run_job(self, lines: list[dict[str, Any]]) -> tuple[float, list[str]]:
        """Seconds and outputs of all lines, from an empty cache."""
        self._engine.flush_cache()
        params = {"max_new_tokens": self._args.max_tokens, "temperature": 0}
        if "input_ids" in lines[0]:
            prompts = {"input_ids": [line["input_ids"] for line in lines]}
            params["ignore_eos"] = True
        else:
            prompts = {"prompt": [self._text(line["body"]) for line in lines]}
        start = time.monotonic()
        answers = self._engine.generate(**prompts, sampling_params=params)
        return time.monotonic() - start, [answer["text"] for answer in answers]

    def _text(self, body: dict[str, Any]) -> str:
        if "prompt" in body:
            return str(body["prompt"])
        tokenizer = self._engine.tokenizer_manager.tokenizer
        return str(
            tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        )

    def _generate(
        self, prompts: list[list[int]], num_tokens: int, stream_interval: int | None = None, **kwargs: Any
    ) -> Any:
        params = {"max_new_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
        if stream_interval is not None:
            params["stream_interval"] = stream_interval
        return self._engine.generate(input_ids=prompts, sampling_params=params, **kwargs)


def _tokens(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(100, _VOCABULARY, count).tolist()


def _max_abs_error(a: list[list[tuple[float, int]]], b: list[list[tuple[float, int]]]) -> float:
    worst = 0.0
    for ours, theirs in zip(a, b, strict=True):
        for (p, token), (q, other) in zip(ours, theirs, strict=True):
            if token != other:
                break
            worst = max(worst, abs(p - q))
    return worst


@contextmanager
def _engine(name: str, flags: dict[str, Any], args: argparse.Namespace) -> Iterator[_Client]:
    client = _Client(name, flags, args)
    try:
        yield client
    finally:
        client.close()


def _run_in_turns(names: list[str], flags: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """All engines at once, one measurement after the other: what disturbs one disturbs all."""
    clients: list[_Client] = []
    try:
        for name in names:
            client = _Client(name, flags[name], args)
            clients.append(client)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        plain_s = []
        for repeat in range(args.repeats):
            for client in clients:
                seconds[client.name].append(client.measure(repeat))
                if args.predict and client.name == _UNSHARED:
                    plain_s.append(client.measure(repeat, with_prefix=False)[1])
        logprobs = {client.name: client.logprobs(args.repeats) for client in clients}
    finally:
        for client in clients:
            client.close()
    report = _report(seconds, logprobs)
    if args.predict:
        step_s = report["decode_step_s"]
        report["decode_step_s_without_prefix"] = statistics.median(plain_s)
        report["gain_measured"] = step_s[_UNSHARED] / step_s["blend"]
        report["gain_simulated"] = _simulated_gain(step_s[_UNSHARED], statistics.median(plain_s), args)
    return report


def _simulated_gain(prefix_s: float, plain_s: float, args: argparse.Namespace) -> float:
    """Unshared over shared seconds of a decode step, in the simulator.

    Args:
        prefix_s, plain_s: measured seconds of a step that reads the prefix for each request, and without it.
    """
    from sglang_blend.core.request import RequestTable
    from sglang_blend.cost.break_even import CPU
    from sglang_blend.cost.hardware import Hardware
    from sglang_blend.cost.measured import GemmCurve
    from sglang_blend.cost.roofline import RooflineCost
    from sglang_blend.cost.shape_registry import model_shape
    from sglang_blend.simulate.engine_config import EngineConfig
    from sglang_blend.simulate.simulated_job import SimulatedJob
    from sglang_blend.simulate.simulator import simulate

    shape = model_shape(args.model_path).with_kv_dtype("fp32")
    read_s = (prefix_s - plain_s) / (args.batch * args.shared)
    rest_s = plain_s - args.batch * (args.private + args.steps / 2) * read_s
    bytes_per_s = shape.kv_bytes_per_token(1) / read_s
    layer_s = max(rest_s, 1e-9) / shape.num_layers
    curve = GemmCurve(
        num_tokens=np.array([1.0, float(args.batch)]), layer_s=np.full(2, layer_s), source="measured"
    )
    machine = Hardware(
        name="measured", peak_flop_per_s=1e15, effective_flop_per_s=1e15, peak_bytes_per_s=bytes_per_s,
        effective_bytes_per_s=bytes_per_s, memory_bytes=1e12,
    )  # fmt: skip
    prefix = _tokens(0, args.shared)
    prompts = [prefix + _tokens(1000 + i, args.private) for i in range(args.batch)]

    def decode_s(cost: RooflineCost) -> float:
        """Of all steps: with outputs of some tokens, less with outputs of one."""
        seconds = []
        for output_len in (1 + args.steps, 1):
            table = RequestTable.from_lists(prompts, max_new_tokens=[output_len] * args.batch)
            job = SimulatedJob.from_table(table, np.full(args.batch, output_len))
            engine = EngineConfig(admission="peak", step_overhead_s=0.0, chunk_tokens=10**6)
            seconds.append(simulate(job, np.arange(args.batch), cost, engine).makespan_s)
        return seconds[0] - seconds[1]

    alone, shared = (
        RooflineCost(
            shape=shape, hardware=machine, gemm_curve=curve, pool_tokens=10**7, shared_reads=shared_reads
        )
        for shared_reads in (None, CPU)
    )
    return decode_s(alone) / decode_s(shared)


def _job_lines(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Lines of the file, or made-up ones: groups of requests with a prefix each, in random order."""
    if args.groups:
        rng = np.random.default_rng(0)
        prefixes = [_tokens(g, int(rng.integers(1000, 2000))) for g in range(args.groups)]
        return [
            {
                "input_ids": prefixes[int(i) % args.groups]
                + _tokens(10**6 + int(i), int(rng.integers(100, 300)))
            }
            for i in rng.permutation(args.limit)
        ]
    opened = gzip.open if args.file.suffix == ".gz" else open
    with opened(args.file, "rt") as file:
        return [json.loads(line) for line in itertools.islice(file, 0, None, args.every)][: args.limit]


def _run_job(
    names: list[str], flags: dict[str, Any], args: argparse.Namespace, *, in_turns: bool
) -> dict[str, Any]:
    lines = _job_lines(args)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    outputs: dict[str, list[str]] = {}
    for together in [names] if in_turns else [[name] for name in names]:
        with ExitStack() as stack:
            clients = [stack.enter_context(_engine(name, flags[name], args)) for name in together]
            for client in clients * args.repeats:
                took_s, outputs[client.name] = client.run_job(lines)
                seconds[client.name].append(took_s)
    first = outputs[names[0]]
    return {
        "job_s": {name: statistics.median(runs) for name, runs in seconds.items()},
        "equal_outputs": {
            name: sum(a == b for a, b in zip(found, first, strict=True)) / len(first)
            for name, found in outputs.items()
        },
        "lines": len(lines),
        "repeats": seconds,
    }


def _run_one_by_one(names: list[str], flags: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    seconds, logprobs = {}, {}
    for name in names:
        with _engine(name, flags[name], args) as client:
            seconds[name] = [client.measure(repeat) for repeat in range(args.repeats)]
            logprobs[name] = client.logprobs(args.repeats)
    return _report(seconds, logprobs)


def _report(
    seconds: dict[str, list[tuple[float, float]]], logprobs: dict[str, list[list[tuple[float, int]]]]
) -> dict[str, Any]:
    base = next(iter(seconds))
    return {
        "decode_step_s": {name: statistics.median(d for _, d in runs) for name, runs in seconds.items()},
        "extend_s": {name: statistics.median(e for e, _ in runs) for name, runs in seconds.items()},
        "max_abs_error": _max_abs_error(logprobs["blend"], logprobs[base]),
        "repeats": {name: [{"extend_s": e, "decode_step_s": d} for e, d in r] for name, r in seconds.items()},
    }


def main() -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="requests")
    parser.add_argument("--shared", type=int, default=1000, help="tokens of the prefix they share")
    parser.add_argument("--private", type=int, default=60, help="further tokens of each prompt")
    parser.add_argument("--steps", type=int, default=8, help="decode steps of a measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backends", help="comma-separated; the first one is compared with")
    parser.add_argument("--model-path", help="default: the demo model")
    parser.add_argument("--load-format", default="auto", help="dummy: random weights, no download")
    parser.add_argument("--dtype", help="default: float32 on a CPU, so that results compare; auto on a GPU")
    parser.add_argument(
        "--predict", action="store_true", help="CPU: the simulator's gain beside the measured"
    )
    parser.add_argument("--file", type=Path, help="a batch file, plain or .gz")
    parser.add_argument("--groups", type=int, default=0, help="a made-up job instead: groups of requests")
    parser.add_argument("--limit", type=int, default=64, help="lines of the job")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th line")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args()
    args.model_path = args.model_path or str(demo_model_path())

    import torch

    on_gpu = torch.accelerator.is_available()
    tokens = args.shared + 2 * args.batch * (args.private + args.steps + 8) * (args.repeats + 1)
    common = {
        "model_path": args.model_path,
        "load_format": args.load_format,
        "max_total_tokens": tokens + 1024,
        "max_running_requests": args.batch,
        "chunked_prefill_size": args.batch * args.private + 8192,
        "log_level": "error",
    }
    dtype = args.dtype or ("auto" if on_gpu else "float32")
    if on_gpu:
        # SGLang keeps memory back for a chunk; one of the whole batch would leave none for KV.
        common |= {"dtype": dtype, "chunked_prefill_size": 8192}
        names = ["flashinfer", "triton", "blend"]
        flags = {name: common | ({"disable_cuda_graph": True} if name == "blend" else {}) for name in names}
    else:
        names = ["torch_native", "blend", _UNSHARED]
        flags = dict.fromkeys(names, common | {"dtype": dtype, "disable_overlap_schedule": True})
    is_job = bool(args.file or args.groups)
    if is_job:
        job = {"schedule_policy": "dual-scan", "chunked_prefill_size": 8192}
        for_cpu = {"max_total_tokens": 40_000, "max_running_requests": 64}
        job |= dict.fromkeys(for_cpu) if on_gpu else for_cpu  # None: as the engine's memory allows
        flags = {name: of_name | job for name, of_name in flags.items()}
    if args.predict:
        names = ["blend", _UNSHARED]
    if args.backends:
        names = args.backends.split(",")
        flags = {name: flags.get(name, common) for name in names}
    if is_job:
        result = _run_job(names, flags, args, in_turns=not on_gpu)
    else:
        result = (_run_one_by_one if on_gpu else _run_in_turns)(names, flags, args)
    if args.json or is_job:
        print(json.dumps(result))
        return
    for name in names:
        print(
            f"{name:>15}  decode step {result['decode_step_s'][name]:.3f} s"
            f"  extend {result['extend_s'][name]:.2f} s"
        )
    print(f"{'':>15}  largest difference of log-probabilities {result['max_abs_error']:.1e}")


if __name__ == "__main__":
    main()
