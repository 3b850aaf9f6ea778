"""Where the time of some steps in the middle of a job goes: torch's profiler on the real engine.

    python scripts/profile_steps.py --file batch.jsonl --steps 50 --after 30

Every flag of SGLang's server may follow. The prompts of the file are given to the engine at once; after so
many seconds the profiler runs for so many steps. Prints one JSON object; the trace itself stays in `--out`.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

_PATIENCE_S = 300.0


def main() -> int:
    """Profile, summarise, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--file", type=Path, required=True, help="batch file of /v1/completions lines, text or token ids")
    add("--limit", type=int, help="take the first so many lines")
    add("--steps", type=int, default=50, help="steps to profile (default: %(default)s)")
    add("--after", type=float, default=30.0, help="seconds until then (default: %(default)s)")
    add("--out", type=Path, default=Path("profile"), help="folder of the trace (default: %(default)s)")
    args, flags = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)

    import sglang as sgl

    from sglang_blend.bench.trace_summary import summarise
    from sglang_blend.demo_model import NAME, demo_model_path
    from sglang_blend.srt.flags import server_args

    if not any(flag.split("=")[0] == "--model-path" for flag in flags):
        flags = ["--model-path", str(demo_model_path()), "--served-model-name", NAME, *flags]
    engine = sgl.Engine(server_args=server_args(flags))
    known = set(args.out.glob("*.trace.json.gz"))
    engine.loop.run_until_complete(_run(engine, _bodies(args.file, args.limit), args))
    trace = _wait_for_trace(args.out, known)
    engine.shutdown()
    with gzip.open(trace, "rt") as file:
        summary = summarise(json.load(file)["traceEvents"])
    report = {**summary._asdict(), "idle_ratio": summary.idle_ratio, "steps": args.steps, "trace": str(trace)}
    print(json.dumps(report, indent=1))
    return 0


def _bodies(path: Path, limit: int | None) -> list[dict[str, Any]]:
    with path.open() as file:
        lines = [json.loads(line) for line in file if line.strip()]
    return [line["body"] for line in lines[:limit]]


async def _run(engine: Any, bodies: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """All requests, and the profiler beside them; those that run when the trace is there are left alone."""
    from sglang.srt.managers.io_struct import ProfileReq

    async def one(body: dict[str, Any]) -> None:
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        key = "prompt" if isinstance(prompt, str) else "input_ids"
        params = {
            "max_new_tokens": body.get("max_tokens", 128),
            "temperature": 0,
            "ignore_eos": body.get("ignore_eos", False),
        }
        await engine.async_generate(**{key: prompt}, sampling_params=params)

    running = [asyncio.ensure_future(one(body)) for body in bodies]
    await asyncio.sleep(args.after)
    request = ProfileReq(
        output_dir=str(args.out.resolve()), num_steps=args.steps, activities=["CPU", "GPU"], with_stack=False
    )
    await engine.tokenizer_manager.start_profile(request)
    await asyncio.wait(running)


def _wait_for_trace(folder: Path, known: set[Path]) -> Path:
    """The new trace, once it is whole: SGLang writes it at the end of its last step."""
    deadline, size = time.monotonic() + _PATIENCE_S, -1
    while time.monotonic() < deadline:
        for path in sorted(set(folder.glob("*.trace.json.gz")) - known):
            if path.stat().st_size == size:
                return path
            size = path.stat().st_size
        time.sleep(1.0)
    raise SystemExit("profile_steps: no trace came; more lines or an earlier --after leave enough steps.")


if __name__ == "__main__":
    sys.exit(main())
