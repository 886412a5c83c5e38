"""The driver of one experiment among several in an allocation (:mod:`ratematch.campaign.jobs.step`).

Usage: ``python -m ratematch.campaign.jobs.member FOLDER NODE,NODE... NAME < pipe``; stops in order when the pipe is
closed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from ratematch.errors import RatematchError
from ratematch.run.experiment import measure_experiment


def _stop_at_end_of_input() -> None:
    while os.read(0, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder: str, nodes: str, sent: str) -> int:
    """Exit code 0 when all that was asked for is measured."""
    threading.Thread(target=_stop_at_end_of_input, name="stdin", daemon=True).start()
    try:
        outcome = measure_experiment(folder, allocated=True, nodes=nodes.split(","), sent=sent or None)
    except RatematchError as error:
        sys.stderr.write(f"ratematch: {error}\n")
        return error.exit_code
    return 0 if outcome.ok else 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
