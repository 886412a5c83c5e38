"""Every verb with options and arguments at the edge. Nothing is started: what sends load or runs servers is held."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import click

from ratematch.cli import main
from ratematch.errors import UserError
from tests.fuzz.chance import NUMBERS, TEXTS, one_of
from tests.fuzz.kinds import sweeps, tables
from tests.fuzz.search import Ending, Kind, type_in

HELD = (
    "ratematch.campaign.controller.run_campaign",
    "ratematch.campaign.control.start_detached",
    "ratematch.campaign.control.follow_logs",
    "ratematch.campaign.doctor.examine",
    "ratematch.run.experiment.measure_experiment",
    "ratematch.loadgen.ladder.run_ladder",
    "ratematch.report.notebooks.write_executed",
)
"""What starts something: it is not called, and the verb ends with a word."""

GOLDEN = Path(__file__).parents[2] / "golden" / "results_v1" / "kinds"
LEFT_OUT = {"emulate": "is a server"}
FILES = ("rates.csv", "s.yaml", "empty", "folder", "pipe", "binary", "nosuch", "here/s.yaml", "results")
DEVICES = ("/dev/null", "/dev/zero")
USUAL = {
    "results": ("results", "empty", "nosuch", "folder"),
    "before": ("results",),
    "after": ("results",),
    "table": ("rates.csv",),
    "sweep": ("s.yaml", "quickstart"),
    "cluster": ("laptop", "gb200-nvl72"),
    "experiment": ("gen", "results"),
    "overrides": ("workloads.0.isl=128", "seed=3"),
    "logs": ("folder", "empty", "rates.csv"),
    "files": ("binary", "empty", "rates.csv", "s.yaml"),
    "file": ("binary", "s.yaml"),
    "url": ("http://127.0.0.1:9", "127.0.0.1:9"),
    "concurrency": ("1,8", "16"),
    "at": ("20,50", "30"),
    "max_regression": ("3%", "0.03"),
    "api_key_env": ("HOME",),
}
WRITTEN = ("output", "into")
"""Parameters whose files are written: they stay in the folder of the test."""


@cache
def _verbs() -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {}
    waiting: list[tuple[tuple[str, ...], click.Command]] = [((), main)]
    while waiting:
        words, command = waiting.pop()
        if isinstance(command, click.Group):
            waiting += [((*words, name), each) for name, each in command.commands.items()]
        elif words[0] not in LEFT_OUT:
            found[words] = command
    return dict(sorted(found.items()))


def make(rng: random.Random) -> tuple[str, ...]:
    words, command = rng.choice(list(_verbs().items()))
    typed: list[str] = list(words)
    wild = rng.choice([0.0, 0.1, 0.3, 0.9])
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            wanted = rng.choice([0, 1, 1, 1, 1, 1, 2]) if parameter.nargs == -1 else rng.random() > 0.03
            typed += [_value(rng, parameter, wild) for _ in range(int(wanted))]
        elif isinstance(parameter, click.Option) and rng.random() < (0.9 if parameter.required else 0.25):
            name = rng.choice([*parameter.opts, *parameter.secondary_opts])
            typed += [name] if parameter.is_flag else [name, _value(rng, parameter, wild)]
    if rng.random() < 0.03:
        typed.append(rng.choice(("--nosuch", "", "²", "--", "-x", "\x1b[2J")))
    # The system takes no zero byte in an argument.
    return tuple(word.replace("\x00", "\\0") for word in typed)


def _value(rng: random.Random, parameter: click.Parameter, wild: float) -> str:
    """A value of an option or argument: one that it may well have, or in the share ``wild`` anything."""
    kind = parameter.type
    if rng.random() >= wild:
        return _usual(rng, parameter)
    if isinstance(kind, click.Path) or parameter.name in (
        "sweep",
        "cluster",
        "experiment",
        "text",
        "file",
        "tokenizer",
    ):
        inside = [text for text in TEXTS if not text.startswith(("/", "~")) and ".." not in text]
        if parameter.name in WRITTEN:
            return one_of(rng, FILES, ("new", "new/below", "empty/below"), inside)
        return one_of(rng, FILES, FILES, FILES, DEVICES, ("quickstart", "laptop", "sample"), inside)
    if isinstance(kind, click.types.IntRange | click.types.FloatRange):
        return one_of(rng, NUMBERS, ("1", "2", "16"))
    return one_of(rng, TEXTS, NUMBERS)


def _usual(rng: random.Random, parameter: click.Parameter) -> str:
    kind, name = parameter.type, parameter.name or ""
    if isinstance(kind, click.Choice):
        return str(rng.choice(list(kind.choices)))
    if name in USUAL:
        return rng.choice(USUAL[name])
    if name in WRITTEN:
        return rng.choice(("new", "new/below", "new.csv"))
    if isinstance(kind, click.types.IntRange | click.types.FloatRange):
        return rng.choice(("1", "2", "4", "16", "100", "0.5", "2000"))
    return rng.choice(("1", "50", "3%", "1024/64", "deepseek-r1", "2xDEP4", "gb200", "x"))


@contextmanager
def _held() -> Iterator[None]:
    with ExitStack() as stack:
        for name in HELD:
            stack.enter_context(mock.patch(name, side_effect=UserError("held")))
        yield


def _lay_out(folder: Path) -> None:
    if (folder / "s.yaml").exists():
        return
    (folder / "s.yaml").write_text(sweeps.SMALL, encoding="utf-8")
    (folder / "rates.csv").write_text(tables.TABLE, encoding="utf-8")
    (folder / "empty").write_text("", encoding="utf-8")
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "folder").mkdir()
    shutil.copytree(GOLDEN, folder / "results")
    os.mkfifo(folder / "pipe")


def run(typed: tuple[str, ...], folder: Path) -> Ending:
    before, stopped_by = Path.cwd(), signal.getsignal(signal.SIGTERM)
    own = folder / "options"
    own.mkdir(exist_ok=True)
    _lay_out(own)
    os.chdir(own)
    try:
        with _held():
            return type_in(*typed)
    finally:
        os.chdir(before)
        signal.signal(signal.SIGTERM, stopped_by)  # which `sweep` sets


KIND = Kind("options", make, run, few=80)
