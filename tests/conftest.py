"""For all tests: whether this machine was calibrated changes no plan."""

import os

os.environ["SGLANG_BLEND_HARDWARE"] = "none"
