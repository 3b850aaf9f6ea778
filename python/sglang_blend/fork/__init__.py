"""The fork of SGLang: the stock wheel, a few seam patches, a version of its own.

    build     stock wheel + patches/<version>/*.patch -> sglang-<version>+blend.N wheel
    install   put that wheel into the running environment
    check     is the installed sglang the fork, file by file?
    require   the same question by version alone: cheap, asked before every start of an engine

`series` is the patches and their hashes, `builder` makes the wheel, `installed` puts it in and looks at it.
Nothing here imports sglang: the answer must be there before SGLang is.
"""

from sglang_blend.fork.builder import build
from sglang_blend.fork.installed import check, install, require
from sglang_blend.fork.series import PatchSeries, current_series

__all__ = ["PatchSeries", "build", "check", "current_series", "install", "require"]
