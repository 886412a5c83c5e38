"""``--set KEY=VALUE``, one or two of them, on known sweep files."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fuzz.chance import TEXTS, YAML_VALUES, one_of
from tests.fuzz.kinds import sweeps
from tests.fuzz.search import Ending, Kind, call

PATHS = (
    *("name", "workloads.0.isl", "workloads.0.osl", "workloads.1.isl", "ctx.axes.mapping", "ctx.axes.mapping.0"),
    *(
        "ctx.loads.concurrency",
        "ctx.loads.concurrency.0",
        "gen.axes.mtp",
        "gen.axes.mtp.0",
        "gen.loads.repeats",
        "model",
    ),
    *("model.path", "cluster", "engine.version", "budget.max_gpus", "constraints.ttft_ms", "e2e.deployments"),
    *(
        "e2e.loads.around",
        "gen.options",
        "gen.options.x.y",
        "gen.environment.A",
        "deployments.0.ctx.mapping",
        "a.b.c",
    ),
    *(
        "deployments.0.loads.concurrency",
        "ctx",
        "gen",
        "workloads",
        "",
        ".",
        "..",
        "name.x",
        "workloads.x",
        "1",
        "ctx.1",
    ),
    *(
        "workloads.-1.isl",
        "workloads.²",
        "workloads.99999999999999999999",
        "ctx.axes.tp",
        "prefill",
        "prefill.axes.mtp",
    ),
    *(
        "ifb.axes.tp",
        "ifb.axes.options.block_size",
        "decode.loads",
        "agg",
        "deployments.0",
        "deployments.1.agg.config",
    ),
)


def make(rng: random.Random) -> tuple[str, ...]:
    text = rng.choice(sweeps.TEXTS)
    given = []
    for _ in range(rng.choice([1, 1, 2])):
        path = rng.choice(PATHS)
        if rng.random() < 0.2:
            path = one_of(rng, sweeps.KEYS, PATHS) + rng.choice(["", ".", ".0", ".-1", ".x", ".²"])
        given.append(path + rng.choice(["=", "=", "=", "=", "", "=="]) + one_of(rng, YAML_VALUES, YAML_VALUES, TEXTS))
    return (text, *given)


def run(given: tuple[str, ...], _: Path) -> Ending:
    text, *overrides = given
    return sweeps.with_places(call(lambda: sweeps.parse(text, *overrides)), "s.yaml:", "--set ", "--set: ")


KIND = Kind("overrides", make, run, few=120)
