"""The engine boundary: everything the rest of ratematch needs of a serving stack, as one value.

An engine's folder builds its :class:`Engine` once, out of plain functions. An engine that shares most of another one
is made with :func:`dataclasses.replace`: a stack that starts ``trtllm-serve`` workers behind an orchestrator of its
own replaces what plans a launch, and keeps files, metrics and logs. ``docs/adding-an-engine.md`` has every field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ratematch.engines.asking import Conversation, Shell
from ratematch.engines.installed import InstalledSchema
from ratematch.engines.knownfailure import KnownFailure
from ratematch.measure.breakdown import Breakdown
from ratematch.measure.requesttimes import TimesSources
from ratematch.measure.serverlog import Diagnosis, LogSpan, Running, Symptom
from ratematch.measure.servermetrics import ReadIterations, Routes, Samples, StageTimes
from ratematch.plan.capacity import KvSettings
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.enginefacts import EngineFacts
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.finding import Finding
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.model import Model
from ratematch.plan.placement import Placement
from ratematch.plan.requestapi import RequestApi
from ratematch.plan.setting import Setting
from ratematch.plan.transfer import TransferCosts, TransferWork

Json = dict[str, Any]
"""A JSON object as it is sent or received."""


class CheckLaunch(Protocol):
    """The type of :attr:`Engine.check_launch`, whose last two arguments may be left out."""

    def __call__(
        self,
        plan: LaunchPlan,
        experiment: Experiment,
        model: Model | None = None,
        installed: InstalledSchema | None = None,
    ) -> list[str]: ...


class ReadBreakdown(Protocol):
    """The type of :attr:`Engine.read_breakdown`, whose two counts are given by name."""

    def __call__(self, records: Sequence[Any], *, skip_first: int, skip_last: int) -> Breakdown | None: ...


def nothing_missing(experiment: Experiment, host: Callable[[str], Path | None]) -> list[str]:
    """Servers need nothing but weights."""
    return []


def no_doubts(
    plan: LaunchPlan, experiment: Experiment, model: Model | None = None, installed: InstalledSchema | None = None
) -> list[str]:
    """Whatever its contract does not refuse is known to be taken."""
    return []


def no_schema_command(command: Sequence[str]) -> tuple[str, ...] | None:
    """The engine is not asked for a schema: its shipped contract rules."""
    return None


def no_schema(output: str, image: str) -> InstalledSchema:
    """Nothing is asked for one."""
    raise ValueError("this engine is not asked for a schema")


def no_description(installed: InstalledSchema) -> str:
    """Nothing is known of one."""
    return "nothing is known of it"


def openai_completions(experiment: Experiment) -> RequestApi:
    """OpenAI's completions, with the path of the weights as the model's name."""
    return RequestApi()


def no_extra_body(experiment: Experiment) -> Json:
    """Requests carry the OpenAI fields and nothing else."""
    return {}


def no_samples(body: bytes) -> list[dict[str, float]] | None:
    """The engine answers in Prometheus text only."""
    return None


def no_figures(samples: Samples) -> dict[str, float]:
    """The engine's samples have none of the figures that all servers have in common."""
    return {}


def no_times(experiment: Experiment) -> TimesSources:
    """The engine has no timings request by request."""
    return TimesSources(why_none="this engine's servers keep no times of single requests")


def any_object(line: bytes) -> Json:
    """All of it."""
    return msgspec.json.decode(line, type=Json)


def no_breakdown(records: Sequence[Any], *, skip_first: int, skip_last: int) -> Breakdown | None:
    """The engine has no timings request by request."""
    return None


def no_stages(ctx: Sequence[Samples], gen: Sequence[Samples], elapsed_s: float) -> StageTimes | None:
    """The engine's counters have no times of stages."""
    return None


def no_log_span(text: str, group: ServerGroup, in_flight: int | None) -> LogSpan | None:
    """The engine's log has no times of steps."""
    return None


def no_transfer_work(model: Model, ctx: ServerGroup, gen: ServerGroup, isl: int, version: str) -> TransferWork | None:
    """Nothing is known of what a KV transfer is made of."""
    return None


def same_plan(plan: LaunchPlan, other: LaunchPlan) -> bool:
    """Servers that are started otherwise are other servers."""
    return plan == other


def nothing_running(plan: LaunchPlan, logs: Mapping[str, str]) -> Running:
    """The engine's logs say nothing of how its servers run beyond what they were told."""
    return Running()


def never_gives_up(text: str) -> bool:
    """A server that will never be ready ends its process, so its log need not be read for that."""
    return False


def no_commands(command: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """A node is asked, or nobody."""
    return {}


def no_programs(engine: EngineRef) -> tuple[str, ...]:
    """Nothing but its own CLI."""
    return ()


def no_conversation(plan: LaunchPlan, experiment: Experiment) -> Conversation:
    """Servers whose own addresses answer are all that was started."""
    yield from ()


def nothing_to_wait_for(plan: LaunchPlan, experiment: Experiment) -> Shell | None:
    """Each server's own address says when it is ready."""
    return None


def simulated() -> str | None:
    """Nothing stands against simulating its servers in virtual time."""
    return None


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One serving stack. Every callable is a plain function; those with a default are things an engine may lack."""

    name: str
    """What ``engine.name`` of a sweep file says, such as ``trtllm-serve``."""

    facts: EngineFacts
    """Release lines, modes and routers: checked when a sweep file is read, before anything of it is planned."""

    product: str
    """Its name for people, such as ``TensorRT-LLM``."""

    reference: str
    """What the ``reference`` of each of its diagnoses is a part of."""

    routes: Routes
    """The HTTP paths of its servers' own statistics."""

    # ------------------------------------------------------------------------------------------------- launching

    command: Callable[[Cluster], tuple[str, ...]]
    """The words that start its CLI on a node: the profile's ``command``, else its own, or its emulator's where the
    cluster is emulated."""

    programs: Callable[[EngineRef], tuple[str, ...]] = no_programs
    """What must be on PATH beside the first word of ``command``: programs that its settings ask for."""

    launcher: Callable[[Cluster], tuple[str, ...]]
    """The words before a server whose ranks Slurm starts; empty for an engine that starts its ranks itself."""

    spare_ports: Callable[[Experiment], int]
    """Ports that servers use beside those of the placement: the ones right after them."""

    plan_launch: Callable[[Experiment, Placement, Cluster, float], LaunchPlan]
    """Files to write and processes to start, in order; the last argument is the seconds each has to become ready."""

    check_launch: CheckLaunch
    """What the engine would refuse about the rendered files, at its start or at the first request, a line each; empty
    when nothing. ``model``: what the servers load; ``None`` leaves out the rules that depend on it. ``installed``:
    what the servers' own package says it takes, which then rules on keys, types and choices."""

    doubt_launch: CheckLaunch = no_doubts
    """What a person should know of files that :attr:`check_launch` lets pass: settings of which it is not known
    whether every release takes them, a line each."""

    join: Callable[[LaunchPlan, Experiment], Conversation] = no_conversation
    """What is asked once every process answers its own probe, until the deployment as a whole is ready."""

    join_script: Callable[[LaunchPlan, Experiment], Shell | None] = nothing_to_wait_for
    """The same in Bash, for a person's ``run.sh``; ``None``: each server's own address says it all."""

    recheck: Callable[[LaunchPlan, Experiment], Conversation] = no_conversation
    """What is asked before and after each load: is it still the deployment that was started?"""

    does_for: Callable[[LaunchPlan, LaunchPlan], bool] = same_plan
    """Do the servers of the first plan do for the experiment of the second, so that they need not be started anew for
    it? Both plans are for the same nodes, GPUs and ports."""

    check_inputs: Callable[[Experiment, Callable[[str], Path | None]], list[str]] = nothing_missing
    """What is missing or wrong on disk of what its servers need beside weights, a line each. The function gives the
    place on this machine of a path as servers see it, ``None`` where no mount shows it."""

    explain_settings: Callable[[Experiment], dict[str, tuple[Setting, ...]]]
    """By role (and ``orchestrator``): every configured key, with its value and the reason for it; and under
    ``environment`` variables that a measurement needs."""

    request_api: Callable[[Experiment], RequestApi] = openai_completions
    """The API that requests of a load use, and the model's name there."""

    extra_body: Callable[[Experiment], Json] = no_extra_body
    """Fields of every request body beside the OpenAI ones."""

    # ---------------------------------------------------------------------------------------------------- memory

    kv_settings: Callable[[ServerGroup], KvSettings]
    """What a server of this group does with the memory that weights and activations leave."""

    kv_layout: Callable[[ServerGroup, str], str]
    """The layout of its KV cache in a version, in words: only servers of one layout are matched with each other.
    Empty where the engine refuses pairs that differ before anything is measured."""

    transfer_work: Callable[[Model, ServerGroup, ServerGroup, int, str], TransferWork | None] = no_transfer_work
    """What the KV transfer of a prompt of so many tokens between a ctx and a gen server is made of, in a version."""

    transfer_costs: TransferCosts | None = None
    """What that costs a gen server's steps; ``None`` where nobody has measured it."""

    # ------------------------------------------------------------------------------- what servers say of themselves

    iteration_reader: Callable[[], ReadIterations]
    """A new reader for the answers of one server's ``routes.iterations``; it may keep state from answer to answer."""

    read_samples: Callable[[bytes], list[dict[str, float]] | None] = no_samples
    """Figures in an answer of a metrics address that is in a format of the engine's own, by the names that
    :func:`ratematch.measure.servermetrics.judge_figures` knows; ``None`` for an answer in another format."""

    read_figures: Callable[[Samples], dict[str, float]] = no_figures
    """The figures in its Prometheus samples that all servers have in common, by the names of
    :mod:`ratematch.measure.metricnames`."""

    read_stages: Callable[[Sequence[Samples], Sequence[Samples], float], StageTimes | None] = no_stages
    """Mean stage times of a load, from the growth of every ctx and every gen server's counters
    (``routes.prometheus``) and the seconds it took. ``None`` where the counters do not have them."""

    request_times: Callable[[Experiment], TimesSources] = no_times
    """Where the servers that are started for an experiment hand out times request by request."""

    trim_times: Callable[[bytes], Json] = any_object
    """What is kept of one line of a file with such times: one JSON object. Raises ValueError: the line is none."""

    read_breakdown: ReadBreakdown = no_breakdown
    """Mean stage times of a load, from records of ``request_times`` of any source, without the ``skip_first`` that
    arrived first and the ``skip_last`` that arrived last. ``None`` where they do not have them."""

    timed_request: type = dict
    """What :attr:`read_breakdown` looks at of a record, as a ``msgspec.Struct`` whose keys may all be missing. It is
    given these where all records of a load fit it, else whole objects."""

    read_log: Callable[[str, ServerGroup, int | None], LogSpan | None] = no_log_span
    """Generation steps in a part of one worker's log, ``None`` when there are none. The last argument is the number
    of requests this worker was given to hold, where the load sets it."""

    read_running: Callable[[LaunchPlan, Mapping[str, str]], Running] = nothing_running
    """What the logs of ready servers, by name, say of choices that the engine may make otherwise than its files
    say."""

    has_iterations: Callable[[str], bool]
    """Does a part of a server's log show any iteration?"""

    wrote: Callable[[str], bool]
    """Is a log one of its servers'?"""

    # ------------------------------------------------------------------------------------------------------ failures

    has_given_up: Callable[[str], bool] = never_gives_up
    """Does a server's log say that it will never be ready, though its process may live on?"""

    diagnose: Callable[[Sequence[str]], Diagnosis | None]
    """The cause that logs and error answers show, the most telling text first; ``None`` when none is known."""

    known_failures: Sequence[KnownFailure]
    """The table behind ``diagnose``: logs that no server's words are in are tried with the tables of all engines."""

    explain: Callable[[Symptom, Experiment], Diagnosis]
    """What is known of trouble that leaves no line in a log."""

    # ----------------------------------------------------------------------------------- installation and simulation

    probe_commands: Callable[[Sequence[str]], dict[str, tuple[str, ...]]]
    """Commands, by name, whose output says what is installed on a node; the argument starts the engine's CLI."""

    local_commands: Callable[[Sequence[str]], dict[str, tuple[str, ...]]] = no_commands
    """Those of them that are worth running on this machine where servers, emulated ones too, are started here."""

    judge_probe: Callable[[Mapping[str, str]], list[Finding]]
    """What those outputs say, compared with what is known of the version that answered."""

    schema_command: Callable[[Sequence[str]], tuple[str, ...] | None] = no_schema_command
    """What asks the installed package, on a node, for the schema of its files; the argument starts the engine's CLI.
    ``None``: it has none."""

    read_schema: Callable[[str, str], InstalledSchema] = no_schema
    """The schema in the output of ``schema_command``; the second argument is what was asked, in words. Raises
    ValueError, one line, where there is none that can be used."""

    release_line: Callable[[str], str] = str
    """The release line of a version, by which the shipped contract is chosen; ValueError for an unknown one."""

    describe_schema: Callable[[InstalledSchema], str] = no_description
    """What such a schema holds, in words; ValueError where it cannot be used any more."""

    why_no_simulation: Callable[[], str | None] = simulated
    """Why its servers cannot be simulated in virtual time; ``None`` when they can."""
