"""Prepares a batch file by SGLang's own tokenizer manager, as the engine has it, and as the workers do.

    python equal_preparation.py FILE...      # prints the number of lines, and of those with the LoRA adapter
                                             # `ad`; fails at the first that differs

A process of its own, because importing SGLang takes long and leaves its mark on the process.
"""

import sys
from pathlib import Path
from typing import Any

import orjson
from sglang.srt.entrypoints.engine import init_tokenizer_manager
from sglang.srt.server_args import PortArgs

from sglang_blend.demo_model import demo_model_path
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.request import BatchLine
from sglang_blend.srt.flags import server_args
from sglang_blend.srt.prepare_worker import skip_offsets
from sglang_blend.srt.serving import Serving, tokenizer_manager_alone


class Recording(Serving):
    """Keeps the sampling parameters and the adapter of the request that SGLang would run."""

    def _prepared(self, adapted: Any, token_ids: Any) -> Any:
        self.seen = adapted.sampling_params, adapted.lora_path
        return super()._prepared(adapted, token_ids)


def prepare(serving: Recording, line: BatchLine) -> tuple[object, ...]:
    serving.seen = None, None
    prepared = serving.prepare(line)
    return prepared, *serving.seen


def main() -> None:
    flags = ["--model-path", str(demo_model_path()), "--served-model-name", "demo", "--enable-lora"]
    flags += ["--lora-paths", "ad=a folder that only the engine reads"]
    args = server_args(flags)
    args.check_server_args()
    theirs = Recording(*init_tokenizer_manager(args, PortArgs.init_new(args)))
    manager, templates = tokenizer_manager_alone(server_args(flags))
    assert manager.lora_ref_cache == theirs._manager.lora_ref_cache != {}
    skip_offsets(manager.tokenizer)
    ours = Recording(manager, templates)
    num_lines = num_adapted = 0
    for path in sys.argv[1:]:
        with BatchFile(Path(path)) as batch:
            for line in batch.scan():
                if isinstance(line, BatchLine):
                    sent = BatchLine(**orjson.loads(orjson.dumps(line._asdict())))
                    found: Any = prepare(ours, sent)
                    assert found == prepare(theirs, line), f"{path}: {line.custom_id} differs"
                    num_lines += 1
                    num_adapted += found[2] == "ad" and found[0].namespace.startswith("ad\0")
    print(num_lines, num_adapted)


if __name__ == "__main__":
    main()
