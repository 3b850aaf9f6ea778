"""Which of SGLang's flags change answers, and with which no job can run, told without importing SGLang.

A job is resumed only under flags that give the same answers. A flag that decides how fast, where or with how
much memory the engine runs may change between two runs; every other flag may not, and so may none that this
list does not know: asking too often is better than mixing the answers of two models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sglang_blend.blotting import BLOT, blotted, is_secret
from sglang_blend.errors import ConfigError

# Names of one flag, as SGLang has them.
_ALIASES = {"--model": "--model-path", "--speculative-draft-model": "--speculative-draft-model-path"}

# Starts of flag names, without dashes. Numerics may differ in the last bits under a few of them (kernels,
# parallel sizes), as they do between two GPUs; a job may move to another machine all the same.
SAME_ANSWERS = (
    # how much at a time, in which order
    "mem-fraction-static", "max-running-requests", "max-total-tokens",
    "max-prefill-tokens", "prefill-", "chunked-prefill-size", "enable-dynamic-chunking", "schedule-",
    "scheduler-", "retraction-", "page-size", "enable-mixed-chunk", "disable-overlap-schedule",
    "overlap", "enable-pdmux", "pdmux-",
    "num-continuous-decode-steps", "enable-prefill-delayer", "min-free-slots", "enable-priority",
    "disable-priority", "priority-", "stream", "enable-two-batch-overlap", "enable-single-batch-overlap",
    "max-loras-per-batch", "max-loaded-loras", "max-mamba-cache-size", "swa-full-tokens-ratio",
    # longer prompts are answered or refused; the answer to a prompt that fits is the same
    "context-length",
    # caches
    "radix-", "disable-radix-cache", "hicache", "enable-hierarchical-cache", "enable-lmcache", "lmcache",
    "enable-cache-report", "disable-chunked-prefix-cache", "weight-cache", "lora-eviction",
    # machines and processes
    "tp", "tensor-parallel", "dp", "data-parallel", "pp", "pipeline-parallel", "ep", "expert-parallel", "dcp",
    "moe-dp", "moe-data", "attn-cp", "cp-strategy", "nnodes", "node-rank", "dist-", "nccl", "device",
    "base-gpu-id", "gpu-id-step", "numa", "load-balance", "enable-dp-", "enable-eplb", "deepep",
    "watchdog", "soft-watchdog", "sleep-on-idle", "use-ray", "gc-", "cpu-offload", "offload",
    "tokenizer-worker-num", "detokenizer-worker-num", "enable-dynamic-batch-tokenizer",
    "dynamic-batch-tokenizer", "enable-p2p", "enable-nccl", "disable-custom-all-reduce",
    "enable-memory-saver", "mm-enable-dp-encoder",
    # kernels and graphs
    "attention-backend", "decode-attention-backend", "prefill-attention-backend", "sampling-backend",
    "moe-runner-backend", "moe-a2a-backend", "mm-attention-backend", "lora-backend", "fp8-gemm", "fp4-gemm",
    "bf16-gemm", "cuda-graph", "disable-cuda-graph", "disable-decode-cuda-graph",
    "disable-prefill-cuda-graph", "enable-torch-compile", "torch-compile", "disable-flashinfer-autotune",
    # loading
    "download-dir", "model-loader", "weight-loader", "trust-remote-code", "skip-server-warmup", "warmups",
    # what is told, and to whom
    "log-", "enable-metrics", "show-time-cost", "decode-log-interval", "enable-request-time",
    "export-metrics", "host", "port", "api-key", "admin-api-key", "ssl-", "served-model-name",
    "crash-dump", "collect-tokens", "enable-trace",
)  # fmt: skip

# Flags of a server, the one value of each that a job runs with, and what goes wrong with others (SGLang
# 0.5.17: some refuse every line, some end the engine or its requests).
NOT_FOR_JOBS = {
    "--skip-tokenizer-init": ("False", "prompts and answers of a job are texts; leave it out"),
    "--disaggregation-mode": ("null", "one engine does a job's prefill and decode; leave it out"),
    "--encoder-only": ("False", "such an engine answers nothing; leave it out"),
    "--tokenizer-worker-num": ("1", "it is for SGLang's HTTP server, a job has --prepare-workers"),
    "--detokenizer-worker-num": ("1", "it needs --tokenizer-worker-num, which is for HTTP; leave it out"),
    "--node-rank": ("0", "only node 0 of an engine has requests; start the job there"),
    "--max-queued-requests": (
        "None", "SGLang answers what waits beyond it with an error; --window bounds what waits",
    ),
}  # fmt: skip

# Flags that may name a file or folder, which the job's own processes read.
_PATHS = ("--model-path", "--tokenizer-path", "--chat-template", "--completion-template")

_CONTENT_FILES = ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.jinja", "*.model")
_SAMPLE_BYTES = 1 << 16


def answer_flags(argv: Sequence[str]) -> dict[str, str]:
    """The flags of a command line that change answers, with their values.

    Names of folders and files are followed by a digest of what they hold, so that a model that was replaced
    in place is another model.
    """
    found: dict[str, str] = {}
    for name, values in _flags(argv):
        if not name.removeprefix("--").startswith(SAME_ANSWERS):
            shown = [BLOT if is_secret(name) else blotted(value) for value in values]
            digests = [_digest(Path(value)) if value else "" for value in values]
            found[name] = " ".join(map("".join, zip(shown, digests, strict=True)))
    return dict(sorted(found.items()))


def refuse_flags(argv: Sequence[str]) -> None:
    """Raise for flags with which no job can run.

    Raises:
        ConfigError: one of `NOT_FOR_JOBS` has another value than a job runs with, a path is not there, or a
            word belongs to no option, as when a shell has made several names of one.
    """
    if argv and not argv[0].startswith("-"):
        raise ConfigError(f"{argv[0]!r} belongs to no option; a job has one --file.")
    given = {name: " ".join(values) for name, values in _flags(argv)}
    for name in _PATHS:
        value = given.get(name, "")
        if value.startswith(("/", ".", "~")) and not Path(value).exists():
            raise ConfigError(f"{name} {value} does not exist.")
    refuse_values(lambda name: given.get(name, NOT_FOR_JOBS[name][0]))


def refuse_values(value_of: Callable[[str], object]) -> None:
    """`refuse_flags`, by the values that flags have after parsing."""
    for name, (allowed, reason) in NOT_FOR_JOBS.items():
        value = str(value_of(name))
        if value != allowed:
            given = name if value in ("", "True") else f"{name} {value}"
            raise ConfigError(f"{given}: {reason}.")


def flags_digest(argv: Sequence[str]) -> str:
    """Of all flags as given; a digest, because an API key may be among them."""
    return f"flags sha256 {hashlib.sha256(chr(0).join(argv).encode()).hexdigest()[:16]}"


def _flags(argv: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(name, values) of each flag; a value may start with one dash, as negative numbers do."""
    flags: list[tuple[str, list[str]]] = []
    for token in argv:
        if token.startswith("--"):
            name, equals, value = token.partition("=")
            flags.append((_ALIASES.get(name, name), [value] if equals else []))
        elif flags:
            flags[-1][1].append(token)
    return flags


def _digest(path: Path) -> str:
    """` (sha256 ...)` over names, sizes and samples of a folder's files, or over a file; else nothing."""
    try:
        files = (
            sorted(f for pattern in _CONTENT_FILES for f in path.glob(pattern)) if path.is_dir() else [path]
        )
        digest = hashlib.sha256()
        for file in files:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as content:
                # Weights of one shape differ everywhere, so three samples tell them apart.
                for at in sorted({0, max(0, size // 2), max(0, size - _SAMPLE_BYTES)}):
                    content.seek(at)
                    digest.update(content.read(_SAMPLE_BYTES))
    except OSError:
        return ""
    return f" (sha256 {digest.hexdigest()[:16]})"
