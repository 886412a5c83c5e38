"""Loading, injected faults and lateness of an emulated server, whichever engine it is of."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

from ratematch.emulator.engine import Engine
from ratematch.emulator.environment import Environment, Faults
from ratematch.emulator.errors import LoadFailure
from ratematch.emulator.protocol import Json
from ratematch.plan.parallelism import Parallelism

LATE_WARNING_EVERY_S = 5.0


async def load(environment: Environment, failures: Mapping[str, str]) -> None:
    """Take as long as loading does. ``failures``: what the engine writes when it dies of one, by its name.

    Raises:
        LoadFailure: the injected one.
    """
    faults = environment.faults
    await asyncio.sleep(environment.load_s)
    if faults.die_at_start is not None:
        raise LoadFailure(failures[faults.die_at_start])
    if faults.never_ready:
        await asyncio.Event().wait()


def fails_now(share: float, dice: random.Random) -> bool:
    """One throw of an injected fault that hits ``share`` of the requests."""
    return share > 0 and dice.random() < share


def arm(engine: Engine, faults: Faults) -> None:
    """Let the faults of a server that is ready happen when their time has come."""
    loop = asyncio.get_running_loop()
    engine.hanging = faults.hang
    if faults.die_after_s is not None:
        loop.call_later(faults.die_after_s, os.kill, os.getpid(), signal.SIGKILL)
    if faults.stall_s:
        loop.call_later(faults.stall_at_s, engine.stall, faults.stall_s)


class LateWarning:
    """Says that steps end late (seconds), by ``warn``, and not too often."""

    def __init__(self, warn: Callable[[str], None]):
        self._warn = warn
        self._last_s = 0.0

    def __call__(self, late_s: float) -> None:
        now = time.monotonic()
        if now - self._last_s >= LATE_WARNING_EVERY_S:
            self._last_s = now
            self._warn(
                f"The emulator is {late_s * 1e3:.1f} ms behind its plan: this machine is too slow for the load, "
                "do not trust what is measured now"
            )


def describe(engine: Engine, environment: Environment, model: str, mapping: Parallelism, held: int) -> Json:
    """What ``/server_info`` shows of the emulation. ``held``: KV caches kept for generation servers."""
    kept = engine.lag
    return {
        **asdict(kept),
        "trustworthy": kept.trustworthy,
        "gpu": environment.gpu,
        "model": model,
        "mapping": mapping.label,
        "gpus": mapping.gpus,
        "kv_tokens_per_rank": engine.scheduler.config.kv_tokens,
        "held_for_gen": held,
    }
