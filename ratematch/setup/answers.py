"""From a person's answers and what Slurm says to all that a profile and a first sweep need."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ratematch.errors import UserError
from ratematch.plan.memory import RUNTIME_RESERVE_B, MemoryUse, default_precision, memory_fit
from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism
from ratematch.slurm.survey import NodeGroup, Survey

MPI = ("pmix", "pmix_v5", "pmix_v4", "pmix_v3", "pmi2")
"""Flavours of ``srun --mpi``, the one that engines want first."""

FIRST_GPUS = 16
"""A first sweep uses no more GPUs at once, where the model fits on so few."""

KV_FRACTION = 0.8

LARGEST_BOARD = 8
"""GPUs that NVLink joins inside a node; larger domains span nodes."""


class NotSaid(UserError):
    """An answer that neither the person nor Slurm gave. ``field``: of :class:`Given`."""

    def __init__(self, field: str, question: str):
        self.field, self.question = field, question
        super().__init__(f"{question} (--{field.replace('_', '-')})")


@dataclass(frozen=True)
class Given:
    """What a person answered; ``None`` and empty: not said."""

    name: str | None = None
    partition: str | None = None
    account: str | None = None
    gpu: str | None = None
    gpus_per_node: int | None = None
    nodes: int | None = None
    image: str | None = None
    mounts: tuple[str, ...] = ()
    weights: str | None = None
    mpi: str | None = None
    segment: int | None = None
    emulated: bool = False


@dataclass(frozen=True)
class SiteAnswers:
    """What a cluster profile says. ``slurm``: servers run in Slurm's jobs. ``why``: by key, where the value is from,
    for the comment beside it."""

    name: str
    gpu: str
    gpus_per_node: int
    nodes: int
    slurm: bool
    partition: str | None = None
    account: str | None = None
    gpus: Literal["gpus-per-node", "none"] = "gpus-per-node"
    mpi: str | None = None
    segment: int | None = None
    minutes: int | None = None
    image: str | None = None
    mounts: tuple[str, ...] = ()
    weights: str | None = None
    emulated: bool = False
    why: Mapping[str, str] | None = None


def settle_site(given: Given, survey: Survey | None, gpus: Mapping[str, Gpu]) -> SiteAnswers:
    """All of a profile. ``survey``: what Slurm says, ``None`` without Slurm; then servers run on this machine.
    ``gpus``: known types by name.

    Raises:
        UserError: something that nobody said; the message names the option.
    """
    if survey is None:
        return _settle_machine(given)
    why: dict[str, str] = {}
    group = _choose_group(given, survey)
    gpu = given.gpu or _name_gpu(group, gpus)
    per_node = given.gpus_per_node or group.gpus
    if not per_node:
        raise NotSaid(
            "gpus_per_node", f"how many GPUs has a node of partition {group.partition}? Slurm knows of none"
        )
    if not given.gpus_per_node:
        why["gpus_per_node"] = "Slurm's generic resources say so"
    account = given.account
    if account is None and len(survey.accounts) == 1:
        account, why["account"] = survey.accounts[0], "the only one you may charge"
    elif account is None and survey.accounts:
        why["account"] = f"one of {', '.join(survey.accounts)}; without it your default one"
    if given.image is not None and not survey.containers:
        raise UserError(
            "--image: srun has no --container-image here (pyxis is missing); leave it out, or ask the site"
        )
    segment = given.segment or _choose_segment(survey, gpus.get(gpu), per_node)
    if segment and not given.segment:
        why["segment"] = "nodes that share one NVLink domain"
    return SiteAnswers(
        name=given.name or group.partition,
        gpu=gpu,
        gpus_per_node=per_node,
        nodes=given.nodes or group.nodes,
        slurm=True,
        partition=group.partition,
        account=account,
        gpus="gpus-per-node" if group.gpus else "none",
        mpi=given.mpi or _choose_mpi(survey, emulated=given.emulated),
        segment=segment,
        minutes=group.minutes,
        image=given.image,
        mounts=given.mounts,
        weights=given.weights,
        emulated=given.emulated,
        why=why,
    )


def _choose_segment(survey: Survey, gpu: Gpu | None, per_node: int) -> int | None:
    """Nodes of one NVLink domain, where that spans nodes and this Slurm can be asked for it."""
    if gpu is None or gpu.nvlink_domain <= LARGEST_BOARD or not survey.has_segments:
        return None
    nodes = max(1, gpu.nvlink_domain // per_node)
    return min(survey.block or nodes, nodes)


def _settle_machine(given: Given) -> SiteAnswers:
    """Without Slurm: the servers of this machine."""
    of_slurm = {
        "--partition": given.partition,
        "--account": given.account,
        "--mpi": given.mpi,
        "--segment": given.segment,
        "--image": given.image,
        "--nodes": given.nodes if given.nodes != 1 else None,
    }
    if wrong := next((option for option, value in of_slurm.items() if value is not None), None):
        raise UserError(f"{wrong} is for a cluster, and no Slurm answers here: run this on its login node")
    if given.gpu is not None and given.gpus_per_node is None:
        raise NotSaid("gpus_per_node", "how many GPUs has this machine?")
    if given.gpu is None and given.gpus_per_node is not None:
        raise NotSaid("gpu", "which GPUs has this machine?")
    return SiteAnswers(
        name=given.name or "here",
        gpu=given.gpu or "auto",
        gpus_per_node=given.gpus_per_node or 0,
        nodes=1,
        slurm=False,
        weights=given.weights,
        emulated=given.emulated,
    )


def _choose_group(given: Given, survey: Survey) -> NodeGroup:
    """The partition that was named, else the only one with GPUs, else the default one."""
    names = list(dict.fromkeys(group.partition for group in survey.groups))
    listed = ", ".join(names) or "none"
    if given.partition is not None:
        groups = [group for group in survey.groups if group.partition == given.partition]
        if not groups:
            raise UserError(f"--partition {given.partition}: Slurm knows no such partition; it has {listed}")
    else:
        groups = [group for group in survey.groups if group.up and (group.gpus or given.gpus_per_node)]
        if len({group.partition for group in groups}) > 1:
            groups = [group for group in groups if group.default] or groups
        if len({group.partition for group in groups}) > 1:
            some = ", ".join(dict.fromkeys(group.partition for group in groups))
            raise NotSaid("partition", f"which partition: one of {some}?")
        if not groups:
            raise NotSaid("partition", f"which partition has GPUs? Slurm says it of none of {listed}")
    kinds = {(group.gpu_type, group.gpus) for group in groups}
    if len(kinds) > 1 and (given.gpu is None or given.gpus_per_node is None):
        mixed = ", ".join(f"{group.nodes} nodes with {group.gpus} x {group.gpu_type or 'gpu'}" for group in groups)
        raise UserError(
            f"partition {groups[0].partition} has different nodes ({mixed}): --gpu, --gpus-per-node and --nodes say "
            "which ones are meant"
        )
    return max(groups, key=lambda group: group.nodes)


def _name_gpu(group: NodeGroup, gpus: Mapping[str, Gpu]) -> str:
    """Our name for the type that Slurm names."""
    if group.gpu_type is not None:
        spelt = re.sub(r"[^a-z0-9]", "", group.gpu_type.lower())
        alike = [
            name
            for name, gpu in gpus.items()
            if any(re.sub(r"[^a-z0-9]", "", word.lower()) in spelt for word in (name, *gpu.aliases))
        ]
        if alike:
            return max(alike, key=len)
    said = f"calls it {group.gpu_type!r}" if group.gpu_type else "does not say"
    raise NotSaid(
        "gpu", f"which GPU do the nodes of {group.partition} have: one of {', '.join(sorted(gpus))}? Slurm {said}"
    )


def _choose_mpi(survey: Survey, *, emulated: bool) -> str | None:
    if emulated:
        return None
    return next((flavour for flavour in MPI if flavour in survey.mpi), None)


@dataclass(frozen=True)
class SweepAnswers:
    """What a first sweep asks. ``ctx``, ``gen``, ``ifb``: mappings. ``mtp``: numbers of draft tokens."""

    model: str
    isl: int
    osl: int
    max_gpus: int
    version: str
    ctx: tuple[str, ...]
    gen: tuple[str, ...]
    mtp: tuple[int, ...] = (0,)


MORE = "name more, by --nodes on a cluster and by --gpus-per-node on one machine"


def settle_sweep(model: Model, gpu: Gpu, *, gpus: int, isl: int, osl: int, image: str | None) -> SweepAnswers:
    """A small first sweep. ``gpus``: how many there are.

    Context servers: the smallest mappings that hold the model. Generation servers: the same, and twice as large. Of
    MoE models with expert parallelism, with and without attention DP; of dense ones tensor parallelism.

    Raises:
        UserError: the model fits on no server of so many GPUs.
    """
    sizes = [2**k for k in range(13) if 2**k <= gpus]
    fitting = [size for size in sizes if any(fits(model, gpu, each, isl + osl) for each in mappings(model, size))]
    if not fitting:
        raise UserError(f"{model.name} fits on no server of {gpus} {gpu.name} or fewer: {MORE}, or a smaller model")
    smallest = fitting[0]
    most = min(gpus, max(FIRST_GPUS, 2 * smallest))
    gen = [size for size in (smallest, 2 * smallest) if size in fitting and smallest + size <= most]
    if not gen:
        raise UserError(
            f"{model.name} needs {smallest} {gpu.name} a server, and a context server beside a generation server "
            f"twice that; there are {gpus}: {MORE}"
        )
    return SweepAnswers(
        model=model.name,
        isl=isl,
        osl=osl,
        max_gpus=most,
        version=find_version(image) or "1.2",
        ctx=_labels(model, gpu, [smallest], isl + 1),
        gen=_labels(model, gpu, gen, isl + osl),
        mtp=(0, min(3, 1 if model.mtp_layers == 0 else 3)) if model.mtp_layers else (0,),
    )


def mappings(model: Model, size: int) -> list[Parallelism]:
    """Those that are usual for the model on ``size`` GPUs."""
    if size == 1 or model.moe is None:
        return [Parallelism(tp=size)]
    return [Parallelism(tp=size, ep=size), Parallelism(tp=size, ep=size, attention_dp=True)]


def fits(model: Model, gpu: Gpu, mapping: Parallelism, tokens: int) -> bool:
    """Weights and one request of ``tokens`` fit, and heads and experts divide."""
    if model.heads % mapping.tp or (model.moe is not None and model.moe.experts % mapping.ep):
        return False
    precision = default_precision(model, gpu)
    use = MemoryUse(precision, "fp8" if "fp8" in gpu.flops else "bf16", KV_FRACTION, 2 * RUNTIME_RESERVE_B)
    return memory_fit(model, gpu, mapping, use, tokens).fits


def _labels(model: Model, gpu: Gpu, sizes: Sequence[int], tokens: int) -> tuple[str, ...]:
    return tuple(
        mapping.label for size in sizes for mapping in mappings(model, size) if fits(model, gpu, mapping, tokens)
    )


def find_version(image: str | None) -> str | None:
    """The version of TensorRT-LLM in an image's name, ``None`` where it has none."""
    match = re.search(r"(?<![\d.])(\d+\.\d+(?:\.\d+)?(?:rc\d+)?)", (image or "").rpartition("/")[2])
    return match[1] if match else None
