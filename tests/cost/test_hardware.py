"""The hardware table holds possible records, and impossible ones are refused in a sentence."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from sglang_blend.cost.hardware import HARDWARE, hardware, hardware_from_dict
from sglang_blend.errors import ConfigError


def test_table_has_the_machines_that_users_have() -> None:
    """The names of the documentation are there, with their usual spellings."""
    for name in ("A100-40", "A100-80", "H100", "H200", "B200", "L40S", "RTX4090", "MI300X", "cpu"):
        assert hardware(name).name == name
    assert hardware("a100") is hardware("A100_80GB")


def test_studied_rates_are_those_of_the_study_and_the_rest_say_how_they_were_derived() -> None:
    """A100, H100 and H200 carry studied rates; other entries name the ratio they come from."""
    rates = {
        n: (hardware(n).effective_flop_per_s, hardware(n).effective_bytes_per_s)
        for n in ("A100", "H100", "H200")
    }
    assert rates == {"A100": (250e12, 1.76e12), "H100": (693e12, 2.95e12), "H200": (790e12, 4.3e12)}
    for record in HARDWARE.values():
        assert record.source
        if record.name not in ("A100-80", "H100", "H200"):
            assert "derived" in record.effective_source


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    """What `to_json` writes is what a path ending in .json reads."""
    path = tmp_path / "mine.json"
    mine = replace(hardware("H200"), name="mine", effective_bytes_per_s=4.0e12)
    path.write_bytes(mine.to_json())
    assert hardware(str(path)) == mine


def test_a_record_may_override_a_table_entry() -> None:
    """Keys beside `base` replace its values."""
    mine = hardware_from_dict({"base": "A100", "name": "tuned", "effective_flop_per_s": 2.6e14})
    assert mine.effective_flop_per_s == 2.6e14
    assert mine.memory_bytes == hardware("A100").memory_bytes
    assert mine.effective_source == "user"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"base": "A100", "memory_bytes": -1}, "memory_bytes is -1"),
        ({"base": "A100", "peak_flop_per_s": float("nan")}, "peak_flop_per_s is nan"),
        ({"base": "A100", "effective_bytes_per_s": 9e12}, "above peak_bytes_per_s"),
        ({"base": "A100", "memory": 1}, "unknown key 'memory'"),
        ({"base": "A100", "memory_bytes": "80 GB"}, "allowed is a number"),
        ({"base": "A100", "memory_bytes": True}, "allowed is a number"),
        ({"name": "x"}, "lacks 'peak_flop_per_s'"),
        ({"base": 3}, "base is 3"),
    ],
)
def test_impossible_records_are_refused_with_the_value(record: Any, words: str) -> None:
    """The sentence names what is wrong."""
    with pytest.raises(ConfigError, match=words):
        hardware_from_dict(record)


@pytest.mark.parametrize("content", [b"not json", b"[1]", orjson.dumps({"base": "TPU"})])
def test_unreadable_records_are_refused(tmp_path: Path, content: Any) -> None:
    """Not JSON, not an object, an unknown base."""
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        hardware(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        hardware(str(tmp_path / "absent.json"))


def test_unknown_hardware_lists_what_is_known() -> None:
    """A wrong name is answered with the names."""
    with pytest.raises(ConfigError, match=r"'V100'.*A100-80, A100-40, H100"):
        hardware("V100")
