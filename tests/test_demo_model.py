"""A conversion that was interrupted or damaged is never used."""

import json
from pathlib import Path

from sglang_blend.demo_model import demo_model_path, is_sound, write_checksums


def make(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_complete_folder_is_sound(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    write_checksums(folder)
    assert is_sound(folder)


def test_a_folder_without_checksums_or_not_there_is_not(tmp_path: Path) -> None:
    assert not is_sound(make(tmp_path / "m"))
    assert not is_sound(tmp_path / "none")


def test_a_changed_or_missing_file_is_noticed(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    write_checksums(folder)
    (folder / "model.safetensors").write_bytes(b"weightz")
    assert not is_sound(folder)
    (folder / "model.safetensors").unlink()
    assert not is_sound(folder)


def test_grammars_see_bytes_in_the_tokens() -> None:
    """Else an answer that a schema constrains cannot have a space."""
    tokenizer = json.loads((demo_model_path() / "tokenizer.json").read_text())
    assert tokenizer["decoder"]["type"] == "ByteLevel"
    assert not tokenizer["model"]["byte_fallback"]
