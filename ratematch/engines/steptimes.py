"""The emulator's step-time model by name: read from the environment, recorded, and handed to emulated servers.

A calibrated model is named by what it consists of, so that nothing but the name needs to travel:
``roofline*fixed=1.08,memory=0.94,compute=1.12,link=1,gen-DEP=0.97@h200/qwen3-8b/bf16``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import DEFAULT_STEP_TIMES, Experiment
from ratematch.plan.numbers import brief
from ratematch.plan.parallelism import family_name

STEPS_VARIABLE = "RATEMATCH_EMULATED_STEPS"

STEP_MODELS = (DEFAULT_STEP_TIMES, "kernels")
"""How long an iteration takes: computed from data sheets, or looked up in measured kernels (an optional extra)."""

PARTS = ("fixed", "memory", "compute", "link")
"""What a calibration corrects: fixed times, and the shares of memory, compute and link peaks that kernels reach."""

LEAST, MOST = 0.05, 20.0
"""No correction is outside these."""

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_FAMILY = rf"(?:ctx|gen)-[A-Z]+={_NUMBER}"
_CALIBRATED = re.compile(
    rf"{DEFAULT_STEP_TIMES}\*"
    + ",".join(rf"{part}=(?P<{part}>{_NUMBER})" for part in PARTS)
    + rf"(?P<families>(?:,{_FAMILY})*)"
    + r"@(?P<gpu>[^/@\s]+)/(?P<model>[^/@\s]+)/(?P<precision>[^/@\s]+)"
)


@dataclass(frozen=True)
class Correction:
    """What measured servers of one GPU type, model and weight format say of the roofline.

    ``fixed``: factor on fixed times of layers, exchanges and steps. ``memory``, ``compute``, ``link``: factors on the
    shares of the peaks that kernels reach, so on speeds. ``families``: further factors on the speed of steps of one
    kind of mapping, by name: ``gen DEP`` of steps in which something is generated, ``ctx DEP`` of the others. 1
    changes nothing.
    """

    gpu: str
    model: str
    precision: str
    fixed: float = 1.0
    memory: float = 1.0
    compute: float = 1.0
    link: float = 1.0
    families: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """Of the step-time model with it, rounded to four decimals."""
        factors = [*zip(PARTS, self.factors, strict=True), *self.families]
        said = ",".join(f"{name.replace(' ', '-')}={round(factor, 4):g}" for name, factor in factors)
        return f"{DEFAULT_STEP_TIMES}*{said}@{self.gpu}/{self.model}/{self.precision}"

    @property
    def factors(self) -> tuple[float, ...]:
        """In the order of ``PARTS``."""
        return self.fixed, self.memory, self.compute, self.link

    def with_factors(self, factors: Iterable[float]) -> Correction:
        """With the same families; ``factors`` in the order of ``PARTS``."""
        fixed, memory, compute, link = factors
        return Correction(self.gpu, self.model, self.precision, fixed, memory, compute, link, self.families)

    def family(self, stage: str, mapping: str) -> float:
        """The factor of a kind of mapping, by one mapping of it (``DEP8``); 1 where none is known."""
        return dict(self.families).get(family_name(stage, mapping), 1.0)

    def refuse_other(self, gpu: str, model: str, precision: str) -> None:
        """Raises ValueError where a server is not of what was calibrated."""
        wanted, there = f"{self.model} in {self.precision} on {self.gpu}", f"{model} in {precision} on {gpu}"
        if wanted != there:
            raise ValueError(f"the step times are calibrated for {wanted}, and this is {there}")


def correction_of(steps: str) -> Correction | None:
    """The correction in the name of a calibrated model; ``None`` for any other name.

    Raises:
        ValueError: a factor that nothing measured can mean.
    """
    match = _CALIBRATED.fullmatch(steps)
    if match is None:
        return None
    factors = {part: float(match[part]) for part in PARTS}
    given = [each.split("=") for each in match["families"].split(",")[1:]]
    families = {name.replace("-", " "): float(factor) for name, factor in given}
    if wrong := [each for each in (factors | families).items() if not LEAST <= each[1] <= MOST]:
        raise ValueError(f"{wrong[0][0]}={wrong[0][1]:g}: a factor is from {LEAST:g} to {MOST:g}")
    if len(families) < len(given):
        raise ValueError(f"two factors of one family: {match['families'][1:]}")
    return Correction(match["gpu"], match["model"], match["precision"], **factors, families=tuple(families.items()))


def read_step_model(env: Mapping[str, str]) -> str:
    """The step-time model that ``env`` names.

    Raises:
        ValueError: there is no such model.
    """
    steps = env.get(STEPS_VARIABLE, "").strip() or DEFAULT_STEP_TIMES
    try:
        calibrated = correction_of(steps) is not None
    except ValueError as error:
        raise ValueError(f"{STEPS_VARIABLE}: {error}") from None
    if steps not in STEP_MODELS and not calibrated:
        raise ValueError(
            f"{STEPS_VARIABLE}: unknown step-time model {brief(steps)}: write {' or '.join(STEP_MODELS)}, or what "
            "`ratematch calibrate` gives"
        )
    return steps


def step_times_env(experiment: Experiment, cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """The variable that gives emulated servers the experiment's model, in whatever environment its job runs."""
    return ((STEPS_VARIABLE, experiment.step_times),) if experiment.emulated and cluster.emulated else ()
