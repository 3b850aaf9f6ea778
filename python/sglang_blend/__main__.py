"""`python -m sglang_blend`: the command `sglang-blend`, where no script of that name is installed."""

import sys

from sglang_blend.cli import main

if __name__ == "__main__":
    sys.exit(main())
