"""Known failures of a Dynamo deployment: what its logs and its answers say, what that means, what to do.

The rows are Dynamo's own; what the engine inside a worker says is in its room, and what is said whatever runs in
:mod:`ratematch.engines.sitefailures`. What every clean stop writes (a closed watch, a sender that is dropped, a key
that is gone already) is in no row.
"""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.engines.failures import find_failure
from ratematch.engines.knownfailure import KnownFailure, quiet, row
from ratematch.engines.trtllm_serve.diagnosis import KNOWN as TRTLLM
from ratematch.engines.vllm.diagnosis import KNOWN as VLLM
from ratematch.measure.serverlog import Diagnosis, Symptom
from ratematch.plan.experiment import Experiment

OWN: tuple[KnownFailure, ...] = (
    row(
        "dynamo-program-missing",
        "discovery",
        r"\b(?:etcd|nats-server|nginx)\S*: (?:command )?not found|exec: \S*(?:etcd|nats-server|nginx)\S*: not found",
        "etcd, nats-server or nginx is not installed on the node: no wheel of Dynamo has them",
        "install it, or name it in engine.programs of the sweep",
    ),
    row(
        "dynamo-missing",
        "Python",
        r"No module named '?dynamo\b",
        "Dynamo is not installed in the Python that starts it",
        "install ai-dynamo and ai-dynamo-runtime there, or name another Python as `command` in the cluster profile",
    ),
    row(
        "dynamo-flag",
        "argument parser",
        r"Unrecognized argument: |Unknown arguments specified: "
        r"|(?:dynamo\.\w+|__main__\.py|main\.py): error: (?:unrecognized arguments|argument )",
        "a Dynamo process does not know one of its flags, or a value of one",
        "engine.version names another release than is installed; `ratematch doctor --probe` shows which",
    ),
    row(
        "dynamo-etcd-unreachable",
        "discovery",
        r"etcd startup connection timed out|Unable to connect to etcd|etcd\S* client error.*transport error",
        "a process cannot reach etcd",
        "look in etcd.log; between nodes, look at firewalls and at the node's name in ETCD_ENDPOINTS",
    ),
    row(
        "dynamo-etcd-lost",
        "discovery",
        r"Unable to maintain lease\. Check etcd server status|lease (?:expired|not found|keep.alive failed)",
        "etcd was lost: workers and frontends that cannot renew their lease end, with exit code 0",
        "look in etcd.log; its data lies on the node's own disk, so look for a full disk or a starved node",
    ),
    quiet(
        row(
            "dynamo-nats-unreachable",
            "request plane",
            r"NATS not reachable yet; retrying startup connection|[Ff]ailed to connect to NATS"
            r"|nats\S*: (?:timed out|connection refused)",
            "a process cannot reach NATS",
            "look in nats.log, or set request_plane: tcp and event_plane: zmq, which need none",
            rank="suspect",
        )
    ),
    row(
        "dynamo-no-gpu",
        "dynamo.trtllm",
        r"No GPU devices found on the node",
        "a worker sees no GPU",
        "look at CUDA_VISIBLE_DEVICES and the GPU options of the job; or use an emulated cluster",
    ),
    row(
        "dynamo-mpi-frontend",
        "Slurm",
        r"MPI_Init_thread.*(?:abort|fail)|\*\*\* An error occurred in MPI_Init_thread",
        "a process was started under srun without the MPI plugin that it needs",
        "set slurm.mpi: pmix in the cluster profile, for frontends too",
    ),
    row(
        "dynamo-overloaded",
        "admission",
        r"Worker at capacity \(engine \+ queue full\), rejecting request|worker_overloaded"
        r"|Service temporarily overloaded",
        "a worker refused requests because it held as many as it may",
        "its limit is set above every load here: look for another DYN_ENGINE_REQUEST_LIMIT, or another load",
        rank="request",
    ),
    row(
        "dynamo-no-prefill",
        "prefill router",
        r"Remote prefill failed, failing request|No workers available for endpoint \S*/prefill/generate",
        "no prefill worker could be used: it ended, or it failed a request and is passed over for 5 s",
        "look in the logs of ctx workers, and at the KV transfer between nodes",
        rank="request",
    ),
    row(
        "dynamo-worker-gone",
        "frontend",
        r"Stream ended before generation completed|worker_disconnected"
        r"|TCP connection to \S+ failed|connection_failed\b|\bcannot_connect\b",
        "a worker ended, or could not be reached, while it was answering",
        "look in the logs of the workers, gen first; between nodes, at DYN_TCP_RPC_HOST and firewalls",
        rank="request",
    ),
    row(
        "dynamo-not-served",
        "frontend",
        r"Model \S* ?is not ready to serve requests yet|[Mm]odel not found",
        "the frontend knows no complete set of workers for the model that requests name",
        "look whether all prefill and decode workers are up, and serve the model under the name that loads give",
        rank="request",
    ),
    row(
        "dynamo-nixl-layout",
        "NIXL",
        r"compatibility.hash mismatch|NIXL\w* compatibility",
        "prefill and decode workers have KV caches of different layouts",
        "give ctx and gen the same block size, number format and attention backend",
    ),
    row(
        "dynamo-migration",
        "migration",
        r"migration retries exhausted|Cannot recreate stream|Migration limit exhausted",
        "a request that broke was not sent again (migration is off while servers are measured)",
        "the cause is in earlier lines: a worker that ended or refused",
        rank="general",
    ),
    row(
        "dynamo-stream-error",
        "frontend",
        r"the server reports in its stream: ",
        "the frontend ended streams with an error",
        "look in the frontend's log, and in those of the workers",
        rank="end",
    ),
)

TRTLLM_KNOWN: tuple[KnownFailure, ...] = (*OWN, *TRTLLM)
VLLM_KNOWN: tuple[KnownFailure, ...] = (*OWN, *VLLM)

SYMPTOMS: dict[Symptom, Diagnosis] = {
    "stalled": Diagnosis(
        "the workers stopped iterating without an error: every running request waits, mostly for a KV transfer, "
        "which has no time limit of its own",
        "look at the KV transfer between nodes (UCX_TLS unset, RDMA devices), and lower the load",
        "dynamo",
        "dynamo-stalled",
    ),
    "never_started": Diagnosis(
        "no worker ran a first iteration though the frontend took requests",
        "look in the workers' logs; DYN_LOG=debug in engine.frontend_env says where requests went",
        "dynamo",
        "dynamo-never-started",
    ),
    "all_failed": Diagnosis(
        "the frontend answers /health, as it does with no worker at all, and fails every request",
        "read what the requests were told; prefill alone answers 404, decode alone 503",
        "dynamo",
        "dynamo-all-failed",
    ),
}


def diagnose_trtllm(texts: Sequence[str]) -> Diagnosis | None:
    """The cause that logs and error answers show, with TensorRT-LLM in the workers; ``None`` when none is known."""
    return find_failure(texts, TRTLLM_KNOWN)


def diagnose_vllm(texts: Sequence[str]) -> Diagnosis | None:
    """The same with vLLM in the workers."""
    return find_failure(texts, VLLM_KNOWN)


def explain(symptom: Symptom, experiment: Experiment) -> Diagnosis:
    """What is known of trouble that leaves no line in a log."""
    return SYMPTOMS[symptom]
