"""For how long a sweep has the GPUs of this machine: also those that nothing runs on are time that somebody pays."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from ratematch.errors import DiskFull
from ratematch.plan.cluster import Cluster
from ratematch.run.reserve import takes_gpus
from ratematch.store.folder import Results
from ratematch.store.gputime import HeldMachine, read_machine, write_machine

ACCOUNT_S = 5.0
"""How often it is written, for whoever asks meanwhile, and in case the controller is killed."""


@contextlib.contextmanager
def holding_machine(results: Results, cluster: Cluster, executor: str) -> Iterator[None]:
    """Keep from when to when a sweep with this executor has GPUs of this machine; nothing where it has none."""
    if executor not in ("local", "debug") or not takes_gpus(cluster):
        yield
        return
    before = read_machine(results.path)
    held, over = HeldMachine(time.time(), time.time(), cluster.gpus_per_node), threading.Event()

    def write() -> None:
        with contextlib.suppress(DiskFull):  # only an account: no measurement is lost with it
            write_machine(results.path, [*before, replace(held, until=time.time())])

    def keep_writing() -> None:
        write()
        while not over.wait(ACCOUNT_S):
            write()

    thread = threading.Thread(target=keep_writing, name="account of GPUs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        write()
