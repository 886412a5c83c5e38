"""Forced acceptance of drafts: TensorRT-LLM reads it from a variable of its workers.

The variable counts accepted drafts, so one less than the tokens of a step, and 0 is off. It came with pull request
9371 while the candidates of 1.2 were out; before pull request 13569 (1.3.0rc15) it takes whole numbers only and is
ignored, with a warning, where it has another: drafts would be accepted as they are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ratematch.engines.trtllm_serve.release import held, read_version
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.launchplan import ProcessSpec

VARIABLE = "TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"
SINCE, FRACTIONS_SINCE = "1.2.0rc0..1.2.0", "1.3.0rc15"


def why_not_forced(engine: EngineRef, tokens: float) -> str | None:
    """Why no server of the engine's version yields ``tokens`` a step by force; ``None`` where it does."""
    version = read_version(engine.computing_version)
    if held(version, SINCE) is False:
        return f"TensorRT-LLM {version.text} has nothing that forces how many drafts are accepted: use 1.2.0 or later"
    if takes(version.text, tokens - 1):
        return None
    return (
        f"{tokens:g} tokens a step are {tokens - 1:g} accepted drafts, and TensorRT-LLM {version.text} forces whole "
        f"numbers of them only, as far as is known: name a release from {FRACTIONS_SINCE} on"
    )


def takes(version: str, drafts: float) -> bool:
    """Is so many accepted drafts a value that surely every release of ``version`` takes?"""
    return drafts == int(drafts) or held(read_version(version), FRACTIONS_SINCE) is True


def spell(tokens: float) -> str:
    """The variable's value for so many tokens of a step."""
    return f"{round(tokens - 1, 4):g}"


def is_forcing(value: str, other: str | None = None) -> bool:
    """Does a value of the variable force anything, and as much as the ``other``, where one is given?"""
    try:
        number = float(value)
        return number > 0 and (other is None or number == float(other))
    except ValueError:
        return False


def forced_env(experiment: Experiment, group: ServerGroup) -> tuple[tuple[str, str], ...]:
    """The variable of the workers of ``group``."""
    tokens = experiment.forced_tokens(group)
    return () if tokens is None else ((VARIABLE, spell(tokens)),)


def check_forced(experiment: Experiment, processes: Sequence[ProcessSpec]) -> Iterator[str]:
    """Workers that are forced to something else than the experiment says: no result would tell."""
    groups = experiment.deployment.groups
    wanted: dict[str, str | None] = {}
    wanted |= {group.role: dict(forced_env(experiment, group)).get(VARIABLE) for group in groups}
    reported: set[str] = set()
    for process in processes:
        value = dict(process.env).get(VARIABLE)
        if value == wanted.get(process.role) or process.role in reported:
            continue
        reported.add(process.role)
        yield (
            f"{process.role} environment: {VARIABLE}={value} forces how many drafts are accepted, and results say "
            f"{experiment.workload.forced_acceptance or 'that none are forced'}: write forced_acceptance to the "
            "workload instead"
        )
