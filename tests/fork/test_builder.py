"""The fork is built only from the wheel it was made for, and says so when it is not."""

import zipfile
from pathlib import Path

import pytest

from sglang_blend import fork
from sglang_blend.errors import ForkError
from sglang_blend.fork import builder, installed
from sglang_blend.fork.series import PatchSeries, TouchedFile, sha256

STOCK = "value = 1\nother = 2\n"
PATCH = """\
diff --git a/sglang/module.py b/sglang/module.py
--- a/sglang/module.py
+++ b/sglang/module.py
@@ -1,2 +1,2 @@
-value = 1
+value = 5
 other = 2
"""
VERSION_PY = "__version__ = version = '0.5.17'\n__version_tuple__ = version_tuple = (0, 5, 17)\n"


def make_wheel(directory: Path, module: str = STOCK) -> Path:
    """A wheel with the parts of SGLang's that the builder touches."""
    tree = directory / "sglang-0.5.17"
    (tree / "sglang").mkdir(parents=True)
    (tree / "sglang" / "module.py").write_text(module)
    (tree / "sglang" / "_version.py").write_text(VERSION_PY)
    info = tree / "sglang-0.5.17.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: sglang\nVersion: 0.5.17\n")
    (info / "WHEEL").write_text(
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    (info / "RECORD").write_text("")
    return builder.pack(tree, directory)


def make_series(directory: Path, wheel: Path, patch: str = PATCH) -> PatchSeries:
    """A series of one patch, with the hashes of the two sides."""
    (directory / "0001-five.patch").write_text(patch)
    side = directory / "side.py"
    hashes = []
    for text in (STOCK, STOCK.replace("value = 1", "value = 5")):
        side.write_text(text)
        hashes.append(sha256(side))
    touched = TouchedFile(path="sglang/module.py", stock_sha256=hashes[0], fork_sha256=hashes[1])
    return PatchSeries(directory=directory, sglang_version="0.5.17", blend_number=3, files=(touched,))


def test_the_forked_wheel_is_patched_renamed_and_its_record_is_right(tmp_path: Path) -> None:
    stock = make_wheel(tmp_path / "stock")
    forked = builder.build(tmp_path / "out", wheel=stock, series=make_series(tmp_path, stock))
    assert forked.name == "sglang-0.5.17+blend.3-py3-none-any.whl"
    # `wheel unpack` checks every file against RECORD.
    tree = builder.unpack(forked, tmp_path / "unpacked", "0.5.17+blend.3")
    assert (tree / "sglang" / "module.py").read_text() == "value = 5\nother = 2\n"
    version: dict[str, object] = {}
    exec((tree / "sglang" / "_version.py").read_text(), version)
    assert version["__version__"] == "0.5.17+blend.3"
    assert version["__version_tuple__"] == (0, 5, 17, "blend.3")
    assert "Version: 0.5.17+blend.3\n" in (tree / "sglang-0.5.17+blend.3.dist-info" / "METADATA").read_text()
    with zipfile.ZipFile(forked) as archive:
        assert "sglang-0.5.17+blend.3.dist-info/RECORD" in archive.namelist()


def test_a_wheel_with_another_file_content_is_refused(tmp_path: Path) -> None:
    stock = make_wheel(tmp_path / "stock", module=STOCK + "# rebuilt\n")
    with pytest.raises(ForkError, match=r"sglang/module\.py .*recorded is"):
        builder.build(tmp_path / "out", wheel=stock, series=make_series(tmp_path, stock))


def test_a_patch_is_never_applied_with_fuzz(tmp_path: Path) -> None:
    stock = make_wheel(tmp_path / "stock")
    series = make_series(tmp_path, stock, PATCH.replace(" other = 2", " other = 3"))
    with pytest.raises(ForkError, match=r"0001-five\.patch does not apply"):
        builder.build(tmp_path / "out", wheel=stock, series=series)


def test_a_missing_or_broken_wheel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForkError, match="No such wheel"):
        builder.build(tmp_path, wheel=tmp_path / "none.whl")
    broken = tmp_path / "sglang-0.5.17-py3-none-any.whl"
    broken.write_bytes(b"not a zip")
    with pytest.raises(ForkError, match="not a sound wheel"):
        builder.build(tmp_path, wheel=broken)


def test_every_patch_is_in_the_manifest_and_the_other_way_round() -> None:
    series = fork.current_series()
    touched = {path for patch in series.patches for path in builder.touched_paths(patch)}
    assert touched == {file.path for file in series.files}
    assert all(file.stock_sha256 != file.fork_sha256 for file in series.files)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "no sglang is installed"),
        ("0.5.17", r"sglang 0\.5\.17 is installed: run `sglang-blend fork install`"),
        ("0.5.23", r"sglang 0\.5\.23 is installed"),
    ],
)
def test_another_sglang_is_refused_with_the_mending_command(
    monkeypatch: pytest.MonkeyPatch, found: str | None, said: str
) -> None:
    monkeypatch.setattr(installed, "installed_version", lambda: found)
    with pytest.raises(ForkError, match=said):
        fork.require()
