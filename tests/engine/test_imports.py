"""The process of a job stays small: SGLang and torch are imported by its children only."""

import subprocess
import sys


def test_the_process_of_a_job_imports_no_sglang() -> None:
    code = (
        "import sys, sglang_blend.launch_offline, sglang_blend.engine.local\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'sglang', 'torch', 'transformers', 'ray'}\n"
        "assert not heavy, heavy\n"
        "assert not [name for name in sys.modules if name.startswith('sglang_blend.srt')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
