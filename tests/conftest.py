"""For all tests: whether this machine was calibrated changes no plan, and OpenMP threads do not spin."""

import os

os.environ["SGLANG_BLEND_HARDWARE"] = "none"
# As the platform has it for engines; read when torch starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
