#!/usr/bin/env python3
"""A real Slurm of several nodes on one machine, for tests and demonstrations: no GPU, no systemd, root only.

::

    python slurm/testcluster.py start [--no-accounting] [--nodes 4] [--gpus 4]
    eval "$(python slurm/testcluster.py env)"       # points sbatch, squeue, srun at it
    python slurm/testcluster.py status
    python slurm/testcluster.py kill-node 2         # power cut: everything on the node is gone at once
    python slurm/testcluster.py start-node 2
    python slurm/testcluster.py restart-slurmctld
    python slurm/testcluster.py accounting off      # as on a site that keeps no accounts; on: as it was started
    python slurm/testcluster.py stop
    python slurm/testcluster.py install             # only the Debian packages that start needs

Each node is a ``slurmd`` with its own network, host name, processes and /etc/hosts (Linux namespaces), and GPUs that
are device files; the file system is shared, as on a cluster. The login node is this machine. munge authenticates;
slurmdbd on a private MariaDB keeps accounts unless ``--no-accounting``. Everything it writes lies in the state folder
(``--state``, else ``$RATEMATCH_TESTCLUSTER``, else below the temporary folder), nothing in /etc; ``stop`` leaves no
process, no network device and no namespace behind. Missing Debian packages are installed at ``start``. Several
clusters may run at once, each in a state folder of its own.

Exit codes: 0 done, 1 failed (said why), 77 this machine cannot (not root, or no namespaces): tests skip on it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

CANNOT = 77
CONTAINERS = "RATEMATCH_TESTCLUSTER_CONTAINERS"
"""Names a folder with ``lib/spank_pyxis.so`` (built for this Slurm) and ``bin/enroot``: steps may run in containers,
whose data lie below ``{state}/local``, another folder on each node. Programs in ``{state}/bin`` go before others."""
ENROOT_PATHS = ("RUNTIME", "CACHE", "DATA", "TEMP")

MARK = "RATEMATCH_TESTCLUSTER_DAEMON"
"""In the environment of every daemon of a cluster, and of nothing else: how ``stop`` knows its own."""

CORE = {"slurmctld": "slurm-wlm", "munged": "munge", "ip": "iproute2", "unshare": "util-linux", "numactl": "numactl"}
ACCOUNTING = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server"}
MYSQL_PLUGIN = "slurm-wlm-mysql-plugin"

CONF = """\
ClusterName=ratematch
SlurmctldHost={login}({login_ip})
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ctld_port}
SlurmdPort=6818
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={state}/run/slurmctld.pid
SlurmdPidFile={state}/run/slurmd.%n.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/slurmd.%n.log
StateSaveLocation={state}/slurmctld
SlurmdSpoolDir={state}/spool/%n
# Of each node alone, for PMIx: all of them see one /tmp.
TmpFS={state}/tmp/%n
SlurmctldDebug=info
SlurmdDebug=info
SwitchType=switch/none
MpiDefault=none
ProctrackType={proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
# The nodes are more than this machine is; slurmd may not look.
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
JobRequeue=1
SlurmdTimeout=6
MessageTimeout={message_s}
SlurmctldTimeout=30
KillWait=5
Epilog={state}/etc/epilog
BatchStartTimeout=20
UnkillableStepTimeout={unkillable_s}
MinJobAge=600
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=1
{accounting}
NodeName=DEFAULT CPUs=64 Sockets=2 CoresPerSocket=32 ThreadsPerCore=1 RealMemory=512000 Gres=gpu:{gpus} State=UNKNOWN
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100
"""

EPILOG = """\
#!/bin/sh
# Runs on each node of a job after it; takes as many seconds as the file says, while there is one.
left=$(cat {state}/epilog-seconds 2>/dev/null || echo 0)
while [ "$left" -gt 0 ] && [ -e {state}/epilog-seconds ]; do
  sleep 1
  left=$((left - 1))
done
"""

# AccountingStoragePass is where slurmctld and sacct find the munge socket; without it they try the system's.
CONF_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStorageTRES=gres/gpu
AccountingStoragePass={state}/munge/socket
AccountingStorageEnforce=associations,limits,qos"""

DBD_CONF = """\
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket
LogFile={state}/log/slurmdbd.log
PidFile={state}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


class Failed(Exception):
    """Something did not come up; the message names the log."""


class Cannot(Exception):
    """This machine cannot carry a test cluster."""


class Cluster:
    """One cluster, by its state folder; what ``start`` was asked is kept there in ``asked.json``."""

    def __init__(self, state: Path):
        self.state = state
        self.conf = state / "etc" / "slurm.conf"

    @property
    def asked(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.state / "asked.json").read_text())
        except OSError:
            raise Failed(f"{self.state}: no test cluster was started here") from None
        return found

    def node(self, number: int) -> str:
        return f"node{number}"

    def address(self, number: int) -> str:
        """Of node ``number``; 0 is the login node."""
        return f"{self.asked['subnet']}.{1 if number == 0 else 10 + number}"

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def start(self, nodes: int, gpus: int, accounting: bool) -> None:
        """Install what is missing, write the configuration, start every daemon, wait until all nodes are idle."""
        refuse_incapable()
        with one_at_a_time():
            install(accounting)
        if self.daemons():
            raise Failed(f"{self.state}: a test cluster runs here; stop it first")
        # Job ids begin at 1 again with an empty state, so nothing of an earlier cluster may stay.
        shutil.rmtree(self.state, ignore_errors=True)
        for name in ("etc", "log", "run", "slurmctld", "spool", "dev", "munge", "shared"):
            (self.state / name).mkdir(parents=True)
        asked = {"nodes": nodes, "gpus": gpus, "accounting": accounting, "containers": os.environ.get(CONTAINERS)}
        ports = dict(zip(("ctld_port", "dbd_port", "db_port"), free_ports(3), strict=True))
        try:
            with one_at_a_time():
                bridge, subnet = free_network()
                (self.state / "asked.json").write_text(
                    json.dumps({**asked, **ports, "bridge": bridge, "subnet": subnet})
                )
                self._start_network()
            self._write_configuration()
            # What is mounted below it later appears on the nodes too: a file system of one's own for a test.
            shared = str(self.state / "shared")
            subprocess.run(["mount", "--bind", shared, shared], check=True)
            subprocess.run(["mount", "--make-shared", shared], check=True)
            self._start_munge()
            if accounting:
                self._start_accounting()
            self.start_slurmctld("-c")
            for number in range(1, nodes + 1):
                self.start_node(number)
            self.wait_idle(nodes)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all that belongs to the cluster. The state folder stays, for its logs."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for name, pid in self.daemons():
                # A node is killed whole: its processes see nothing of this machine's signals otherwise.
                _send(pid, signal.SIGKILL if name.startswith("node") else number)
            with contextlib.suppress(Failed):
                wait_for(lambda: not self.daemons(), 8, "daemons to end")
        subprocess.run(
            ["umount", "--recursive", "--lazy", str(self.state / "shared")], check=False, capture_output=True
        )
        with contextlib.suppress(Failed):
            subprocess.run(["ip", "link", "del", self.asked["bridge"]], check=False, capture_output=True)

    def daemons(self) -> list[tuple[str, int]]:
        """Name and process id of every live daemon of this cluster (zombies are not alive)."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                for word in (folder / "environ").read_bytes().split(b"\0"):
                    name, _, value = word.decode(errors="replace").partition("=")
                    state, _, daemon = value.rpartition(":")
                    if name == MARK and state == str(self.state) and not _zombie(folder):
                        found.append((daemon, int(folder.name)))
        return found

    def start_node(self, number: int) -> None:
        """Boot one node: unshare (its killing is the power cut) with slurmd inside, and a cable to the bridge."""
        asked, name = self.asked, self.node(number)
        if any(daemon == name for daemon, _ in self.daemons()):
            raise Failed(f"{name} is running")
        for folder in ("spool", "tmp"):
            (self.state / folder / name).mkdir(parents=True, exist_ok=True)
        inside = [sys.executable, __file__, "--state", str(self.state), "_boot", str(number)]
        namespaces = ["--net", "--uts", "--ipc", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child"]
        namespaces.append("--mount-proc")
        process = self._daemon(name, ["unshare", *namespaces, *inside])
        own = Path("/proc/self/ns/net").readlink()
        wait_for(lambda: Path(f"/proc/{process.pid}/ns/net").readlink() != own, 5, f"{name}'s network")
        cable = f"{asked['bridge']}n{number}"
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        ip("link", "set", cable, "master", asked["bridge"], "up")

    def boot(self, number: int) -> None:
        """Inside the node's namespaces: name, address, hosts file, then become slurmd."""
        name = self.node(number)
        socket.sethostname(name)
        subprocess.run(["mount", "--bind", str(self.state / "etc" / "hosts"), "/etc/hosts"], check=True)
        if containers := self.asked["containers"]:
            own = self.state / "nodes" / name
            own.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", str(own), str(self.state / "local")], check=True)
            if not self.state.is_relative_to("/dev/shm"):
                # Its own, as a node has. Where another has mounted something below this machine's, a container of an
                # ordinary user namespace cannot be given that alone.
                subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
            os.environ["PATH"] = f"{self.state}/bin:{containers}/bin:{os.environ['PATH']}"
        # Not in /sys, which is still this machine's: its own eth0 is there before the node's.
        wait_for(lambda: _device_there("eth0"), 10, "its network cable")
        ip("addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        ip("link", "set", "lo", "up")
        ip("link", "set", "eth0", "up")
        os.execvp("slurmd", ["slurmd", "-D", "-N", name])

    def kill_node(self, number: int) -> None:
        """A crash: nothing on the node ends in order, nobody is told."""
        name = self.node(number)
        pids = [pid for daemon, pid in self.daemons() if daemon == name]
        if not pids:
            raise Failed(f"{name} is not running")
        for pid in pids:
            _send(pid, signal.SIGKILL)
        wait_for(lambda: all(daemon != name for daemon, _ in self.daemons()), 5, f"{name} to be gone")

    def start_slurmctld(self, *argv: str) -> None:
        self._daemon("slurmctld", ["slurmctld", "-D", *argv])
        wait_for(lambda: self._answers("scontrol", "ping"), 20, f"slurmctld ({self.state}/log/slurmctld.log)")

    def stop_slurmctld(self) -> None:
        for name, pid in self.daemons():
            if name == "slurmctld":
                _send(pid, signal.SIGTERM)
        wait_for(lambda: all(name != "slurmctld" for name, _ in self.daemons()), 20, "slurmctld to end")

    def set_accounting(self, on: bool) -> None:
        """Restart slurmctld with or without accounting; its daemons go on, and jobs stay."""
        if on and not self.asked["accounting"]:
            raise Failed("this cluster was started without accounting")
        self._write_slurm_conf(on)
        self.stop_slurmctld()
        self.start_slurmctld()
        # Nodes take up the file too, else slurmctld complains of each that it has another one.
        subprocess.run(["scontrol", "reconfigure"], env=self.environment(), check=True, capture_output=True)

    def wait_idle(self, nodes: int) -> None:
        def idle() -> bool:
            command = ["sinfo", "--noheader", "--Node", "--partition=main", "--states=idle", "--format=%N"]
            told = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
            return len(told.stdout.split()) == nodes

        wait_for(idle, 30, f"{nodes} idle nodes ({self.state}/log)")

    def _daemon(self, name: str, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a process that outlives this one, marked as ours."""
        with (self.state / "log" / f"{name}.out").open("ab") as output:
            return subprocess.Popen(
                argv,
                env={**self.environment(), MARK: f"{self.state}:{name}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _answers(self, *argv: str) -> bool:
        try:
            command = subprocess.run(argv, env=self.environment(), capture_output=True, timeout=5, check=False)
        except subprocess.TimeoutExpired:
            return False
        return command.returncode == 0

    @property
    def _known(self) -> dict[str, Any]:
        """What the configuration files are filled in with."""
        asked = self.asked
        known = {"state": self.state, "login": socket.gethostname().split(".")[0], "login_ip": self.address(0)}
        # By its processes' parents Slurm would take those that remove a container for the job's own.
        known["proctrack"] = "proctrack/cgroup" if asked.get("containers") else "proctrack/linuxproc"
        # A step that removes its container for longer drains the node ("Kill task failed"); 60 s is Slurm's default.
        known["unkillable_s"] = 60 if asked.get("containers") else 20
        # Newer ones drop what waited for four seconds on a busy machine.
        known["message_s"] = 4 if slurm_version() < (23, 0) else 10
        return known | {key: asked[key] for key in ("ctld_port", "dbd_port", "db_port")}

    def _write_slurm_conf(self, accounting: bool) -> None:
        asked, known = self.asked, self._known
        keeps = CONF_ACCOUNTING.format(**known) if accounting else "AccountingStorageType=accounting_storage/none"
        numbers = range(1, asked["nodes"] + 1)
        nodes = "\n".join(f"NodeName={self.node(n)} NodeAddr={self.address(n)}" for n in numbers)
        self.conf.write_text(CONF.format(**known, gpus=asked["gpus"], accounting=keeps, nodes=nodes))

    def _write_configuration(self) -> None:
        asked, known = self.asked, self._known
        self._write_slurm_conf(asked["accounting"])
        # slurmd 22.05 loads a cgroup plugin even when nothing uses it, and v2 wants systemd.
        (self.state / "etc" / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for gpu in range(asked["gpus"]):
            # slurmd counts only character devices; the numbers are those of /dev/null.
            os.mknod(self.state / "dev" / f"nvidia{gpu}", 0o20666, os.makedev(1, 3))
        (self.state / "etc" / "gres.conf").write_text(
            f"NodeName=node[1-{asked['nodes']}] Name=gpu File={self.state}/dev/nvidia[0-{asked['gpus'] - 1}]\n"
        )
        numbers = range(1, asked["nodes"] + 1)
        hosts = [f"{known['login_ip']} {known['login']}", *(f"{self.address(n)} {self.node(n)}" for n in numbers)]
        (self.state / "etc" / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")
        if containers := asked["containers"]:
            plugin = f"required {containers}/lib/spank_pyxis.so runtime_path={self.state}/local/pyxis\n"
            (self.state / "etc" / "plugstack.conf").write_text(plugin)
            for folder in ("local", "bin"):
                (self.state / folder).mkdir()
            # pyxis takes none of these from a job's environment.
            paths = " ".join(f"ENROOT_{name}_PATH={self.state}/local/{name.lower()}" for name in ENROOT_PATHS)
            enroot = self.state / "bin" / "enroot"
            enroot.write_text(f'#!/bin/sh\nexec env {paths} {containers}/bin/enroot "$@"\n')
            enroot.chmod(0o755)
        epilog = self.state / "etc" / "epilog"
        epilog.write_text(EPILOG.format(**known))
        epilog.chmod(0o755)
        database = self.state / "etc" / "slurmdbd.conf"
        database.touch(mode=0o600)
        database.write_text(DBD_CONF.format(**known))

    def _start_network(self) -> None:
        bridge = self.asked["bridge"]
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{self.address(0)}/24", "dev", bridge)
        ip("link", "set", bridge, "up")

    def _start_munge(self) -> None:
        folder = self.state / "munge"
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        self._daemon("munged", ["munged", "--foreground", "--force", "--num-threads=4", *options])
        wait_for(lambda: self._answers("munge", "-n", "-S", str(folder / "socket")), 5, f"munged ({folder}/log)")

    def _start_accounting(self) -> None:
        asked, data, scratch = self.asked, self.state / "mysql", self.state / "mysql-tmp"
        data.mkdir()
        scratch.mkdir()
        # As root: user mysql may not reach a state folder below somebody's private folder. With a temporary folder of
        # its own: a server that starts removes the tables of all others from a common one.
        own = ["--no-defaults", "--user=root", f"--datadir={data}", f"--tmpdir={scratch}"]
        install_db = ["mariadb-install-db", *own, "--skip-test-db", "--auth-root-authentication-method=normal"]
        subprocess.run(install_db, check=True, capture_output=True)
        where = [f"--socket={data}/s", f"--port={asked['db_port']}", "--bind-address=127.0.0.1"]
        small = ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--innodb-flush-log-at-trx-commit=0"]
        quiet = ["--innodb-lock-wait-timeout=900", "--skip-name-resolve", "--skip-log-bin"]
        self._daemon("mariadbd", ["mariadbd", *own, *where, *small, *quiet, f"--pid-file={data}/pid"])
        root = ["--no-defaults", "-uroot", "-S", f"{data}/s"]
        wait_for(lambda: self._answers("mariadb-admin", *root, "ping"), 30, f"mariadbd ({self.state}/log)")
        statements = (
            "create database slurm_acct_db; create user 'slurm'@'127.0.0.1' identified by 'slurm'; "
            "grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1'"
        )
        subprocess.run(["mariadb", *root, "-e", statements], check=True, capture_output=True)
        self._daemon("slurmdbd", ["slurmdbd", "-D"])
        wait_for(lambda: self._answers("sacctmgr", "-n", "list", "cluster"), 30, f"slurmdbd ({self.state}/log)")
        for what in (["cluster", "ratematch"], ["account", "test"], ["user", "root", "account=test"]):
            self._answers("sacctmgr", "-i", "add", *what)


def slurm_version() -> tuple[int, int]:
    """(22, 5) of Debian's; (0, 0) where it says nothing of the kind."""
    said = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=False).stdout
    numbers = re.search(r"(\d+)\.(\d+)", said)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def refuse_incapable() -> None:
    """Raises Cannot unless this machine can carry a cluster, as far as that is known without packages."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Cannot("a test cluster needs root on Linux")
    trial = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Cannot(f"this machine does not let root make namespaces: {tried.stderr.strip()}")


def install(accounting: bool) -> None:
    """Get what is missing from Debian's packages.

    Raises:
        Cannot: no apt-get, or it failed; the message says what to install.
    """
    wanted = CORE | (ACCOUNTING if accounting else {})
    missing = [package for program, package in wanted.items() if shutil.which(program) is None]
    if accounting and not list(Path("/usr/lib").glob("**/slurm*/accounting_storage_mysql.so")):
        missing.append(MYSQL_PLUGIN)
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise Cannot(f"install these first: {' '.join(missing)}")
    print(f"testcluster: installing {' '.join(missing)}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", *argv], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Cannot(f"apt-get {' '.join(argv)} failed: {done.stderr.strip()[-400:]}")


def free_network() -> tuple[str, str]:
    """Name of a bridge and a /24 that nothing here uses, for this machine's inside only."""
    used = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    for number in range(100):
        bridge, subnet = f"rmtest{number}", f"10.177.{number}"
        if f"{subnet}." not in used + routes and f"{bridge} " not in used and not _device_there(bridge):
            return bridge, subnet
    raise Failed("no network name is free; other test clusters were never stopped")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Held by one process of this machine: clusters that start together get different networks."""
    with (Path(tempfile.gettempdir()) / "ratematch-testcluster.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_ports(count: int) -> list[int]:
    """Ports of this machine that were free at this instant, all different; below those that the kernel gives away by
    itself, which would be somebody's by the time a daemon asks."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(11_000, 20_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


def ip(*argv: str) -> None:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"ip {' '.join(argv)}: {done.stderr.strip()}")


def wait_for(true: Callable[[], object], seconds: float, what: str) -> None:
    """Raises Failed when it takes longer."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)


def _device_there(name: str) -> bool:
    return any(name == known for _, known in socket.if_nameindex())


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _zombie(folder: Path) -> bool:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = os.environ.get("RATEMATCH_TESTCLUSTER") or str(Path(tempfile.gettempdir()) / "ratematch-testcluster")
    parser.add_argument("--state", type=Path, default=Path(default), help=f"state folder [default: {default}]")
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("start")
    start.add_argument("--nodes", type=int, default=4)
    start.add_argument("--gpus", type=int, default=4, help="of each node")
    start.add_argument("--no-accounting", action="store_true")
    verbs.add_parser("accounting").add_argument("switch", choices=("on", "off"))
    for verb in ("install", "stop", "status", "env", "restart-slurmctld", "stop-slurmctld", "start-slurmctld"):
        verbs.add_parser(verb)
    for verb in ("kill-node", "start-node", "_boot"):
        verbs.add_parser(verb).add_argument("number", type=int)
    asked = parser.parse_args()
    cluster = Cluster(asked.state.absolute())
    try:
        carry_out(cluster, asked)
    except Cannot as error:
        print(f"testcluster: cannot run here: {error}", file=sys.stderr)
        return CANNOT
    except (Failed, OSError, subprocess.SubprocessError) as error:
        print(f"testcluster: {error}", file=sys.stderr)
        return 1
    return 0


def carry_out(cluster: Cluster, asked: argparse.Namespace) -> None:
    match asked.verb:
        case "start":
            cluster.start(asked.nodes, asked.gpus, not asked.no_accounting)
            print(f"export SLURM_CONF={cluster.conf}")
        case "install":
            refuse_incapable()
            with one_at_a_time():
                install(accounting=True)
        case "accounting":
            cluster.set_accounting(asked.switch == "on")
        case "stop":
            cluster.stop()
        case "env":
            print(f"export SLURM_CONF={cluster.conf}")
        case "status":
            subprocess.run(["sinfo", "-N", "-l"], env=cluster.environment(), check=True)
        case "kill-node":
            cluster.kill_node(asked.number)
        case "start-node":
            cluster.start_node(asked.number)
        case "stop-slurmctld":
            cluster.stop_slurmctld()
        case "start-slurmctld":
            cluster.start_slurmctld()
        case "restart-slurmctld":
            cluster.stop_slurmctld()
            cluster.start_slurmctld()
        case "_boot":
            cluster.boot(asked.number)


if __name__ == "__main__":
    sys.exit(main())
