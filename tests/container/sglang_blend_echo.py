"""The main job with the echo engine behind it: stands in for `python -m sglang_blend.launch_offline`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from job.echo_engine import EchoEngine
from sglang_blend import launch_offline

launch_offline.start_engine = lambda *args, **kwargs: EchoEngine()
sys.exit(launch_offline.main(sys.argv[1:]))
