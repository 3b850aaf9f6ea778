"""The job that `sglang-blend simulate` runs: a trace, a batch file or a made workload."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from sglang_blend.cli.batch_prompts import (
    DEFAULT_MAX_TOKENS,
    ByteTokenizer,
    ModelTokenizer,
    Tokenizer,
    read_batch_prompts,
)
from sglang_blend.config import FILE_HELP, Reading
from sglang_blend.console import counted
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.output_length import OutputEstimate, OutputLengths, choose_sample
from sglang_blend.core.prefix_tree import PrefixTree, build_prefix_tree
from sglang_blend.core.request import RequestTable
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import ConfigError
from sglang_blend.location import location
from sglang_blend.simulate.synthesis import SynthesisSpec, paper_trace, synthesise
from sglang_blend.simulate.trace_file import table_from_trace


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """The options that name the job."""
    job = parser.add_argument_group("the job, one of these")
    job.add_argument(
        "--trace",
        type=Path,
        help="lengths: CSV with prompt_tokens,output_tokens, or JSON Lines with hash_ids too",
    )
    job.add_argument(
        "--file",
        type=location,
        help=f"{FILE_HELP}; outputs are taken to be half as long as max_tokens allows",
    )
    job.add_argument(
        "--paper-trace",
        type=int,
        choices=(1, 2, 3, 4),
        help="BlendServe's main trace, re-made for this model and hardware",
    )
    job.add_argument("--density", type=float, help="make a workload of this compute density (with --sharing)")
    job.add_argument("--sharing", type=float, help="and this prefix sharing ratio, 0 to 1")
    parser.add_argument(
        "--num-requests", type=int, default=10_000, help="requests of a made workload (default 10000)"
    )
    parser.add_argument(
        "--source",
        default=SynthesisSpec.source,
        help="made workload: where most requests come from (default burstgpt)",
    )
    parser.add_argument(
        "--long-output",
        default=SynthesisSpec.long_output,
        help="made workload: the long outputs (default openvid-short)",
    )
    parser.add_argument("--limit", type=int, help="take the first so many requests of a trace")
    Reading.add_cli_args(parser)


def read_job(args: argparse.Namespace, cost: RooflineCost) -> tuple[RequestTable, IntArray, str]:
    """The requests, their output lengths in tokens, and words for the heading.

    Raises:
        ConfigError: not exactly one job is named, or a value that is not allowed.
        BlendError: a file that cannot be used.
    """
    made = args.density is not None or args.sharing is not None
    given = [name is not None for name in (args.trace, args.file, args.paper_trace)] + [made]
    if sum(given) != 1 or (made and (args.density is None or args.sharing is None)):
        raise ConfigError(
            "name one job to simulate: --trace, --file, --paper-trace, or --density with --sharing."
        )
    if args.file is None and (unread := Reading.from_cli_args(args).for_tables()):
        raise ConfigError(f"{unread[0]} is for the table that --file names: leave it out.")
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit is {args.limit}, allowed is 1 or more; leave it out for the whole trace.")
    if args.trace is not None:
        table, output_len = table_from_trace(args.trace, limit=args.limit, seed=args.seed)
        return table, output_len, args.trace.name
    if args.file is not None:
        return _batch_job(args)
    spec = (
        SynthesisSpec(density=args.density, sharing=args.sharing) if made else paper_trace(args.paper_trace)
    )
    spec = replace(spec, num_requests=args.num_requests, source=args.source, long_output=args.long_output)
    trace = synthesise(cost, spec, seed=args.seed)
    kinds = ", ".join(
        f"{n} {k}" for n, k in zip(np.bincount(trace.source, minlength=3), trace.source_names, strict=True)
    )
    return (
        trace.table,
        trace.output_len,
        f"made workload ({kinds}), sharing ratio {trace.sharing:.3f} of compute",
    )


def _batch_job(args: argparse.Namespace) -> tuple[RequestTable, IntArray, str]:
    tokenizer: Tokenizer = ModelTokenizer(args.model_path) if args.model_path else ByteTokenizer()
    batch = read_batch_prompts(args.file, tokenizer, DEFAULT_MAX_TOKENS, Reading.from_cli_args(args))
    config = PlanConfig(seed=args.seed, page_size=args.page_size)
    tree = build_prefix_tree(batch.table, page_size=args.page_size)
    output_len = OutputLengths(batch.table, tree, config).estimate().est_output_len
    skipped = (
        f", {counted(batch.num_skipped, 'line')} left out ({batch.first_skipped})"
        if batch.num_skipped
        else ""
    )
    return batch.table, output_len, f"{args.file.name}, tokens by {tokenizer.name}{skipped}"


def known_lengths(
    known: str, table: RequestTable, output_len: IntArray, tree: PrefixTree, config: PlanConfig
) -> OutputEstimate:
    """What orders know of the output lengths: all (`known`), or those of a sample (`sampled`)."""
    if known == "known":
        return OutputEstimate(output_len, output_len, table.n)
    lengths = OutputLengths(table, tree, config)
    rows = choose_sample(table, tree, config.sample_ratio, np.random.default_rng(config.seed))
    lengths.observe(rows, output_len[rows])
    return lengths.estimate()
