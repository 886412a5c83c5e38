"""Every file and folder name of a results folder, once. ``results/README.md`` says what each holds.

::

    results/<sweep>/
        sweep.yaml                          the sweep file as it was last run
        replaced/sweep.<n>.yaml             earlier sweeps into this folder, with their limits.<n>.json
        limits.json                         what an analysis needs of it
        controller.json, controller.lock    budget; held while a controller runs the sweep
        machine.json                        from when to when its sweeps had GPUs of this machine
        search.json, choice.json            decisions of an adaptive sweep; end-to-end runs
        ifb_choice.json                     aggregated servers that are measured, and those that are not
        nodes.json                          nodes that failed
        derived.json                        worked out of the records, to read them less often; may be deleted
        published.json, details.json        of a copy to hand around: what was left out; what left out records said
        packs/<name>/                       several experiments in one Slurm job: who, and GPU-time that nobody used
        jobs/<name>/                        logs of Slurm job arrays
        schemas/<digest>.json               what images said that their servers take
        <experiment>/
            experiment.json                 what is measured: deployment, workload, loads
            cluster.json                    the cluster profile it runs on
            run.lock                        held while a process measures here
            contract.json                   the schema that its files are checked by
            job.json                        the job that was sent for it last
            open.json, asks.json            more loads may follow; its driver waits for them
            progress.json                   what that process is doing, for live views
            secrets/environment.json        secrets of its servers (0600 in 0700), while a job may need them
            launch/<n>/                     one folder per start of the servers: files, logs, mark, placement.json,
                                            provenance.json, outcome.json; servers.json where those of another
                                            experiment went on with this one
            loads/<load>/                   records.parquet, warmup.parquet, measurement.json, loadrun.json
            replaced/<load>.<n>/            loads that were measured again
            DONE                            every load that was asked for is there
"""

from __future__ import annotations

# Of a sweep.
SWEEP = "sweep.yaml"
LIMITS = "limits.json"
CONTROLLER = "controller.json"
CONTROLLER_LOCK = "controller.lock"
MACHINE = "machine.json"
SEARCH = "search.json"
CHOICE = "choice.json"
IFB_CHOICE = "ifb_choice.json"
NODES = "nodes.json"
DERIVED = "derived.json"
PUBLISHED = "published.json"
DETAILS = "details.json"
PACKS = "packs"
JOBS = "jobs"
SCHEMAS = "schemas"

# Of a pack; OVER in the folder of each of its members.
IDLE = "idle.json"
OVER = "over.json"

# Of an experiment.
EXPERIMENT = "experiment.json"
CLUSTER = "cluster.json"
CONTRACT = "contract.json"
RUN_LOCK = "run.lock"
JOB = "job.json"
JOB_LOGS = "job"
OPEN = "open.json"
ASKS = "asks.json"
PROGRESS = "progress.json"
SECRETS = "secrets"
ENVIRONMENT = "environment.json"
LAUNCHES = "launch"
LOADS = "loads"
REPLACED = "replaced"
DONE = "DONE"

# Of a launch.
PLACEMENT = "placement.json"
PROVENANCE = "provenance.json"
MARK = "mark"
RUN_SCRIPT = "run.sh"
SERVERS = "servers.json"
OUTCOME = "outcome.json"

# Of a load.
RECORDS = "records.parquet"
WARMUP = "warmup.parquet"
ITERATIONS = "iterations.parquet"
PERF_METRICS = "perf_metrics.jsonl.zst"
PROMETHEUS = "prometheus.jsonl.zst"
MEASUREMENT = "measurement.json"
LOADRUN = "loadrun.json"
