"""The TensorRT engine of each role: where it lies, the command that makes it, and whether it is the one meant.

An engine is built for one GPU type, TP x PP and limits (``trtllm-build``, TensorRT-LLM up to 1.2), and does not move
to another. Nothing of a sweep builds one: it takes as long as a start and belongs on a machine with the GPU.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.printable import one_line

BUILD_KEYS = ("engine_dir", "checkpoint_dir", "max_seq_len", "max_input_len")
"""Options of a role that say where its engine is and what it was built for."""

Host = Callable[[str], "Path | None"]
"""From a path as servers see it to the same on this machine; ``None``: it is not seen here."""


@dataclass(frozen=True)
class EngineShape:
    """What an engine has to be. Lengths and limits in tokens and requests; ``label`` names a folder."""

    tp: int
    pp: int
    max_batch_size: int
    max_num_tokens: int
    max_input_len: int
    max_seq_len: int

    @property
    def label(self) -> str:
        return f"tp{self.tp}pp{self.pp}-b{self.max_batch_size}-t{self.max_num_tokens}"


def engine_shape(experiment: Experiment, group: ServerGroup) -> EngineShape:
    """The engine of a role. A request's whole length counts on ctx too: the orchestrator hands it OSL with ISL. A
    step takes a whole prompt on gen too: the executor looks at its length wherever its KV cache comes from."""
    workload = experiment.workload
    isl, osl = workload.isl, workload.osl
    length = _number(group, "max_seq_len") or isl + osl
    return EngineShape(
        group.mapping.tp,
        group.mapping.pp,
        group.max_batch_size or 1,
        max(group.max_num_tokens or 0, isl),
        _number(group, "max_input_len") or isl,
        length,
    )


def engine_dir(experiment: Experiment, group: ServerGroup) -> str:
    """Where the engine lies: as given, else below the model's folder, by GPU, version, TP x PP and limits."""
    given = group.options.get("engine_dir")
    if isinstance(given, str) and given:
        return given
    gpu, version = experiment.gpu, experiment.engine.version
    return f"{_folder(experiment)}/engines/{gpu}-{version}-{engine_shape(experiment, group).label}"


def build_command(experiment: Experiment, group: ServerGroup) -> tuple[str, ...]:
    """The words that make the engine, out of a checkpoint that the model family's ``convert_checkpoint.py`` made."""
    shape = engine_shape(experiment, group)
    given = group.options.get("checkpoint_dir")
    checkpoint = given if isinstance(given, str) else f"{_folder(experiment)}/checkpoints/tp{shape.tp}pp{shape.pp}"
    return (
        "trtllm-build",
        *("--checkpoint_dir", checkpoint, "--output_dir", engine_dir(experiment, group)),
        *("--max_batch_size", str(shape.max_batch_size), "--max_input_len", str(shape.max_input_len)),
        *("--max_seq_len", str(shape.max_seq_len), "--max_num_tokens", str(shape.max_num_tokens)),
        *("--gemm_plugin", "auto", "--use_paged_context_fmha", "enable"),
    )


def build_script(experiment: Experiment) -> str:
    """``build-engines.sh``: the commands for every role, to be run once where the GPUs are."""
    lines = [
        "#!/bin/bash",
        one_line(f"# The engines of {experiment.label}: {experiment.gpu}, TensorRT-LLM {experiment.engine.version}."),
        "# Not run by a sweep. Each checkpoint comes from examples/models/.../convert_checkpoint.py of the release,",
        "# for the tp_size and pp_size in the name of its folder.",
        "set -euo pipefail",
    ]
    commands = {build_command(experiment, group): group.role for group in experiment.deployment.groups}
    for command, role in commands.items():
        lines += ["", f"# {role}", shlex.join(command)]
    return "\n".join(lines) + "\n"


def check_engines(experiment: Experiment, host: Host) -> list[str]:
    """What is wrong with the engines on disk, a line each: missing, or built for something else."""
    problems = []
    for group in experiment.deployment.groups:
        folder = engine_dir(experiment, group)
        at = host(folder)
        command = shlex.join(build_command(experiment, group))
        if at is None:
            problems.append(f"{group.role}: {folder} is below no mount of the container: add one to container.mounts")
        elif not (at / "config.json").is_file():
            what = f"{group.role}: there is no engine in {folder} (no config.json); on a {experiment.gpu}"
            problems.append(f"{what} this makes it: {command}")
        else:
            wrong = "; ".join(_differences(at / "config.json", engine_shape(experiment, group)))
            if wrong:
                problems.append(f"{group.role}: the engine in {folder} is another: {wrong}; this makes it: {command}")
    return problems


def _differences(file: Path, shape: EngineShape) -> Iterator[str]:
    try:
        built = json.loads(file.read_text(encoding="utf-8"))
        mapping, limits = built["pretrained_config"]["mapping"], built["build_config"]
        tp, pp = int(mapping["tp_size"]), int(mapping["pp_size"])
        room = {name: int(limits[name]) for name in ("max_batch_size", "max_num_tokens", "max_seq_len")}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        yield f"{file} is no configuration of an engine ({type(problem).__name__}: {problem})"
        return
    if (tp, pp) != (shape.tp, shape.pp):
        yield f"it was built for TP{tp} x PP{pp}, and TP{shape.tp} x PP{shape.pp} is planned"
    for name, has in room.items():
        if has < (needed := getattr(shape, name)):
            yield f"its {name} is {has}, and {needed} is planned"


def emulated_config(experiment: Experiment, group: ServerGroup) -> str:
    """``config.json`` of an engine that an emulated server stands for."""
    shape = engine_shape(experiment, group)
    content: dict[str, Any] = {
        "version": experiment.engine.version,
        "pretrained_config": {
            "architecture": experiment.model,
            "mapping": {"world_size": shape.tp * shape.pp, "tp_size": shape.tp, "pp_size": shape.pp},
        },
        "build_config": {
            name: getattr(shape, name)
            for name in ("max_batch_size", "max_num_tokens", "max_input_len", "max_seq_len")
        },
    }
    return json.dumps(content, indent=2) + "\n"


def _folder(experiment: Experiment) -> str:
    return experiment.model_path.rstrip("/")


def _number(group: ServerGroup, key: str) -> int | None:
    given = group.options.get(key)
    return given if isinstance(given, int) and not isinstance(given, bool) and given > 0 else None
