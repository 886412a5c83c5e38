"""Which of the nodes that were looked at are good, and what is known of them together (pure).

A node is bad for what makes its figures differ from those of others, or ends servers: GPUs that are missing, smaller,
broken or slow, links that are down, a disk or a port it does not have. What is a property of all (the image, an
all-reduce, clocks) is a finding. What could not be looked at is said, and is nobody's fault.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ratematch.plan.cluster import Cluster
from ratematch.plan.finding import Finding
from ratematch.slurm.certify import REDUCE_S, Examined
from ratematch.slurm.imagecheck import ImageReport
from ratematch.slurm.nodecheck import NodeReport

MEMORY_SHARE = 0.97
"""Of the memory that the GPU type has; nvidia-smi shows a little less than the sheet on some drivers."""
CLOCK_SHARE = 0.85
"""Of the median clock under load of all GPUs looked at."""
SKEW_S = 0.1
"""Clocks farther apart spoil a trace that is sent from several nodes."""
NOT_LOOKED = "not looked at"


@dataclass(frozen=True)
class NodeVerdict:
    """``problems``: why nothing should run on it; none = good. The rest: cells of a table, each of which says when it
    could not be looked at."""

    node: str
    problems: tuple[str, ...]
    gpus: str = NOT_LOOKED
    ecc: str = NOT_LOOKED
    clock: str = NOT_LOOKED
    nvlink: str = NOT_LOOKED
    image: str = NOT_LOOKED
    disk: str = NOT_LOOKED
    network: str = NOT_LOOKED

    @property
    def ok(self) -> bool:
        return not self.problems


def judge_nodes(examined: Examined, cluster: Cluster, memory_b: float) -> list[NodeVerdict]:
    """A verdict on each node of the job. ``memory_b``: of one GPU of the profile's type."""
    links = [count for host in examined.hosts.values() for count in host.nvlinks or ()]
    clocks = [clock for image in examined.images.values() for clock in image.load_mhz or ()]
    usual_mhz = statistics.median(clocks) if clocks else None
    verdicts = []
    for name in examined.nodes:
        host, image = examined.hosts.get(name), examined.images.get(name)
        if host is None:
            verdicts.append(NodeVerdict(name, ("it wrote no answer into the results folder",)))
            continue
        problems = [
            *_judge_gpus(host, cluster, memory_b),
            *_judge_links(host, max(links, default=0)),
            *_judge_clocks(image, usual_mhz),
            *_judge_network(name, examined.hosts),
            *([f"the results folder: {host.disk_error}"] if host.disk_error else []),
        ]
        verdicts.append(_verdict(host, image, tuple(problems), examined))
    return verdicts


def _judge_gpus(host: NodeReport, cluster: Cluster, memory_b: float) -> Iterator[str]:
    if host.gpus is None:
        if not cluster.emulated:
            yield "nvidia-smi is not there, or fails"
        return
    if len(host.gpus) != cluster.gpus_per_node:
        yield f"{len(host.gpus)} GPUs, the profile says {cluster.gpus_per_node}"
    for gpu in host.gpus:
        if gpu.memory_mib * (1 << 20) < MEMORY_SHARE * memory_b:
            yield f"GPU {gpu.index} ({gpu.name}) has {gpu.memory_mib / 1024:.0f} GiB, {cluster.gpu} has more"
        if gpu.uncorrected:
            yield f"GPU {gpu.index} has {gpu.uncorrected} uncorrected ECC errors"
    for index, said in enumerate(host.remap or ()):
        pending, _, failure = said.partition(",")
        if failure.strip().lower() == "yes":
            yield f"GPU {index}: replacing rows of its memory failed"
        elif pending.strip().lower() == "yes":
            yield f"GPU {index} waits for a reset that replaces rows of its memory"


def _judge_links(host: NodeReport, most: int) -> Iterator[str]:
    for index, count in enumerate(host.nvlinks or ()):
        if count < most:
            yield f"GPU {index} has {count} of {most} NVLinks"
    for index, said in enumerate(host.fabric or ()):
        if not said.startswith("Completed Success"):
            yield f"GPU {index}: NVLink fabric is {' '.join(said.split()[:-1])}"


def _judge_clocks(image: ImageReport | None, usual_mhz: float | None) -> Iterator[str]:
    for index, mhz in enumerate(image.load_mhz or () if image else ()):
        if usual_mhz and mhz < CLOCK_SHARE * usual_mhz:
            yield f"GPU {index} runs at {mhz:.0f} MHz under load, others at {usual_mhz:.0f}"


def _judge_network(name: str, hosts: Mapping[str, NodeReport]) -> Iterator[str]:
    if hosts[name].meeting.refused:
        yield str(hosts[name].meeting.refused)
        return
    for other, host in hosts.items():
        if host.meeting.next_node == name and host.meeting.why_not and other != name:
            yield f"{other} cannot reach it ({host.meeting.why_not})"


def _verdict(
    host: NodeReport, image: ImageReport | None, problems: tuple[str, ...], examined: Examined
) -> NodeVerdict:
    gpus, ecc = NOT_LOOKED, NOT_LOOKED
    if host.gpus:
        first = host.gpus[0]
        gpus = f"{len(host.gpus)} x {first.name}, {min(gpu.memory_mib for gpu in host.gpus) / 1024:.0f} GiB"
        errors = [gpu.uncorrected for gpu in host.gpus if gpu.uncorrected is not None]
        ecc = f"{first.ecc}, {sum(errors)} errors" if errors else f"{first.ecc}, errors not counted"
    clock = NOT_LOOKED
    if image and image.load_mhz:
        clock = f"{min(image.load_mhz):.0f} to {max(image.load_mhz):.0f} MHz"
    links = f"{min(host.nvlinks)} links" if host.nvlinks else NOT_LOOKED
    nvlink = f"{links}, {_domain(host)}" if host.fabric else links
    started = _image_seconds(host, image, examined)
    return NodeVerdict(
        host.node,
        problems,
        gpus,
        ecc,
        clock,
        nvlink,
        NOT_LOOKED if started is None else f"{started:.0f} s",
        NOT_LOOKED if host.disk_mb_s is None else f"{host.disk_mb_s:.0f} MB/s",
        NOT_LOOKED if host.meeting.skew_s is None else _clock_of(host),
    )


def _clock_of(host: NodeReport) -> str:
    skew_s, error_s = host.meeting.skew_s or 0.0, host.meeting.skew_error_s or 0.0
    return f"clock {1e3 * skew_s:+.1f} +-{1e3 * error_s:.1f} ms"


def _domain(host: NodeReport) -> str:
    return "domain " + ", ".join(sorted({said.split()[-1] for said in host.fabric or ()}))


def _image_seconds(host: NodeReport, image: ImageReport | None, examined: Examined) -> float | None:
    """From the step's start to the first line that runs in the image. The node's clock is taken for this machine's:
    the figure is as good as they agree."""
    if image is None or examined.image_began is None:
        return None
    return max(0.0, image.began - examined.image_began)


def judge_together(examined: Examined, cluster: Cluster) -> list[Finding]:
    """What concerns all nodes: domains, clocks, back-ends of the image, and the all-reduce."""
    hosts, images = list(examined.hosts.values()), list(examined.images.values())
    return [
        _judge_domains(hosts),
        *_judge_imex(hosts),
        _judge_skew(hosts),
        _judge_backends(images, cluster),
        _judge_reduced(examined),
    ]


def _judge_domains(hosts: list[NodeReport]) -> Finding:
    domains: dict[str, list[str]] = {}
    for host in hosts:
        if host.fabric:
            domains.setdefault(_domain(host), []).append(host.node)
    if not domains:
        return Finding("NVLink domains", True, f"{NOT_LOOKED}: nvidia-smi shows no fabric")
    return Finding("NVLink domains", True, "; ".join(f"{name}: {', '.join(at)}" for name, at in domains.items()))


def _judge_imex(hosts: list[NodeReport]) -> Iterator[Finding]:
    states = {host.node: host.imex for host in hosts if host.imex is not None}
    if not states:
        yield Finding("IMEX", True, f"{NOT_LOOKED}: no nvidia-imex-ctl answers")
        return
    wrong = [f"{node} {state}" for node, state in states.items() if state != "UP"]
    yield Finding("IMEX", not wrong, f"domain is {', '.join(wrong)}" if wrong else f"UP on {len(states)} nodes")


def _judge_skew(hosts: list[NodeReport]) -> Finding:
    skews = {host.node: host.meeting.skew_s for host in hosts if host.meeting.skew_s is not None}
    if not skews:
        return Finding("clocks of nodes", True, f"{NOT_LOOKED}: no node could ask the first for its time")
    apart_s = max(skews.values()) - min(skews.values())
    worst = max(skews, key=lambda node: abs(skews[node]))
    agree = apart_s <= SKEW_S
    found = f"within {1e3 * apart_s:.1f} ms of each other"
    return Finding(
        "clocks of nodes", agree, found if agree else f"{found}; {worst} is off: traces need clocks that agree"
    )


def _judge_backends(images: list[ImageReport], cluster: Cluster) -> Finding:
    where = "the image" if cluster.container else "python3 on the nodes"
    if not images:
        return Finding("back-ends", False, f"nothing could be run in {where}")
    everywhere = set.intersection(*(set(image.backends) for image in images))
    some = set.union(*(set(image.backends) for image in images)) - everywhere
    found = f"{where} has {', '.join(sorted(everywhere)) or 'none that is known'}"
    return Finding("back-ends", not some, f"{found}; not everywhere: {', '.join(sorted(some))}" if some else found)


def _judge_reduced(examined: Examined) -> Finding:
    if examined.reduce_code:
        how = f"no end within {REDUCE_S} s" if examined.reduce_code == 124 else f"exit code {examined.reduce_code}"
        last = next((line for line in reversed(examined.errors.splitlines()) if "rror" in line), "").strip()
        return Finding("all-reduce", False, f"failed ({how})" + (f": {last[:200]}" if last else ""))
    if examined.reduced is None:
        return Finding("all-reduce", True, f"{NOT_LOOKED}: nothing in the image makes one, or there is one GPU")
    broken = "GB/s" not in examined.reduced
    return Finding("all-reduce", not broken, examined.reduced)
