"""The text of a first cluster profile and a first sweep, a comment beside each line that a person may change."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from ratematch.setup.answers import SiteAnswers, SweepAnswers

COLUMN = 46
"""Where comments begin, where the line leaves room."""

MAX_GPU_HOURS = 50
"""``budget.gpu_hours`` of a first sweep: jobs stop in order when they are spent."""


def write_profile(site: SiteAnswers, model: str) -> str:
    """A cluster profile; :func:`~ratematch.inputs.clusterfile.parse_cluster` reads it."""
    why = site.why or {}
    lines = [
        "# A cluster profile: what the machines are and what Slurm wants to be told. All keys: slurm/README.md.",
        _line(f"name: {scalar(site.name)}", "ratematch --cluster NAME finds it by this"),
        _line(
            f"gpu: {scalar(site.gpu)}",
            "auto: what nvidia-smi shows here" if site.gpu == "auto" else "type, for estimates",
        ),
        _line(f"gpus_per_node: {site.gpus_per_node or 'auto'}", why.get("gpus_per_node", "of one node")),
        _line(f"nodes: {site.nodes}", "how many one deployment may use"),
    ]
    if site.emulated:
        lines.append(_line("emulated: true", "servers are the emulator; everything is marked EMULATED"))
        lines.append(_line("start_minutes: 0.2", "an emulated server starts at once; for estimates"))
        lines.append(_line("load_minutes: 0.5", "the same for one load"))
    if site.weights:
        lines.append(
            _line(f"model_paths: {{{scalar(model)}: {scalar(site.weights)}}}", "weights, as servers see them")
        )
    elif not site.emulated:
        lines.append(
            f"# model_paths: {{{scalar(model)}: /models/...}}   weights, as servers see them; without it: downloaded"
        )
    if site.slurm:
        lines += ["slurm:", *(f"  {line}" for line in _slurm(site))]
    lines += _container(site)
    return "\n".join(lines) + "\n"


def _slurm(site: SiteAnswers) -> Iterable[str]:
    why = site.why or {}
    yield _line(f"partition: {scalar(site.partition)}", "sbatch --partition")
    who = why.get("account", "sbatch --account: who pays")
    yield _line(f"account: {scalar(site.account)}", who) if site.account else _line("# account: my-project", who)
    asked = (
        "jobs ask for --gpus-per-node"
        if site.gpus == "gpus-per-node"
        else "Slurm knows of no GPUs here: jobs ask for none"
    )
    yield _line(f"gpus: {site.gpus}", f"{asked}; or gres")
    if site.mpi:
        yield _line(f"mpi: {scalar(site.mpi)}", "srun --mpi of server steps, by srun --mpi=list")
    elif not site.emulated:
        yield "# mpi: pmix                                  srun --mpi=list named none that engines know"
    if site.segment:
        yield _line(f"segment: {site.segment}", why.get("segment", "nodes in one NVLink domain"))
    if site.minutes:
        yield _line(f"time: {{max_minutes: {site.minutes}}}", "the partition takes no longer jobs")


def _container(site: SiteAnswers) -> Iterable[str]:
    if site.image:
        yield "container:"
        yield "  " + _line(f"image: {scalar(site.image)}", "a .sqsh file, or registry#image:tag")
        if site.mounts:
            mounts = ", ".join(scalar(mount) for mount in site.mounts)
            yield "  " + _line(f"mounts: [{mounts}]", "/on/the/host:/inside")
    elif site.slurm and not site.emulated:
        yield "# container:                                   servers in an image, by pyxis"
        yield "#   image: /images/tensorrt-llm-1.2.0.sqsh"
        yield "#   mounts: [/models:/models:ro]"


def write_sweep(site: SiteAnswers, sweep: SweepAnswers, name: str) -> str:
    """A small sweep; :func:`~ratematch.plan.sweepfile.parse_sweep` reads it."""
    ctx, gen = (", ".join(each) for each in (sweep.ctx, sweep.gen))
    mtp = ", ".join(map(str, sweep.mtp))
    axes = [
        _line(f"  axes: {{mapping: [{ctx}], mtp: [{mtp}]}}", "every combination is a server"),
        _line(f"  axes: {{mapping: [{gen}], mtp: [{mtp}]}}", "TP, TEP: heads split; DEP: attention data parallel"),
    ]
    lines = [
        "# A first sweep. `ratematch plan` says what it costs before anything starts. All keys: sweeps/README.md.",
        _line(f"name: {scalar(name)}", "its results go to results/NAME"),
        _line(f"model: {scalar(sweep.model)}", ""),
        _line(f"cluster: {scalar(site.name)}", "the profile"),
        _line(
            f"engine: {{name: trtllm-serve, version: {scalar(sweep.version, quoted=True)}}}", "what the image holds"
        ),
        "workloads:",
        _line(f"  - {{isl: {sweep.isl}, osl: {sweep.osl}}}", "prompt and answer lengths: yours?"),
        _line("constraints: {ttft_ms: 2000, percentile: mean}", "context servers are judged under this limit"),
        _line(
            f"budget: {{max_gpus: {sweep.max_gpus}, gpu_hours: {MAX_GPU_HOURS}}}",
            "of one deployment; of the whole sweep",
        ),
        "",
        "ctx:                                          # context servers alone",
        axes[0],
        "  loads: {concurrency: [1, 4, 16], requests_per_slot: 8, min_requests: 32}",
        "gen:                                          # generation servers alone",
        axes[1],
        "  loads: {concurrency: [1, 8, 32, 128], requests_per_slot: 4, min_requests: 16}",
        "ifb:                                          # the baseline: one server does both",
        axes[1],
        "  options:                                    # prompts of attention-DP ranks in step, as its owners run it",
        "    attention_dp_config: {enable_balance: true, timeout_iters: 60, batching_wait_iters: 0}",
        "  loads: {concurrency: [1, 8, 32, 128], requests_per_slot: 4, min_requests: 16}",
        "e2e:                                          # the most promising pairs, run together",
        "  deployments: 2",
        "  loads: {around: [0.5, 1.0], requests_per_slot: 4, min_requests: 32}",
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _line(text: str, comment: str) -> str:
    return f"{text:<{COLUMN - 2}}  # {comment}" if comment else text


def scalar(value: str | None, *, quoted: bool = False) -> str:
    """``value`` as YAML writes it on one line, between quotes where it needs them."""
    text = yaml.safe_dump(value, default_style='"' if quoted else None, width=10**6, allow_unicode=True)
    return str(text).removesuffix("...\n").strip()
