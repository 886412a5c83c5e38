"""Kills the processes of a tiny sweep at random instants, again and again, and looks at what is left after each.

``python -m tests.run.killing --minutes 60 --seed 1`` for as long as you like (``make kill MINUTES=60``);
``test_kills.py`` for less than a minute. Controller, jobs, servers, orchestrators and guards are killed with SIGKILL,
one or several at once; the sweep is then typed again until it is through. What must hold: no file of a finished load
ever changes or vanishes, none is measured twice, every load is there at the end, and then no process lives and no
half-written file lies about. Only processes that carry the mark of this sweep's folder are touched.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import processes_with
from tests.support.sites import make_site

SWEEP = """\
name: tiny
about: What is killed over and over.
model: deepseek-r1
cluster: laptop
workloads: [{isl: 256, osl: 8}]
budget: {max_gpus: 8}
ctx:
  axes: {mapping: DEP4}
  loads: {concurrency: [1, 4], min_requests: 12, requests_per_slot: 2}
gen:
  axes: {mapping: TEP4, mtp: [0]}
  loads: {concurrency: [1, 4], min_requests: 12, requests_per_slot: 2}
ifb:
  axes: {mapping: TEP4}
  loads: {concurrency: [1, 4], min_requests: 12, requests_per_slot: 2}
e2e:
  deployments: 1
  loads: {around: [0.5, 1.0], min_requests: 12, requests_per_slot: 2}
"""
LOADS = {"ctx": 2, "gen": 2, "ifb": 2}
FILES = ("loadrun.json", "records.parquet", "measurement.json", "warmup.parquet")
WORDS = (("guard.py", "guard"), ("submitit", "job"), ("disaggregated", "orchestrator"), (" sweep ", "controller"))
MOST_STARTS = 40
LEFT_S = 60.0


@dataclass
class Outcome:
    """``kills`` by kind of process, ``campaigns`` brought to their end, and whatever was not as it must be."""

    kills: Counter[str] = field(default_factory=Counter)
    campaigns: int = 0
    problems: list[str] = field(default_factory=list)


def kind_of(command: str) -> str:
    """What a process of the sweep is, by its command line."""
    return next((kind for word, kind in WORDS if word in command), "server")


class Campaign:
    """One sweep in ``site``, killed until ``until_s`` (monotonic), then left to finish."""

    def __init__(self, site: Path, rng: random.Random, until_s: float, outcome: Outcome) -> None:
        make_site(site, tiny=SWEEP)
        self._site, self._rng, self._until_s, self._outcome = site, rng, until_s, outcome
        self._results = site / "results" / "tiny"
        self._seen: dict[str, str] = {}

    def run(self) -> None:
        """Kill and resume until the sweep is through, and look at what is left."""
        for _ in range(MOST_STARTS):
            with (self._site / "out.txt").open("a") as out:
                controller = subprocess.Popen(
                    [sys.executable, "-m", "ratematch", "sweep", "tiny.yaml"],
                    cwd=self._site,
                    env={**os.environ, "RATEMATCH_TEST_SITE": str(self._site)},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._harass(controller)
            self._look("after the controller's end")
            if controller.returncode == 0:
                break
            if controller.returncode not in (2, -signal.SIGKILL):
                self._complain(f"exit code {controller.returncode}")
        else:
            self._complain(f"not through after {MOST_STARTS} starts")
        self._check_end()
        self._outcome.campaigns += 1

    def _harass(self, controller: subprocess.Popen[bytes]) -> None:
        while controller.poll() is None:
            wait_s = self._rng.choice([self._rng.uniform(0.2, 2), self._rng.uniform(1, 5), self._rng.uniform(3, 8)])
            left_s = self._until_s - time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                controller.wait(wait_s if left_s > 0 else 240)
                return
            self._look("under way")
            if left_s > 0:
                self._kill()

    def _kill(self) -> None:
        """One process of one kind; now and then several at once: what a node or a full memory takes with it."""
        by_kind: dict[str, list[int]] = {}
        for pid, command in self._processes():
            by_kind.setdefault(kind_of(command), []).append(pid)
        chance = self._rng.random()
        if chance < 0.1:
            kinds = ["controller", "job"]
        elif chance < 0.2:
            kinds = ["job", "guard"]
        else:
            # A controller is always there; it would be killed before anything else has begun.
            others = sorted(by_kind.keys() - {"controller"})
            kinds = [self._rng.choice(others) if others and self._rng.random() < 0.8 else "controller"]
        for kind in kinds:
            pids = by_kind.get(kind, [])
            for pid in pids if len(kinds) > 1 else pids and [self._rng.choice(pids)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self._outcome.kills[kind] += 1

    def _look(self, when: str) -> None:
        """Compare every load that was finished before with what is there now."""
        now = dict(self._finished())
        for load, content in self._seen.items():
            if now.get(load) != content:
                self._complain(f"{when}: {load} {'changed' if load in now else 'is lost'}")
        self._seen = now

    def _finished(self) -> Iterator[tuple[str, str]]:
        for file in self._results.glob("*/loads/*/loadrun.json"):
            digest = hashlib.sha256()
            for name in FILES:
                digest.update((file.parent / name).read_bytes())
            yield str(file.parent.relative_to(self._results)), digest.hexdigest()

    def _check_end(self) -> None:
        of_stages = Counter(load.partition("-")[0] for load in self._seen)
        end_to_end = of_stages.pop(
            "e2e", 0
        )  # one or two, by what was measured: half of a concurrency may be the other
        if of_stages != LOADS or not 1 <= end_to_end <= 2:
            self._complain(f"loads of stages: {dict(of_stages)}, end to end: {end_to_end}")
        deadline = time.monotonic() + LEFT_S
        while (left := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid, command in left:
            self._complain(f"still alive: {command[:200]}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for file in self._results.rglob("*"):
            if file.name.startswith(".") or file.suffix in (".tmp", ".part", ".reserved", ".partial"):
                self._complain(f"left over: {file.relative_to(self._results)}")

    def _processes(self) -> list[tuple[int, str]]:
        return list(processes_with(f"RATEMATCH_TEST_SITE={self._site}\0"))

    def _complain(self, what: str) -> None:
        self._outcome.problems.append(f"{self._site.name}: {what}")


def harass(folder: Path, seed: int, seconds: float) -> Outcome:
    """Campaign after campaign in ``folder`` until ``seconds`` are over; the last one is brought to its end."""
    rng, outcome = random.Random(seed), Outcome()
    until_s = time.monotonic() + seconds
    while not outcome.campaigns or time.monotonic() < until_s:
        Campaign(folder / f"site-{outcome.campaigns}", rng, until_s, outcome).run()
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.run.killing", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ratematch-kill-") as folder:
        outcome = harass(Path(folder), given.seed, 60 * given.minutes)
    line = {"seed": given.seed, "kills": sum(outcome.kills.values()), **outcome.kills, "campaigns": outcome.campaigns}
    sys.stdout.write("\n".join([json.dumps(line), *outcome.problems]) + "\n")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
