"""Stands in for ``trtllm-llmapi-launch``: one instance over several tasks, of which the first serves.

The first task runs the command; every other one is a rank that lives until the step ends, as the executor ranks of
TensorRT-LLM do. Usage, in each task of a step: ``python -m ratematch.emulator.llmapi_launch COMMAND...``
"""

from __future__ import annotations

import os
import signal
import sys


def main(argv: list[str]) -> None:
    if os.environ.get("SLURM_PROCID", "0") == "0":
        os.execvp(argv[0], argv)
    sys.stdout.write(f"rank {os.environ['SLURM_PROCID']} waits for work\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
