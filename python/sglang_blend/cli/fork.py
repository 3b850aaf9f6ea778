"""`sglang-blend fork build|install|check|record`: make, install and verify the forked SGLang."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sglang_blend.machine import cache_dir


def add_parser(subparsers: Any) -> None:
    """Register `fork` and its four verbs."""
    parser = subparsers.add_parser(
        "fork",
        help="build, install or check the forked SGLang",
        description="The fork is the stock SGLang wheel plus the patches in patches/. "
        "Example: sglang-blend fork install",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, run, text in (
        ("build", _build, "build the forked wheel and print its path"),
        ("install", _install, "build it and install it into this environment"),
        ("check", _check, "is the installed SGLang the fork, file by file?"),
        ("record", _record, "for maintainers: write down the hashes after a patch was changed"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.set_defaults(run=run)
        if name != "check":
            verb.add_argument("--wheel", type=Path, help="the stock wheel; fetched with pip when left out")
            verb.add_argument("--out", type=Path, default=None, help="folder for wheels (default: the cache)")
        if name == "record":
            verb.add_argument("--number", type=int, help="the fork's number N in +blend.N")


def _out_dir(args: argparse.Namespace) -> Path:
    return args.out or cache_dir("fork")


def _build(args: argparse.Namespace) -> int:
    from sglang_blend import fork

    print(fork.build(_out_dir(args), wheel=args.wheel))
    return 0


def _install(args: argparse.Namespace) -> int:
    from sglang_blend import fork

    fork.install(fork.build(_out_dir(args), wheel=args.wheel))
    print(f"installed: sglang {fork.check()}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from sglang_blend import fork

    print(f"sglang {fork.check()}: every patched file is as recorded")
    return 0


def _record(args: argparse.Namespace) -> int:
    from sglang_blend.fork.builder import record

    out = _out_dir(args)
    out.mkdir(parents=True, exist_ok=True)
    series = record(out, wheel=args.wheel, blend_number=args.number)
    for file in series.files:
        print(f"{file.path}  {file.stock_sha256[:12]} -> {file.fork_sha256[:12]}")
    return 0
