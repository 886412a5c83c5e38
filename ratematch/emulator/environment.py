"""Settings of the emulator in its environment: ``RATEMATCH_EMULATED_*`` and the engine's own switches.

The command line stays exactly that of ``trtllm-serve``, so a launcher sees no difference; everything that only an
emulator has comes from the environment and is described in ``ratematch/emulator/README.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ratematch.engines.steptimes import read_step_model
from ratematch.engines.trtllm_serve.release import named_version
from ratematch.plan.emulated import MODEL_VARIABLE, PRECISION_VARIABLE
from ratematch.plan.experiment import DEFAULT_STEP_TIMES

PREFIX = "RATEMATCH_EMULATED_"

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|m)?$")
_UNIT_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, None: 1.0}


def parse_duration(text: str) -> float:
    """Seconds in ``3s``, ``250ms``, ``2m`` or a bare number of seconds.

    Raises:
        ValueError: not such a text.
    """
    match = _DURATION.match(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no duration: write 5s, 250ms or 2m")
    return float(match["number"]) * _UNIT_S[match["unit"]]


START_FAILURES = {
    "oom": """\
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 12.00 GiB.
RuntimeError: Executor creation failed due to insufficient GPU memory.

The following component could not be created: Additional executor resources (temporary for KV cache size estimation)

---
Component                                          Memory Usage (GB)
---
Model weights                                                 171.20
KV cache                                                       12.00
---
Please refer to the TensorRT LLM documentation for information on how to control the memory usage.""",
    "nccl": """\
node1:4242:4242 [1] init.cc:943 NCCL WARN Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000
RuntimeError: [TensorRT-LLM][ERROR] NCCL error: invalid usage
MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD
""",
    "ucx": """\
ucp_context.c:1969 UCX  WARN  UCX CUDA support was not found
[TensorRT-LLM][ERROR] registerMem: registration failed for the specified or all potential backends
RuntimeError: Assertion failed: status == NIXL_SUCCESS
""",
}
"""What a worker that dies while loading writes, by the name of its failure."""


@dataclass(frozen=True)
class Faults:
    """Faults to inject; the default injects none.

    ``never_ready``: load for ever. ``die_at_start``: end during loading, with the log of this failure (``oom``,
    ``nccl``, ``ucx``). ``die_after_s``: be killed so long after becoming ready. ``truncate_stream``: share of streams
    that end without ``[DONE]``. ``http_500``: share of completion requests answered with status 500. ``stall_s`` at
    ``stall_at_s`` after ready: no step runs for that long. ``hang``: healthy, accepts requests, never answers one.
    """

    never_ready: bool = False
    die_at_start: str | None = None
    die_after_s: float | None = None
    truncate_stream: float = 0.0
    http_500: float = 0.0
    stall_s: float = 0.0
    stall_at_s: float = 0.0
    hang: bool = False


def _share(name: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{PREFIX}FAULT: {name}={text} is no share: write a number from 0 to 1")
    return share


def _failure(name: str) -> str:
    if name not in START_FAILURES:
        raise ValueError(f"{PREFIX}FAULT: die_at_start={name}: known are {', '.join(START_FAILURES)}")
    return name


def parse_faults(text: str) -> Faults:
    """Faults written as ``die_after=5s,http_500=0.1``.

    Raises:
        ValueError: an unknown fault or a value of the wrong form; the message lists the known faults.
    """
    faults: dict[str, float | bool | str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        match name:
            case "never_ready" | "hang":
                faults[name] = True
            case "die_at_start":
                faults[name] = _failure(value or "oom")
            case "die_after":
                faults["die_after_s"] = parse_duration(value)
            case "truncate_stream" | "http_500":
                faults[name] = _share(name, value)
            case "stall":
                length, at, when = value.partition("@")
                if not at:
                    raise ValueError(f"{PREFIX}FAULT: {part!r}: write stall=3s@10 (3 s long, 10 s after ready)")
                faults["stall_s"], faults["stall_at_s"] = parse_duration(length), parse_duration(when)
            case _:
                raise ValueError(
                    f"{PREFIX}FAULT: unknown fault {name!r}: known are never_ready, die_at_start=oom, die_after=5s, "
                    "truncate_stream=0.1, http_500=0.1, stall=3s@10, hang"
                )
    return Faults(**faults)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Environment:
    """The emulator's environment, read once at start. ``all_to_all``: experts' tokens are exchanged by the all-to-all
    kernels of rack-scale NVLink however few the ranks (``TRTLLM_FORCE_COMM_METHOD``)."""

    version: str = "1.2"
    gpu: str = "gb200"
    load_s: float = 0.2
    seed: int = 0
    precision: str | None = None
    faults: Faults = Faults()
    gen_only: bool = False
    no_retry: bool = False
    fill_gate: int | None = None
    forced_acceptance: float | None = None
    unchecked: tuple[str, ...] = ()
    steps: str = DEFAULT_STEP_TIMES
    model: str = ""
    all_to_all: bool = False


def _number(env: Mapping[str, str], name: str) -> float | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no number") from None


def read_environment(
    env: Mapping[str, str], default_version: str = "1.2", check_version: Callable[[str], str] = named_version
) -> Environment:
    """The settings in ``env``; missing or empty variables keep their defaults.

    ``check_version`` gives the version, or the release line it belongs to, as the engine that is emulated knows it.

    Raises:
        ValueError: a variable that cannot be understood.
    """
    version = env.get(f"{PREFIX}VERSION", "").strip() or default_version
    gate = _number(env, "TLLM_BENCHMARK_REQ_QUEUES_SIZE")
    return Environment(
        version=check_version(version),
        gpu=env.get(f"{PREFIX}GPU", "").strip() or "gb200",
        load_s=parse_duration(env.get(f"{PREFIX}LOAD_S", "").strip() or "0.2"),
        seed=int(_number(env, f"{PREFIX}SEED") or 0),
        precision=env.get(PRECISION_VARIABLE, "").strip() or None,
        faults=parse_faults(env.get(f"{PREFIX}FAULT", "")),
        gen_only=env.get("TRTLLM_DISAGG_BENCHMARK_GEN_ONLY", "").strip() == "1",
        no_retry=env.get("TRTLLM_DISAGG_NO_RETRY", "").strip() == "1",
        fill_gate=int(gate) if gate else None,
        forced_acceptance=_number(env, "TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS") or None,
        steps=read_step_model(env),
        model=env.get(MODEL_VARIABLE, "").strip(),
        all_to_all=env.get("TRTLLM_FORCE_COMM_METHOD", "").strip().upper().startswith("NVLINK"),
        unchecked=tuple(filter(None, env.get(f"{PREFIX}UNCHECKED", "").split(","))),
    )
