"""The report that a job makes of itself when it is done: in a process of its own, with little time.

Importing the plotting library and drawing nothing costs a few seconds; what goes wrong costs a warning.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

MOST_S = 120.0


def make_report(output: str, summary_file: str, report_file: Path, *, timeout_s: float = MOST_S) -> bool:
    """Make the report of a job; returns whether it is there. Raises nothing that its process could.

    Args:
        output, summary_file: locations, as text.
    """
    words = [sys.executable, "-m", "sglang_blend.report", output, summary_file, str(report_file)]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        logger.warning(
            "No report: it took longer than %.0f s. Try: sglang-blend report %s", timeout_s, output
        )
        return False
    except OSError as e:
        logger.warning("No report: its process cannot be started (%s).", e.strerror or e)
        return False
    except KeyboardInterrupt:  # the job is done, and so are its results
        logger.warning("No report: interrupted. Later: sglang-blend report %s", output)
        return False
    if done.returncode:
        logger.warning("No report: %s", (done.stderr.strip().splitlines() or ["its process died"])[-1])
        return False
    return True
