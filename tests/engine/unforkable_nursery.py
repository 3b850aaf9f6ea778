"""A nursery on a machine where forking is not safe."""

import sys

import sglang_blend.srt.children

if __name__ == "__main__":
    sglang_blend.srt.children._is_safe_to_fork = lambda: False
    sglang_blend.srt.children.serve(int(sys.argv[2]), int(sys.argv[3]))
