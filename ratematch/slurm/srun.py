"""How a process of a launch plan is started: directly, or as a step of a Slurm job.

The same steps are launched by a job and written down by ``ratematch render``. :data:`HERE` stands for the folder
that holds the launch files, so that what is written down does not depend on where it lies.

What makes each flag of a server's step needed:

==========================  ========================================================================================
``--overlap``               the driver's step already owns the allocation; without it a server waits for ever
``--mem=0``                 so it does the memory: a step that asks for some is refused
``--nodelist``              GPUs were given out by :mod:`ratematch.plan.placement`; Slurm must not choose again
``--ntasks[-per-node]``     the ranks of the engine: tensor x pipeline x context parallel size (contract, section 3.1)
``--distribution=block``    the engine takes rank // GPUs-of-a-node for its node; the driver is itself a step, and
                            Slurm leaves ``SLURM_DISTRIBUTION=cyclic`` in its environment, which its steps inherit
``...=arbitrary``           in its place where an instance sits over the borders of nodes (``packing: compact``):
                            4 + 2 is no number a node, so ``--nodelist`` names the node of each rank, in their order
``--mpi=pmix``              importing TensorRT-LLM initialises MPI, even in the orchestrator (section 13)
``--cpu-bind=none``         Slurm would bind each rank to one core, which its many threads would share; off the cores
                            of the load generator they are taken later (:mod:`ratematch.loadgen.cores`)
``--export=ALL``            a job sent with ``sbatch --export=...`` would pass that choice on to its steps
``--container-env``         secrets, which are in the environment of srun and in no argument, against the image's own
``--label``                 lines of several ranks in one log
``--kill-on-bad-exit=1``    an instance over several nodes is over when one of its ranks is
``--container-...``         pyxis: the image, its mounts, and the folder of the files at its own path
``--container-name=J.S``    in place of the image: the copy that step S of job J has unpacked on each node. It is an
                            unnamed container of pyxis, which pyxis removes itself when that step ends, however it
                            does; ``:no_exec``: not into the namespaces of who runs in it, whose mounts are others
``env RATEMATCH_RUN=...``   what a driver adds when it starts a step: the servers are known by it, and must be alone
                            with it: what is in srun's own environment, pyxis hands on to the removal of containers
``env --unset=A B=C``       inside the container, where neither the image nor Slurm's list of GPUs has the last word
``ENROOT_...`` outside      what the container runtime itself reads is also in the environment of srun
``numactl -m 0,1``          host memory off the memory of the GPUs (Grace), before the wrapper (section 13)
``trtllm-llmapi-launch``    hands the ranks that Slurm started to the server, which would else spawn its own
==========================  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.launchplan import ProcessSpec
from ratematch.plan.secret import MASK, secret_names

HERE = "\0HERE\0"
"""No text of a user's can hold it: no argument of a command has a NUL."""

UNPACKED = "\0UNPACKED\0"
"""An argument of its own in a step: which container it runs in, :func:`shared_container` or :func:`own_container`."""

RUNTIME = ("ENROOT_", "NVIDIA_", "MELLANOX_")
"""Beginnings of the names of variables that enroot reads before there is a container."""


@dataclass(frozen=True)
class Step:
    """``argv`` in an environment to which ``env`` is added and from which ``unset`` is removed.

    ``argv`` may hold :data:`HERE`, which is replaced by the folder of the launch files. A variable of ``env`` whose
    value is :data:`ratematch.plan.secret.MASK` has its value from :meth:`revealed`; none is ever in ``argv``.
    ``task``: where in ``argv`` the ``env`` stands that starts the tasks of a Slurm step; 0 = ``argv`` is the process
    itself.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    unset: tuple[str, ...] = ()
    task: int = 0

    def marked(self, process: str, step: str, mark: str) -> Step:
        """The step with ``mark`` in the variable ``process`` of the server's processes alone, and in ``step`` of the
        srun that starts them, if one does."""
        if not self.task:
            return replace(self, env=(*self.env, (process, mark)))
        begin, end = self.argv[: self.task + 1], self.argv[self.task + 1 :]
        unset = [word for word in end if word.startswith("--unset=")]
        argv = (*begin, *unset, f"{process}={mark}", *end[len(unset) :])
        return replace(self, argv=argv, env=(*self.env, (step, mark)))

    def within(self, container: str) -> Step:
        """The step in ``container``, an option of srun, if it runs in one that others may share."""
        return replace(self, argv=tuple(container if word == UNPACKED else word for word in self.argv))

    def filled(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """``argv`` with every key of ``values`` replaced by its value."""
        words = []
        for word in self.argv:
            for key, value in values.items():
                word = word.replace(key, value)
            words.append(word)
        return tuple(words)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Variables that have their values from elsewhere."""
        return secret_names(self.env)

    def revealed(self, values: Mapping[str, str]) -> Step:
        """The step with its secrets in its environment.

        Raises:
            UserError: ``values`` has not all of them.
        """
        if missing := [name for name in self.secrets if name not in values]:
            raise UserError(
                f"set {', '.join(missing)} in the environment before running this: results hold no secrets"
            )
        return replace(self, env=tuple((name, values[name] if text == MASK else text) for name, text in self.env))


def local_step(spec: ProcessSpec, cluster: Cluster | None = None) -> Step:
    """The process itself, on this machine; the engine starts its own ranks."""
    return Step((*_pinned(spec, cluster), *spec.argv), spec.env, spec.unset)


def slurm_step(spec: ProcessSpec, cluster: Cluster) -> Step:
    """The step that runs ``spec`` on its nodes, in the environment of its caller."""
    slurm, nodes = cluster.slurm, len(spec.nodes)
    secrets = secret_names(spec.env)
    open_env = [(name, value) for name, value in spec.env if value != MASK]
    tasks = spec.ranks if slurm.tasks == "gpu" else nodes
    begin = (
        *("srun", "--overlap", "--mem=0", *_layout(spec, tasks)),
        f"--job-name={spec.name}",
        *("--kill-on-bad-exit=1", "--cpu-bind=none", "--export=ALL"),
        *(("--label",) if tasks > 1 else ()),
        *((f"--mpi={slurm.mpi}",) if slurm.mpi else ()),
        *(_server_container(cluster) if spec.inside else ()),
        *((f"--container-env={','.join(secrets)}",) if secrets and spec.inside and cluster.container else ()),
        *slurm.srun,
    )
    inside = (
        *("env", *(f"--unset={name}" for name in spec.unset if name not in secrets)),
        *(f"{name}={value}" for name, value in open_env),
        *_pinned(spec, cluster),
        *spec.launcher,
        *spec.argv,
    )
    outside = (
        *(_runtime(open_env) if cluster.container else ()),
        *((name, MASK) for name in secrets),
    )
    return Step((*begin, *inside), outside, task=len(begin))


READY = "ready"
"""Begins the line that each node's task of a step writes when servers may start there."""

UNPACK = f"""trap '' USR2; echo "{READY} ${{SLURMD_NODENAME:-?}} $SLURM_JOB_ID.$SLURM_STEP_ID"; cat >/dev/null"""
"""What keeps an unpacked image, until its input ends: only then does pyxis remove it. Slurm's signal before the time
limit is not for it."""


def on_each_node(nodes: Sequence[str], name: str, *options: str) -> tuple[str, ...]:
    """How a step begins that has one task on each of ``nodes`` beside servers."""
    count = len(nodes)
    return (
        *("srun", "--overlap", "--mem=0", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1"),
        *("--distribution=block", f"--nodelist={','.join(nodes)}", f"--job-name={name}", "--kill-on-bad-exit=1"),
        *("--cpu-bind=none", "--export=ALL", *options),
    )


def unpack_step(cluster: Cluster, nodes: Sequence[str]) -> Step:
    """The step that has the image unpacked on each of ``nodes``, and keeps it there until its input ends."""
    assert cluster.container is not None
    home = () if cluster.container.mount_home else ("--no-container-mount-home",)
    begin = on_each_node(nodes, "unpack", own_container(cluster), *home, *cluster.slurm.srun)
    return Step((*begin, "sh", "-c", UNPACK), _runtime(cluster.environment.items()))


def trial_step(cluster: Cluster, nodes: Sequence[str]) -> Step:
    """The step that shows whether servers can use what :func:`unpack_step` has unpacked."""
    begin = on_each_node(nodes, "unpack-trial", UNPACKED, *cluster.slurm.srun)
    return Step((*begin, "true"), _runtime(cluster.environment.items()))


def host_step(nodes: Sequence[str], name: str, argv: Sequence[str]) -> Step:
    """The step that runs ``argv`` on the host of each of ``nodes``."""
    return Step((*on_each_node(nodes, name), *argv))


def own_container(cluster: Cluster) -> str:
    """The option with which a step unpacks the image for itself."""
    assert cluster.container is not None
    return f"--container-image={cluster.container.image}"


def shared_container(name: str) -> str:
    """The option with which a step runs in what the step ``name`` (``<job id>.<step id>``) has unpacked."""
    return f"--container-name={name}:no_exec"


def _server_container(cluster: Cluster) -> tuple[str, ...]:
    """The pyxis options of a server: in a copy that is shared, where there is one, and with its weights."""
    stage = cluster.stage_weights
    mounts = (f"{stage.path}:{stage.path}:ro",) if stage else ()
    first, *rest = container_options(cluster, HERE, mounts) or ("",)
    return (UNPACKED if cluster.unpacks_once else first, *rest) if first else ()


def _runtime(environment: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The variables that the container runtime itself reads, of those that are no secret."""
    return tuple((name, value) for name, value in environment if name.startswith(RUNTIME) and value != MASK)


def _layout(spec: ProcessSpec, tasks: int) -> tuple[str, ...]:
    """Which rank goes to which node: as many to each, one node after the other; or rank by rank as listed."""
    nodes = len(spec.nodes)
    if spec.shares and tasks == sum(spec.shares):
        each = (node for node, share in zip(spec.nodes, spec.shares, strict=True) for _ in range(share))
        most = f"--ntasks-per-node={max(spec.shares)}"
        # The list says how many nodes they are: with --nodes beside it Slurm 25.11 refuses the step.
        return (f"--ntasks={tasks}", most, "--distribution=arbitrary", "--nodelist=" + ",".join(each))
    return (
        f"--nodes={nodes}",
        f"--ntasks={tasks}",
        f"--ntasks-per-node={-(-tasks // nodes)}",
        "--distribution=block",
        "--nodelist=" + ",".join(spec.nodes),
    )


def container_options(cluster: Cluster, folder: str, mounts: Sequence[str] = ()) -> tuple[str, ...]:
    """The pyxis options of a step whose working directory is ``folder``, the image first; none without a container.
    ``mounts``: beside those of the profile."""
    if (container := cluster.container) is None:
        return ()
    return (
        own_container(cluster),
        "--container-mounts=" + ",".join((*container.mounts, *mounts, f"{folder}:{folder}")),
        f"--container-workdir={folder}",
        *(() if container.mount_home else ("--no-container-mount-home",)),
    )


def _pinned(spec: ProcessSpec, cluster: Cluster | None) -> tuple[str, ...]:
    if cluster is None or not cluster.numactl or not spec.is_worker:
        return ()
    return ("numactl", *cluster.numactl)
