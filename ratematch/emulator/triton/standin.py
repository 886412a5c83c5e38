"""The engine behind ``context``, ``generation`` and ``tensorrt_llm`` of an emulated Triton.

It runs inside the server's Python backend, one process an instance: the scheduler and the step times of the other
emulated engines, one response an iteration of a request, and metrics under the names of TensorRT-LLM's C++ backend.
What the engine was built with is read from ``config.json`` in its folder, as there.

A request's parameter ``ratematch_fault`` makes it fail: ``before`` its first response, ``after`` its third, or
``die``: the process is killed with the second.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import triton_python_backend_utils as triton

from ratematch.emulator.assembly import ServerShape, fit_memory, make_step_time, scheduler_config
from ratematch.emulator.engine import Engine
from ratematch.emulator.environment import Environment, read_environment
from ratematch.emulator.faults import LateWarning, arm, load
from ratematch.emulator.scheduler import Scheduler, Sequence
from ratematch.emulator.trtllm.settings import resolve_model
from ratematch.emulator.trtllm.transfer import TRANSFER_LATENCY_S
from ratematch.inputs.catalog import load_gpu
from ratematch.measure.metricnames import EMULATED_SECONDS
from ratematch.plan.parallelism import Parallelism

START_FAILURES = {
    "oom": "[TensorRT-LLM][ERROR] Assertion failed: Executor creation failed due to insufficient GPU memory: "
    "CUDA out of memory",
    "nccl": "[TensorRT-LLM][ERROR] NCCL error: invalid usage",
    "ucx": "[TensorRT-LLM][ERROR] UCX CUDA support was not found",
}
METRICS_S = 0.1
"""Between two looks at the scheduler, as ``stats_check_period_ms`` has it."""

TOKENS_PER_BLOCK = 32

HELD_S = 0.05
"""How long a KV cache stays on ctx beside its transfer."""

FAULT = "ratematch_fault"


def build(folder: Path, kv_fraction: float, environment: Environment) -> tuple[Scheduler, float]:
    """The scheduler of an engine, and the bytes a second of its KV transfers divided by those of a token: tokens/s.

    Raises:
        ValueError: its memory does not hold the weights.
    """
    built = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    pretrained, limits = built["pretrained_config"], built["build_config"]
    mapping = Parallelism(tp=pretrained["mapping"]["tp_size"], pp=pretrained["mapping"]["pp_size"])
    gpu, model = load_gpu(environment.gpu), resolve_model(pretrained["architecture"], environment.model)
    shape = ServerShape(
        model,
        gpu,
        mapping,
        model.kv_precision or "bf16",
        0,
        limits["max_batch_size"],
        limits["max_num_tokens"],
        kv_fraction,
    )
    fit = fit_memory(shape, environment)
    if not fit.fits:
        raise ValueError(f"{START_FAILURES['oom']}\n{fit.explanation}")
    config = scheduler_config(shape, environment, limits["max_seq_len"], fit.kv_tokens, TOKENS_PER_BLOCK)
    link_b_s = gpu.nvlink_b_s if gpu.nvlink_domain > 8 else gpu.network_b_s
    return Scheduler(config, make_step_time(shape, environment), environment.seed), link_b_s / shape.kv_token_b


class Gauges:
    """A scheduler's state under the names of the C++ backend's metrics, and how late the emulator's steps end."""

    FAMILIES: ClassVar[dict[str, tuple[str, tuple[str, ...]]]] = {
        "nv_trt_llm_request_metrics": ("request_type", ("waiting", "active", "max")),
        "nv_trt_llm_kv_cache_block_metrics": ("kv_cache_block_type", ("max", "used", "fraction", "tokens_per")),
        "nv_trt_llm_general_metrics": ("general_type", ("iteration_counter",)),
        EMULATED_SECONDS: ("kind", ("busy_s", "late_s", "lost_s")),
    }

    def __init__(self, model: str, instance: str) -> None:
        self._kept: list[Any] = []
        self._gauges: dict[str, Any] = {}
        for name, (label, kinds) in self.FAMILIES.items():
            family = triton.MetricFamily(
                name=name, description="of an emulated engine", kind=triton.MetricFamily.GAUGE
            )
            self._kept.append(family)
            own = {"instance": instance} if name == EMULATED_SECONDS else {}
            for kind in kinds:
                labels = {"model": model, "version": "1", label: kind, **own}
                self._gauges[f"{label}.{kind}"] = family.Metric(labels=labels)

    def show(self, engine: Engine) -> None:
        scheduler = engine.scheduler
        used, most = scheduler.kv_used_blocks, scheduler.kv_max_blocks
        values = {
            "request_type.waiting": scheduler.num_queued,
            "request_type.active": scheduler.num_active,
            "request_type.max": scheduler.config.max_batch_size,
            "kv_cache_block_type.max": most,
            "kv_cache_block_type.used": used,
            "kv_cache_block_type.fraction": used / most if most else 0.0,
            "kv_cache_block_type.tokens_per": TOKENS_PER_BLOCK,
            "general_type.iteration_counter": scheduler.iter,
            "kind.busy_s": engine.lag.busy_s,
            "kind.late_s": engine.lag.late_s,
            "kind.lost_s": engine.lag.lost_s,
        }
        for name, value in values.items():
            self._gauges[name].set(value)


class Answer:
    """The responses of one request: a sink of the emulated engine. Its ids count from 0."""

    def __init__(self, sender: Any, sequence: Sequence, fault: str, handed: int, counts: tuple[bool, bool]) -> None:
        self._sender, self._sequence, self._fault, self._handed = sender, sequence, fault, handed
        self._count_in, self._count_out = counts
        self._sent = 0

    def push(self, tokens: int, finished: bool, at_s: float) -> None:
        for number in range(tokens):  # one token a response, as upstream's own tests have it
            if self._fault == "die" and self._sent == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if self._fault == "after" and self._sent == 3:
                self.fail("an injected fault, after the third response")
            if self._fault == "ended":
                return
            last = finished and number == tokens - 1
            self._sender.send(self._response(), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)

    def _response(self) -> Any:
        ids = np.array([[[self._sent]]], np.int32)
        self._sent += 1
        tensors = [triton.Tensor("output_ids", ids), triton.Tensor("sequence_length", np.array([[1]], np.int32))]
        if self._handed:
            handed = np.frombuffer(b"%d" % self._handed, np.uint8).reshape(1, -1)
            tensors.append(triton.Tensor("context_phase_params", handed))
        if self._count_in:
            tensors.append(triton.Tensor("num_input_tokens", np.array([[self._sequence.prompt_len]], np.int32)))
        if self._count_out:
            tensors.append(triton.Tensor("num_output_tokens", np.array([[1]], np.int32)))
        return triton.InferenceResponse(tensors)

    def fail(self, message: str) -> None:
        error = triton.InferenceResponse(error=triton.TritonError(message))
        self._sender.send(error, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self._fault = "ended"


class StandIn:
    """What the Python backend calls: :meth:`initialize`, :meth:`execute` with requests, :meth:`finalize`."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        fraction = parameters.get("kv_cache_free_gpu_mem_fraction", {}).get("string_value", "")
        self._environment = read_environment(os.environ, check_version=str)
        folder = Path(parameters["gpt_model_path"]["string_value"])
        try:
            share = float(fraction) if fraction and not fraction.startswith("$") else 0.9
            scheduler, self._tokens_s = build(folder, share, self._environment)
            asyncio.run(load(self._environment, START_FAILURES))
        except Exception as problem:
            raise triton.TritonModelException(str(problem)) from problem
        self._engine = Engine(scheduler, None, LateWarning(triton.Logger.log_warn))
        self._gauges = Gauges(args["model_name"], args["model_instance_name"])
        self._ids, self._dice = itertools.count(1), random.Random(self._environment.seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        async def work() -> None:
            arm(self._engine, self._environment.faults)
            await asyncio.gather(self._engine.run(), self._show())

        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(work())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    async def _show(self) -> None:
        while True:
            self._gauges.show(self._engine)
            await asyncio.sleep(METRICS_S)

    def execute(self, requests: list[Any]) -> None:
        """Decoupled: requests run side by side, as an engine batches them."""
        for request in requests:
            self._loop.call_soon_threadsafe(self._begin, request, request.get_response_sender())

    def _begin(self, request: Any, sender: Any) -> None:
        parameters = json.loads(request.parameters() or "{}")
        kind, fault = parameters.get("request_type", "full"), parameters.get(FAULT, "") or self._drawn_fault()
        handed = triton.get_input_tensor_by_name(request, "context_phase_params")
        if fault == "before":
            Answer(sender, Sequence(0, 1, 1), "", 0, (False, False)).fail(
                "an injected fault, before the first response"
            )
            return
        prompt = _whole(request, "input_lengths") or 1
        sequence = Sequence(
            id=next(self._ids),
            prompt_len=prompt,
            max_tokens=1 if kind == "context_only" else _whole(request, "request_output_len") or 1,
            kind=kind,
        )
        transfer_s = TRANSFER_LATENCY_S + prompt / self._tokens_s
        if kind == "generation_only":
            sequence.transfer_s = transfer_s
        counts = (bool(_whole(request, "return_num_input_tokens")), bool(_whole(request, "return_num_output_tokens")))
        answer = Answer(sender, sequence, fault, prompt if kind == "context_only" else 0, counts)
        if kind == "generation_only" and handed is None:
            answer.fail("a generation_only request needs context_phase_params")
        elif why := self._engine.scheduler.refusal(sequence):
            answer.fail(why)
        else:
            self._engine.submit(sequence, answer)
            if kind == "context_only":  # nobody tells when gen has fetched the KV cache: it takes so long
                self._loop.call_later(transfer_s + HELD_S, self._engine.release, sequence.id)

    def _drawn_fault(self) -> str:
        """Of the share of requests that the environment wants to fail."""
        faults = self._environment.faults
        if self._dice.random() < faults.http_500:
            return "before"
        return "after" if self._dice.random() < faults.truncate_stream else ""

    def finalize(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(1.0)


def _whole(request: Any, name: str) -> int | None:
    tensor = triton.get_input_tensor_by_name(request, name)
    return None if tensor is None else int(tensor.as_numpy().reshape(-1)[0])
