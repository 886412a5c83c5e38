"""Known failures of a Triton deployment: what its logs and error answers say, what that means, what to do.

``reference`` names what writes the line. What is said whatever engine runs is in
:mod:`ratematch.engines.sitefailures`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ratematch.engines.failures import find_failure
from ratematch.engines.knownfailure import KnownFailure, row
from ratematch.engines.sitefailures import GPU_MEMORY, SITE
from ratematch.measure.serverlog import Diagnosis, Symptom
from ratematch.plan.experiment import Experiment

OWN: tuple[KnownFailure, ...] = (
    row(
        "triton-engine-missing",
        "start script",
        r"start-triton\.sh: there is no engine in",
        "there is no TensorRT engine for a role",
        "build it once on such a GPU: the log and build-engines.sh have the command (trtllm-build)",
    ),
    row(
        "triton-release-missing",
        "start script",
        r"start-triton\.sh: there is no .*model files come from",
        "model files of the TensorRT-LLM release are not there",
        "set release_paths: {triton: ...} in the cluster profile to its folder all_models, and mount it",
    ),
    row(
        "triton-not-installed",
        "emulator",
        r"ratematch\.emulator\.triton: there is no tritonserver",
        "no tritonserver for the CPU is installed for the emulator",
        "make an environment with nvidia-pytriton and numpy<2, and set RATEMATCH_TRITON (its log has the words)",
    ),
    row(
        "disagg-off",
        "TensorRT-LLM executor",
        r"Disaggregated serving is not enabled",
        "KV caches are not handed over: no rank was started with a transfer switched on",
        "leave TRTLLM_USE_MPI_KVCACHE=1 (or TRTLLM_USE_UCX_KVCACHE=1) in the environment of every rank",
    ),
    row(
        "participants-missing",
        "TensorRT-LLM backend",
        r"Spawning of processes was disabled in orchestrator mode, but participant IDs is missing",
        "an engine's model has no participant_ids",
        "the release's config.pbtxt has lost its placeholder: take the release's own files",
    ),
    row(
        "disagg-too-old",
        "TensorRT-LLM backend",
        r"requests are NOT currently supported in orchestrator mode",
        "the backend is too old to serve context and generation apart",
        "use a release from 1.0 up to 1.2",
    ),
    row(
        "triton-transfer-params",
        "orchestrator model",
        r"Expected 1 context response|Context response must have an output named context phase params",
        "the context model does not answer as the orchestrator expects: not decoupled, or no context_only request",
        "check decoupled in context/config.pbtxt, and that both models are of one release",
    ),
    row(
        "triton-stub-died",
        "Python backend",
        r"Stub process '\S+ is not healthy",
        "a Python model of the server died; its health checks still answer 200, and running requests hang",
        "see the lines before it in the log; start the servers anew",
    ),
    row("gpu-memory", "CUDA", GPU_MEMORY, "the GPU ran out of memory (out of GPU memory)", "use more GPUs an engine"),
    row(
        "triton-port",
        "server",
        r"Unable to configure socket|failed to start (?:HTTP|GRPC|Metrics) service|Address already in use",
        "another server listens on one of its ports",
        "stop it, or set another port_base in the cluster profile",
    ),
    row(
        "triton-half-failed",
        "orchestrator model",
        r"(?:Context|Generation) model \S+ failed with error",
        "a half failed a request",
        "the words after it are that engine's own",
        rank="request",
    ),
    row(
        "triton-config",
        "server",
        r"error: creating server: .*(?:configuration|config\.pbtxt)|Invalid argument: .*(?:instance_group|config)"
        r"|Error parsing text-format inference\.ModelConfig",
        "the server takes a model's config.pbtxt for wrong",
        "see the line: it names file and place; the file was filled from the release's own template",
    ),
    row(
        "triton-models-failed",
        "server",
        r"failed to load all models|UNAVAILABLE: (?:Internal|Invalid argument)",
        "a model did not load",
        "the table before that line in the log has each model's reason",
        rank="general",
    ),
    row(
        "triton-stuck-at-end",
        "server",
        r"Exit timeout expired\. Exiting immediately",
        "requests or models were stuck when the server was stopped",
        "nothing, where the loads were over; else see which model died before",
        rank="end",
    ),
)

KNOWN: tuple[KnownFailure, ...] = (*OWN, *SITE)

SYMPTOMS: dict[Symptom, Diagnosis] = {
    "stalled": Diagnosis(
        "the engines stopped iterating without an error: a Python model died, or a KV transfer never ends",
        "see triton.log for a stub that is not healthy; /v2/health/ready says nothing of it",
        "server",
    ),
    "never_started": Diagnosis(
        "the engines never ran a first iteration", "see triton.log; check participant_ids and the MPI job", "server"
    ),
    "all_failed": Diagnosis(
        "the server answers /v2/health/ready and fails every request",
        "read what the requests were told: a dead worker leaves the health checks as they are",
        "server",
    ),
}

_LINE = re.compile(
    r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ \d+ \w+\.cc:\d+\]|start-triton\.sh: |ratematch\.emulator\.triton: "
)


def diagnose(texts: Sequence[str]) -> Diagnosis | None:
    """The cause that ``texts`` (logs, error answers) show: :mod:`ratematch.engines.failures`; ``None`` for none."""
    return find_failure(texts, KNOWN)


def explain(symptom: Symptom, experiment: Experiment) -> Diagnosis:
    """What is known of trouble that leaves no line in a log."""
    return SYMPTOMS[symptom]


def is_triton_log(text: str) -> bool:
    """Is this a log of a Triton server, or of its start?"""
    return _LINE.search(text) is not None


def has_iterations(text: str) -> bool:
    """Its log has none: the backend reports them on the metrics port only."""
    return False
