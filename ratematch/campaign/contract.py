"""By what the files of a sweep are checked: the schema of the image that its servers run in, where that is known or
can be asked for, else the contract that is shipped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ratematch.campaign.jobs.executor import Executor
from ratematch.campaign.precheck import refuse_missing_inputs, refuse_unlaunchable
from ratematch.campaign.state import Campaign, OnUpdate
from ratematch.engines import find_engine
from ratematch.engines.installed import InstalledSchema
from ratematch.errors import RunError
from ratematch.inputs.schemacache import Image, identify, read_schema, write_schema
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.finding import Finding
from ratematch.plan.sweep import Sweep
from ratematch.slurm.probe import Answer, Within, ask_schema, schema_command
from ratematch.store.contract import SHORT, ContractRef
from ratematch.store.masking import mask

WITHIN: dict[str, Within] = {"slurm": "job", "allocation": "step", "local": "here", "debug": "here"}
"""How a sweep's first job asks, by the name of its executor."""


@dataclass(frozen=True)
class Contract:
    """``installed``: what the image says; ``None`` = the shipped contract rules. ``words``: which it is. ``notes``:
    what a person should know of how it came to be. ``image``: what can be asked, where nothing is known of it."""

    installed: InstalledSchema | None
    words: str
    notes: tuple[str, ...] = ()
    image: Image | None = None

    @property
    def reference(self) -> ContractRef:
        """As the results keep it."""
        if (installed := self.installed) is None:
            return ContractRef()
        return ContractRef(installed.digest, installed.image, installed.version)


def known_contract(sweep: Sweep) -> Contract:
    """What is known without asking anybody."""
    engine, cluster = find_engine(sweep.engine.key), sweep.cluster
    shipped = f"shipped contract for {engine.product} {engine.release_line(sweep.engine.version)}"
    if cluster.emulated or sweep.simulated:
        kind = "emulated" if cluster.emulated else "simulated"
        return Contract(None, f"{shipped} ({kind} servers have no schema)")
    image = identify(cluster, engine)
    if image is None or schema_command(cluster, engine.name) is None:
        return Contract(None, shipped)
    notes: list[str] = []
    installed = _usable(engine.name, image, notes)
    if installed is None:
        how = f"ratematch doctor --cluster {cluster.name} --probe asks it"
        return Contract(None, f"{shipped} (no schema of {image.words} is known; {how})", tuple(notes), image)
    return Contract(installed, describe(installed), tuple(notes))


@dataclass(frozen=True)
class Prepared:
    """What a sweep was found to be before anything is sent. ``warnings``: of its files; ``None`` where the image of
    ``contract`` must be asked before they can be checked."""

    requested: Sequence[Experiment]
    contract: Contract
    warnings: list[str] | None


def prepare(sweep: Sweep, requested: Sequence[Experiment]) -> Prepared:
    """Check everything that can be checked now.

    Raises:
        SweepError: weights or files are not there, or the engine would refuse what the sweep asks for.
    """
    contract = known_contract(sweep)
    if contract.image is not None:
        refuse_missing_inputs(sweep, requested, here=not sweep.simulated)
        return Prepared(requested, contract, None)
    return Prepared(requested, contract, _check(sweep, requested, contract))


def _check(sweep: Sweep, requested: Sequence[Experiment], contract: Contract) -> list[str]:
    return refuse_unlaunchable(sweep, requested, here=not sweep.simulated, installed=contract.installed)


def settle(campaign: Campaign, prepared: Prepared, executor: Executor, on_update: OnUpdate) -> None:
    """Ask the image, where nothing is known of it, and check by what it says; keep that with the results.

    Raises:
        SweepError: the engine would refuse what the sweep asks for. DiskFull: no space.
    """
    contract, warnings = prepared.contract, prepared.warnings
    if warnings is None:
        campaign.stage = "asking the image what it takes"
        on_update(campaign)
        contract = ask_contract(campaign.sweep, contract, executor, campaign.results.path)
        warnings = _check(campaign.sweep, prepared.requested, contract)
        campaign.stage = "measuring"
    installed = contract.installed
    if not (campaign.sweep.simulated or campaign.sweep.cluster.emulated):
        campaign.results.keep_contract(contract.reference, installed.text if installed else None)
    campaign.notes += contract.notes
    campaign.warn([*warnings, *executor.warnings(campaign.sweep.cluster, prepared.requested)])


def describe(installed: InstalledSchema) -> str:
    """Which contract it is, in words."""
    return f"schema of {installed.image} ({installed.digest[:SHORT]}), version {installed.version or 'unknown'}"


def _usable(engine: str, image: Image, notes: list[str]) -> InstalledSchema | None:
    """What is kept of ``image``, if it can still be read."""
    installed = read_schema(image, notes.append)
    if installed is None:
        return None
    try:
        find_engine(engine).describe_schema(installed)
    except ValueError as error:
        notes.append(f"the schema kept of {image.words} cannot be used: {error}")
        return None
    return installed


def ask_contract(sweep: Sweep, contract: Contract, executor: Executor, folder: Path) -> Contract:
    """The first job of a sweep: ask the image of ``contract``, of which nothing is known yet. ``folder``: one that
    jobs see. Where no answer comes, the shipped contract rules and the notes say why."""
    image, within = contract.image, WITHIN.get(executor.name)
    if image is None or within is None:
        return contract
    began = time.monotonic()
    try:
        output = ask_schema(sweep.cluster, sweep.engine.key, folder, within)
        installed = _read(sweep.engine.key, output, image)
    except (RunError, ValueError) as error:
        why = f"{image.words} was asked for its schema and gave none ({error}); the shipped contract is used"
        return Contract(None, contract.words, (*contract.notes, mask(why)))
    notes = list(contract.notes)
    write_schema(image, installed, notes.append)
    where = {"job": "a job of one node", "step": "a step on one node", "here": "a process here"}[within]
    notes.append(f"{describe(installed)}: asked by {where}, {time.monotonic() - began:.0f} s")
    return Contract(installed, describe(installed), tuple(notes))


def _read(engine: str, output: str, image: Image) -> InstalledSchema:
    """Raises ValueError, one line, where ``output`` has no schema."""
    installed = find_engine(engine).read_schema(output, image.words)
    # A default may have been read from the environment there.
    return InstalledSchema(mask(installed.text), installed.image, installed.version)


def keep_answer(cluster: Cluster, engine: str, answer: Answer) -> Finding:
    """What ``ratematch doctor --probe`` says of an image's answer, which is kept from now on."""
    image = identify(cluster, find_engine(engine))
    assert image is not None
    try:
        installed = _read(engine, answer.text, image)
    except ValueError as error:
        return Finding("schema", False, f"{image.words}: {error}")
    problems: list[str] = []
    write_schema(image, installed, problems.append)
    held = find_engine(engine).describe_schema(installed)
    kept = f"kept for {image.words} as {installed.digest[:SHORT]}"
    return Finding("schema", not problems, "; ".join((held, *(problems or [kept]))))


def look_up(cluster: Cluster, engine: str) -> Finding | None:
    """Is a schema known of what the servers of ``cluster`` run in? ``None`` for an engine that has none."""
    if cluster.emulated:
        return Finding("schema", True, "emulated servers have none: the shipped contract is used")
    image = identify(cluster, find_engine(engine))
    if image is None or schema_command(cluster, engine) is None:
        return None
    notes: list[str] = []
    installed = _usable(engine, image, notes)
    if installed is None:
        unknown = f"none is known of {image.words}: --probe asks it; until then the shipped contract is used"
        return Finding("schema", True, "; ".join((*notes, unknown)))
    return Finding("schema", True, describe(installed))
