"""Starting, watching and ending real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.errors import DiskFull, NotReady, PortInUse, RunError, ServerDied
from ratematch.plan.cluster import Cluster, Container, Slurm
from ratematch.plan.launchplan import MADE_AT_LAUNCH, PRIVATE, FileSpec, LaunchPlan, ProcessSpec, ReadyProbe
from ratematch.run import guard
from ratematch.run.launch import ThisMachine, Waiting, end_leftovers, running
from ratematch.run.probes import probe
from ratematch.run.startsigns import StartSigns
from ratematch.run.stopping import Interrupted
from ratematch.slurm.srun import Step, slurm_step
from tests.ports import free_port
from tests.support.processes import processes_with, wait_until

SERVE = """
import http.server, sys, time
time.sleep(float(sys.argv[2]))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


LOADING = SERVE.replace("time.sleep(float(sys.argv[2]))", "").replace("send_response(200)", "send_response(503)")
"""Listens at once, and is never ready."""


def spec(
    name: str, port: int, *, argv: Sequence[str] = (), wave: int = 0, delay_s: float = 0, deadline_s: float = 20
) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        role="agg",
        argv=tuple(argv) or (sys.executable, "-c", SERVE, str(port), str(delay_s)),
        env=(("COLOUR", "blue"),),
        unset=("UCX_TLS",),
        nodes=("local0",),
        host="127.0.0.1",
        port=port,
        log=f"{name}.log",
        ready=ReadyProbe(f"http://127.0.0.1:{port}/health", deadline_s),
        wave=wave,
    )


def plan(*specs: ProcessSpec) -> LaunchPlan:
    return LaunchPlan((FileSpec("note.yaml", "a: 1\n"),), specs, "http://127.0.0.1:1")


def ignore(waiting: Sequence[Waiting]) -> None: ...


def no_cause(logs: Sequence[str]) -> None: ...


def start(wanted: LaunchPlan, folder: Path, stop: threading.Event | None = None, on_wait=ignore, diagnose=no_cause):  # type: ignore[no-untyped-def]
    return running(wanted, folder, diagnose, stop or threading.Event(), on_wait)


def working_in(folder: Path) -> dict[int, str]:
    """Command lines of processes that work in ``folder``, by their ids."""
    found = {}
    for pid, command in processes_with("RATEMATCH_RUN="):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cwd").readlink() == folder:
                found[pid] = command
    return found


def left_in(folder: Path) -> list[str]:
    return list(working_in(folder).values())


def test_waves_start_in_order_and_everything_is_ended(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    seen: list[set[str]] = []
    wanted = plan(spec("worker", first, delay_s=0.3), spec("orchestrator", second, wave=1))
    with start(wanted, tmp_path, on_wait=lambda waiting: seen.append({w.name for w in waiting})) as servers:
        servers.check()
        assert len(left_in(tmp_path)) == 2
    assert seen[0] == {"worker"}, "the orchestrator waits for its worker"
    assert (tmp_path / "note.yaml").read_text() == "a: 1\n"
    assert left_in(tmp_path) == []


def test_environment_is_added_and_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCX_TLS", "tcp")
    port = free_port()
    tell = "import os; print('told', os.environ['COLOUR'], os.environ.get('UCX_TLS'), flush=True)" + SERVE
    with start(plan(spec("a", port, argv=(sys.executable, "-c", tell, str(port), "0"))), tmp_path):
        pass
    assert "told blue None" in (tmp_path / "a.log").read_text()


def test_a_server_that_dies_in_start_up_ends_the_wait_at_once(tmp_path: Path) -> None:
    dying = (sys.executable, "-c", "print('CUDA out of memory'); raise SystemExit(3)")
    wanted = plan(spec("good", free_port(), deadline_s=600), spec("bad", free_port(), argv=dying, deadline_s=600))
    with (
        pytest.raises(ServerDied, match=r"bad ended with exit code 3 .*: buy a GPU[^$]*CUDA out of memory"),
        start(wanted, tmp_path, diagnose=lambda logs: "buy a GPU" if "CUDA out of memory" in logs[0] else None),
    ):
        pass
    assert left_in(tmp_path) == []


def test_a_server_that_says_it_has_given_up_is_not_waited_for(tmp_path: Path) -> None:
    """Its process may live on: vLLM's does when the engine process behind it has ended."""
    hanging = (sys.executable, "-c", "import time; print('engine failed to start', flush=True); time.sleep(600)")
    wanted = plan(spec("agg-0", free_port(), argv=hanging, deadline_s=600))
    with (
        pytest.raises(ServerDied, match="agg-0 gave up starting after"),
        running(
            wanted,
            tmp_path,
            no_cause,
            threading.Event(),
            ignore,
            signs=StartSigns(lambda text: "failed to start" in text),
        ),
    ):
        pass
    assert left_in(tmp_path) == []


def test_a_cause_told_by_another_server_is_found(tmp_path: Path) -> None:
    witness = "print('NIXL went wrong')\n" + SERVE
    port = free_port()
    teller = spec("teller", port, argv=(sys.executable, "-u", "-c", witness, str(port), "0"))
    dying = spec("bad", free_port(), argv=(sys.executable, "-c", "raise SystemExit(1)"), wave=1)
    with (
        pytest.raises(ServerDied, match=r"bad ended with exit code 1 .*: check the cables"),
        start(
            plan(teller, dying),
            tmp_path,
            diagnose=lambda logs: "check the cables" if any("NIXL went wrong" in log for log in logs) else None,
        ),
    ):
        pass


def test_a_server_that_dies_later_is_noticed(tmp_path: Path) -> None:
    with start(plan(spec("a", free_port())), tmp_path) as servers:
        (pid,) = (pid for pid, command in working_in(tmp_path).items() if "serve_forever" in command)
        os.kill(pid, signal.SIGKILL)

        def noticed() -> bool:
            try:
                servers.check()
            except ServerDied as error:
                return "a was killed by SIGKILL" in str(error)
            return False

        wait_until(noticed, "the death to be noticed", 10)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    silent = (sys.executable, "-c", "import time; print('loading weights', flush=True); time.sleep(60)")
    with (
        pytest.raises(NotReady, match=r"a was not ready after \d+ s \(connection refused\)[^$]*loading weights"),
        start(plan(spec("a", free_port(), argv=silent, deadline_s=3)), tmp_path),
    ):
        pass
    assert left_in(tmp_path) == []


def test_a_start_ends_once_a_cause_of_failure_is_followed_by_silence(tmp_path: Path) -> None:
    """Its process lives and its deadline is far: a rank that failed, and others that wait for it."""
    hangs = "import time; print('RuntimeError: CUDA out of memory', flush=True); time.sleep(60)"
    talks = "import time\nwhile True: print('loading', flush=True); time.sleep(0.05)"
    memory = StartSigns(root_cause=lambda logs: "no memory" if "out of memory" in "".join(logs) else None)

    def begin(folder: Path, *codes: str, stop: threading.Event) -> None:
        folder.mkdir()
        specs = [spec(str(k), free_port(), argv=(sys.executable, "-c", code)) for k, code in enumerate(codes)]
        signs = replace(memory, silent_s=0.5)
        with running(plan(*specs), folder, no_cause, stop, ignore, signs=signs):
            raise AssertionError("it cannot be ready")

    with pytest.raises(ServerDied, match=r"0 will not be ready: no server has logged .* no memory"):
        begin(tmp_path / "alone", hangs, stop=threading.Event())
    stop = threading.Event()
    threading.Timer(2.0, stop.set).start()
    with pytest.raises(Interrupted):
        begin(tmp_path / "beside", hangs, talks, stop=stop)


def test_a_server_that_is_loading_is_not_one_that_is_not_there(tmp_path: Path) -> None:
    """503 is loading, refused is not up yet, or dead; both say so while they are waited for, and at the end."""
    ports = [free_port(), free_port()]
    loading = spec("a", ports[0], argv=(sys.executable, "-c", LOADING, str(ports[0])), deadline_s=3)
    absent = spec("b", ports[1], argv=(sys.executable, "-c", "import time; time.sleep(60)"), deadline_s=60)
    states: dict[str, set[str]] = {"a": set(), "b": set()}

    def look(waiting: Sequence[Waiting]) -> None:
        for server in waiting:
            states[server.name].add(server.state)

    with (
        pytest.raises(NotReady, match=r"a was not ready after \d+ s \(answers 503: it is still loading\)"),
        start(plan(loading, absent), tmp_path, on_wait=look),
    ):
        pass
    assert "loading" in states["a"] and states["b"] == {"not up yet, or dead"}


def test_a_port_that_several_processes_meet_at_must_be_free_too(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is in use"),
            start(plan(replace(spec("a", free_port()), further_ports=(port,))), tmp_path),
        ):
            pass


def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is in use"),
            start(plan(spec("a", port)), tmp_path),
        ):
            pass
    assert not (tmp_path / "a.log").exists()


def test_a_missing_command_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match="no command 'trtllm-serve-x' here"),
        start(plan(spec("a", free_port(), argv=("trtllm-serve-x",))), tmp_path),
    ):
        pass


def test_asking_to_stop_ends_the_wait(tmp_path: Path) -> None:
    stop = threading.Event()
    with (
        pytest.raises(Interrupted),
        start(plan(spec("a", free_port(), delay_s=60)), tmp_path, stop, lambda waiting: stop.set()),
    ):
        pass
    assert left_in(tmp_path) == []


def test_a_server_that_ignores_sigterm_and_its_children_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratematch.run.launch.STOP_GRACE_S", 0.3)
    port = free_port()
    stubborn = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n" + SERVE
    )
    with start(plan(spec("a", port, argv=(sys.executable, "-c", stubborn, str(port), "0"))), tmp_path):
        assert len(left_in(tmp_path)) == 2
    assert left_in(tmp_path) == []


FAKE_SRUN = """\
#!/bin/sh
# As Slurm with pyxis: a plugin gets the environment of srun, and goes on after the tasks have ended.
setsid sleep 60 &
echo "$!" >"$REMOVAL"
while [ "$1" != env ]; do shift; done
"$@" &
trap 'kill $!; exit 1' TERM
wait $!
"""


IMAGE = Container("/images/trtllm.sqsh", unpack="launch")


@pytest.mark.parametrize("killed", [False, True], ids=["normal end", "kill -9 of the driver"])
def test_what_slurms_plugins_still_do_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """pyxis removes a container after its tasks, in the environment of srun: killed, it would stay on the node."""
    port, removal = free_port(), tmp_path / "removal"
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(FAKE_SRUN)
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("REMOVAL", str(removal))
    profile = Cluster("four", "gb200", 4, 4, slurm=Slurm(tasks="node"), container=IMAGE)

    class Steps(ThisMachine):
        def step(self, spec: ProcessSpec) -> Step:
            return slurm_step(spec, profile)

    with running(plan(spec("a", port)), tmp_path, no_cause, threading.Event(), ignore, Steps()):
        mark = (tmp_path / "mark").read_text()
        names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in guard.marked(mark)}
        assert len(names) == 2 and "srun" in names.values()
        (in_srun,) = [Path(f"/proc/{pid}/environ").read_text() for pid in names if names[pid] == "srun"]
        assert f"{guard.VARIABLE}={mark}" not in in_srun.split("\0"), "what plugins get"
        if killed:
            end_leftovers([tmp_path])  # what whoever starts here next does
            assert guard.marked(mark) == []
    assert left_in(tmp_path) == [] and guard.marked(mark) == []
    pid = int(removal.read_text())
    os.kill(pid, signal.SIGKILL)  # it was still there


def secret_plan(port: int) -> LaunchPlan:
    file = FileSpec("a.yaml", f"key: '{MADE_AT_LAUNCH}'\n")
    return replace(plan(spec("a", port)), files=(file,))


def test_kill_9_of_the_driver_leaves_no_server(tmp_path: Path) -> None:
    port = free_port()
    driver = f"""
import sys, threading, time
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from tests.run.test_launch import secret_plan, start
with start(secret_plan({port}), Path({str(tmp_path)!r})):
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert left_in(tmp_path) and (tmp_path / PRIVATE / "a.yaml").exists()
        process.kill()
    wait_until(lambda: not left_in(tmp_path), "the server of the killed driver to end", 20)
    wait_until(lambda: not (tmp_path / PRIVATE).exists(), "the files of its secret to go with it", 20)


def test_servers_are_reached_around_a_sites_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    port = free_port()
    with start(plan(spec("agg-0", port)), tmp_path):
        assert probe(f"http://127.0.0.1:{port}/health") is None


def test_servers_whose_driver_and_guard_died_together_are_ended_at_the_next_start(tmp_path: Path) -> None:
    port = free_port()
    driver = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from tests.run.test_launch import secret_plan, start
with start(secret_plan({port}), Path({str(tmp_path)!r})) as servers:
    print(servers._guard.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        guard = int(process.stdout.readline())
        os.kill(guard, signal.SIGKILL)
        process.kill()
    assert left_in(tmp_path) and (tmp_path / PRIVATE).exists(), "nobody is left to end it"
    end_leftovers([tmp_path / "never", tmp_path])
    assert left_in(tmp_path) == [] and not (tmp_path / PRIVATE).exists()
    end_leftovers([tmp_path])


def test_a_file_that_is_no_mark_ends_nothing(tmp_path: Path) -> None:
    port = free_port()
    with start(plan(spec("a", port)), tmp_path):
        mark = (tmp_path / "mark").read_text()
        for text in ("", mark[:31], f"{mark}\n{mark}", "\xb2" * 32, "." * 32):
            (tmp_path / "mark").write_text(text)
            end_leftovers([tmp_path])
        assert len(left_in(tmp_path)) == 1


def test_a_server_that_dies_on_a_full_disk_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratematch.run.launch.is_full", lambda folder: True)
    dying = (sys.executable, "-c", "raise OSError(28, 'No space left on device')")
    with (
        pytest.raises(DiskFull, match=r"the disk is full.*nothing measured so far is lost.*a ended with exit code 1"),
        start(plan(spec("a", free_port(), argv=dying)), tmp_path),
    ):
        pass


SHOW = "import pathlib; print(pathlib.Path('private/a.yaml').read_text())\n"


def test_a_secret_of_a_start_is_in_private_files_for_as_long_as_the_servers_live(tmp_path: Path) -> None:
    port = free_port()
    server = spec("agg-0", port, argv=(sys.executable, "-c", SHOW + SERVE, str(port), "0"))
    secret = tuple(FileSpec(name, f"key: '{MADE_AT_LAUNCH}'\n") for name in ("a.yaml", "b.yaml"))
    open_file = FileSpec("note.yaml", "a: 1\n")
    found = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        with start(LaunchPlan((*secret, open_file), (server,), "http://127.0.0.1:1"), folder):
            private = folder / PRIVATE
            assert private.stat().st_mode & 0o777 == 0o700
            assert {path.name: path.stat().st_mode & 0o777 for path in private.iterdir()} == {
                "a.yaml": 0o600,
                "b.yaml": 0o600,
            }
            texts = {path.read_text() for path in private.iterdir()}
            assert len(texts) == 1, "all files of a start have the same"
            key = texts.pop().removeprefix("key: '").removesuffix("'\n")
            assert len(key) == 64 and all(key not in text for text in working_in(folder).values())
            found.append(key)
        assert not private.exists()
        kept = {path.name: path.read_text() for path in folder.iterdir()}
        assert kept["a.yaml"] == f"key: '{MADE_AT_LAUNCH}'\n" and "key: '***'" in kept["agg-0.log"]
        assert all(key not in text for text in kept.values())
    assert found[0] != found[1]


def test_shared_memory_that_carries_the_mark_goes_with_the_servers_and_no_other() -> None:
    """A server that is killed leaves its own behind; other servers of this machine have theirs."""
    mark, other = uuid.uuid4().hex, uuid.uuid4().hex
    mine, theirs = (Path("/dev/shm") / f"rm_{name}_0_left" for name in (mark, other))
    try:
        mine.touch()
        theirs.touch()
        for nobodys in ("", "rm_", other[:8]):
            guard.remove_shared(nobodys)
        assert mine.exists() and theirs.exists()
        guard.end(mark, 0.0)
        assert not mine.exists() and theirs.exists()
    finally:
        mine.unlink(missing_ok=True)
        theirs.unlink(missing_ok=True)
