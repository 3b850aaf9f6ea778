"""A nursery on a machine where forking is not safe."""

import sys

import sglang_blend.srt.nursery

if __name__ == "__main__":
    sglang_blend.srt.nursery._is_safe_to_fork = lambda: False
    sglang_blend.srt.nursery.main(int(sys.argv[1]), int(sys.argv[2]))
