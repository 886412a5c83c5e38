"""The files of a launch against the schema of the image that will read them.

The schema rules on keys, types and choices. What it cannot say (rules between keys) stays with
:mod:`~ratematch.engines.trtllm_serve.worker_rules` and :mod:`~ratematch.engines.trtllm_serve.orchestrator_rules`;
what they would refuse of a key alone is only a doubt then, and such keys are left out of the rules between keys.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ratematch.engines.installed import InstalledSchema
from ratematch.engines.settings import Config, without
from ratematch.engines.trtllm_serve.contract import check_map, load_keys, orchestrator_keys, release_line
from ratematch.engines.trtllm_serve.orchestrator_rules import check_orchestrator_config
from ratematch.engines.trtllm_serve.release import Version, read_version
from ratematch.engines.trtllm_serve.schema.answer import document_of
from ratematch.engines.trtllm_serve.schema.check import Checker, Remark, TooComplex
from ratematch.engines.trtllm_serve.schema.document import Document, Node
from ratematch.engines.trtllm_serve.worker_rules import check_worker_config

SECTIONS = ("context_servers", "generation_servers")
OF_SECTION = ("num_instances", "urls", "router")


@dataclass(frozen=True)
class Judgement:
    """``refusals``: what the server would not take. ``doubts``: what it takes, and yet should be known."""

    refusals: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def judge_worker(config: Config, version: str, installed: InstalledSchema) -> Judgement:
    """A worker's file against the schema; ``version``: what the sweep takes the engine for.

    Raises:
        ValueError: the version, or the schema, is not known.
    """
    backend = config.get("backend")
    if backend not in (None, "pytorch"):
        doubt = f"backend: the image's schema is that of pytorch: for {backend} the shipped contract was used"
        return Judgement(tuple(check_worker_config(config, version)), (doubt,))
    document = document_of(installed)
    own = document.serve_reads - document.worker_keys
    remarks = _check(document, document.worker, without(config, own), installed)
    shipped = list(check_map("", config, load_keys("worker"), read_version(version)))
    rest = without(config, _wheres(shipped))
    between = [] if _refusals(remarks) else check_worker_config(rest, version)
    # Which keys a class of drafts has, the schema knows better.
    keys_after_all = [problem for problem in between if ": is no key of decoding_type " in problem]
    rules = [problem for problem in between if problem not in keys_after_all]
    return _judgement(remarks, [*shipped, *keys_after_all], rules, version)


def judge_orchestrator(config: Config, version: str, installed: InstalledSchema) -> Judgement:
    """The same for an orchestrator's file. It hands keys that are not its own to its sections, whose servers are
    started apart and never see them: one that no server has is most likely misspelt, and refused by nobody."""
    document = document_of(installed)
    if document.orchestrator is None:
        doubt = "the image's schema has no orchestrator's file: the shipped contract was used"
        return Judgement(tuple(check_orchestrator_config(config, version)), (doubt,))
    remarks = _check(document, document.orchestrator, config, installed)
    if document.resolve(document.orchestrator).extra is True:
        remarks += _find_idle_keys(document, config, _labelled(installed))
    shipped = _check_shipped_keys(config, read_version(version))
    rest = without(config, _wheres(shipped))
    between = [] if _refusals(remarks) else check_orchestrator_config(rest, version)
    block = [problem for problem in between if problem.startswith("disagg_cluster.")]
    rules = [problem for problem in between if problem not in block]
    return _judgement(remarks, [*shipped, *block], rules, version)


def _find_idle_keys(document: Document, config: Config, label: str) -> Iterator[Remark]:
    """Keys of an orchestrator's file that neither it nor a server has, where it takes any."""
    assert document.orchestrator is not None
    own = document.worker_keys | frozenset(document.spellings(document.resolve(document.orchestrator)))
    of_section = document.worker_keys | frozenset(OF_SECTION)
    places = [("", config, own), *((f"{name}.", _map(config.get(name)), of_section) for name in SECTIONS)]
    for before, given, known in places:
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {before}{close[0]}?" if close else ""
                yield Remark(f"{before}{name}", f"is no key of {label}, and nobody refuses it{hint}", "warning")


def _check_shipped_keys(config: Config, version: Version) -> list[str]:
    flat = {name: value for name, value in config.items() if name not in (*SECTIONS, "disagg_cluster")}
    problems = list(check_map("", flat, orchestrator_keys("top"), version))
    for section in SECTIONS:
        problems += check_map(section, _map(config.get(section)), orchestrator_keys("section"), version)
    return problems


def doubt_version(version: str, installed: InstalledSchema) -> list[str]:
    """The sweep renders for other releases than the image is of."""
    try:
        there, rendered = read_version(installed.version or version), read_version(version)
    except ValueError as error:
        return [f"engine.version: {error}"]
    if rendered.first <= there.first <= rendered.last:
        return []
    return [
        f"engine.version: {version} is what files are rendered for, and {installed.image} has {installed.version}: "
        f"write version: {there.text}"
    ]


def _check(document: Document, node: Node | None, config: Config, installed: InstalledSchema) -> list[Remark]:
    assert node is not None
    try:
        return Checker(document, _labelled(installed)).check(config, node)
    except TooComplex as error:
        return [Remark("", str(error), "warning")]


def _labelled(installed: InstalledSchema) -> str:
    return installed.version or "this image"


def _map(value: object) -> Config:
    return value if isinstance(value, dict) else {}


def _refusals(remarks: Iterable[Remark]) -> tuple[str, ...]:
    return tuple(str(remark) for remark in remarks if remark.kind == "refused")


def _wheres(problems: Iterable[str]) -> tuple[str, ...]:
    return tuple(problem.partition(":")[0] for problem in problems)


def _judgement(remarks: list[Remark], shipped: list[str], rules: list[str], version: str) -> Judgement:
    """``shipped``: what the shipped contract has against single keys; said only of those that the image takes.

    What the schema leaves open is no doubt where the shipped contract knows it and has nothing against it.
    """
    refusals = (*_refusals(remarks), *rules)
    wrong = {remark.where for remark in remarks if remark.kind != "warning"}
    unknown = _wheres(shipped)
    doubts = [
        str(remark)
        for remark in remarks
        if remark.kind == "warning"
        or (remark.kind == "unsure" and any(f"{remark.where}.".startswith(f"{where}.") for where in unknown))
    ]
    doubts += [
        f"{where}: the image takes it; the contract shipped for {release_line(version)} says: {text}"
        for where, _, text in (problem.partition(": ") for problem in shipped)
        if where not in wrong
    ]
    return Judgement(refusals, tuple(dict.fromkeys(doubts)))
