"""What differs between serving stacks. An engine is one folder behind the functions of :class:`Engine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ratematch.engines import trtllm_serve, vllm
from ratematch.errors import CatalogError
from ratematch.measure.serverlog import Diagnosis, LogSpan, Symptom
from ratematch.measure.servermetrics import ReadIterations, Routes, Samples, StageTimes
from ratematch.plan.capacity import KvSettings
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.enginefacts import EngineFacts
from ratematch.plan.experiment import Experiment
from ratematch.plan.finding import Finding
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.model import Model
from ratematch.plan.placement import Placement
from ratematch.plan.setting import Setting

ENGINES: dict[str, EngineFacts] = {"trtllm-serve": trtllm_serve.FACTS, "vllm": vllm.FACTS}
"""What may be asked of each engine, by the name that a sweep file gives it."""


class Engine(Protocol):
    """The boundary: everything the rest of ratematch asks of a serving stack.

    ``product``: its name for people. ``reference``: what the references of its diagnoses are of. ``routes``: where
    its servers tell of themselves.
    """

    product: str
    reference: str
    routes: Routes

    def command(self, cluster: Cluster) -> tuple[str, ...]:
        """What starts its CLI on a node: the profile's command, else its own, or its emulator on an emulated one."""
        ...

    def launcher(self, cluster: Cluster) -> tuple[str, ...]:
        """What is put before a server where Slurm starts its ranks; empty for an engine that starts them itself."""
        ...

    def spare_ports(self, deployment: Deployment) -> int:
        """Ports that servers use beside those of the placement: the ones right after them."""
        ...

    def plan_launch(
        self, experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float
    ) -> LaunchPlan:
        """Files to write and processes to start, in order; each has ``ready_s`` seconds to become ready."""
        ...

    def check_launch(self, plan: LaunchPlan, experiment: Experiment, model: Model | None = None) -> list[str]:
        """What the engine would refuse about the rendered files, at its start or at the first request; empty when
        nothing. ``model``: what loads; ``None`` leaves out what only the model decides."""
        ...

    def explain_settings(self, experiment: Experiment) -> dict[str, tuple[Setting, ...]]:
        """By role (and ``orchestrator``): each key that servers are told, with its value and the reason."""
        ...

    def kv_settings(self, group: ServerGroup) -> KvSettings:
        """What a server of this group does with the memory that weights and activations leave."""
        ...

    def kv_layout(self, group: ServerGroup, version: str) -> str:
        """How its KV cache lies, in words: matching puts servers of one layout together."""
        ...

    def extra_body(self, experiment: Experiment) -> dict[str, Any]:
        """Fields that this engine wants in every request body beside the OpenAI ones."""
        ...

    def iteration_reader(self) -> ReadIterations:
        """What reads the answers of one server's route for iterations."""
        ...

    def read_stages(self, ctx: Sequence[Samples], gen: Sequence[Samples], elapsed_s: float) -> StageTimes | None:
        """Where requests spent their time, from the growth of every ctx and gen server's counters during a load;
        ``None`` where the engine tells it request by request, or nothing of it."""
        ...

    def read_log(self, text: str, group: ServerGroup, in_flight: int | None) -> LogSpan | None:
        """What a part of one worker's log says of its generation steps; ``None`` when there are none.

        ``in_flight``: requests this worker was asked to hold, where the load says so.
        """
        ...

    def has_iterations(self, text: str) -> bool:
        """Does a part of a server's log tell of any iteration?"""
        ...

    def wrote(self, text: str) -> bool:
        """Is a log one of its servers'?"""
        ...

    def has_given_up(self, text: str) -> bool:
        """Does a server's log say that it will never be ready, though its process may live on?"""
        ...

    def diagnose(self, texts: Sequence[str]) -> Diagnosis | None:
        """The first known cause in logs and error answers, most telling text first; ``None`` when none is known."""
        ...

    def explain(self, symptom: Symptom, experiment: Experiment) -> Diagnosis:
        """What is known of trouble that leaves no line in a log."""
        ...

    def why_no_simulation(self) -> str | None:
        """Why its servers cannot be simulated in virtual time; ``None`` when they can."""
        ...

    def probe_commands(self, command: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Commands, by name, that tell what is installed on a node; ``command`` starts the engine's CLI."""
        ...

    def judge_probe(self, answers: Mapping[str, str]) -> list[Finding]:
        """What the answers say, against what is known of the version that answered."""
        ...


def find_engine(name: str) -> Engine:
    """The engine called ``name`` in a sweep file.

    Raises:
        CatalogError: not one of ours.
    """
    match name:
        case "trtllm-serve":
            return trtllm_serve.ENGINE
        case "vllm":
            return vllm.ENGINE
        case _:
            raise CatalogError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}")
