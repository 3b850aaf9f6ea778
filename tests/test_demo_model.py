"""A conversion that was interrupted or damaged is never used."""

from pathlib import Path

from sglang_blend.demo_model import is_sound, write_checksums


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
