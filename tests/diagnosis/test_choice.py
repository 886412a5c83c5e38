"""Which of several frightening lines is the cause, and what is none."""

from __future__ import annotations

import pytest

from ratematch.engines import find_engine
from ratematch.engines.literals import split_pattern
from ratematch.engines.loglines import LONGEST, find_level
from ratematch.engines.logscan import MOST_LINES, split_lines

TRTLLM, VLLM = find_engine("trtllm-serve"), find_engine("vllm")
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
ACCESS = "RuntimeError: CUDA error: an illegal memory access was encountered"
PORT = "RuntimeError: Failed to bind socket to n0:8333: [Errno 98] Address already in use"
READY = "INFO:     Application startup complete."
ABORT = "MPI_ABORT was invoked on rank 0"
STEP = "[10/14/2026-03:14:{:02d}] [TRT-LLM] [I] iter = {}, num_scheduled_requests: 64"


def cause(*lines: str) -> str | None:
    """What both engines say of one log; they agree wherever no engine's own words are in it."""
    text = "\n".join(lines)
    names = {known.name if (known := engine.diagnose([text])) else None for engine in (TRTLLM, VLLM)}
    assert len(names) == 1, names
    return names.pop()


def works(count: int, first: int = 0) -> list[str]:
    return [STEP.format(at % 60, at) for at in range(first, first + count)]


@pytest.mark.parametrize(
    "survived",
    [
        f"[10/14/2026-03:12:01] [TRT-LLM] [W] [Autotuner] Failed when profiling tactic=14. Error: {OOM}",
        f"(EngineCore_DP0 pid=7) WARNING 10-14 03:12:01 [x.py:1] {OOM}",
        f"[10/14/2026-03:12:01] [TRT-LLM] [I] Received request 7: prompt='{OOM}'",
        f"/usr/lib/python3/x.py:1: UserWarning: {OOM}",
        f"{OOM} Falling back to the host.",
        f"[rank3]:[W1014 03:12:01.1 x.cpp:1] {OOM}",
        f"W1014 03:12:01.118211 7 ucx.cpp:1] {OOM}",
    ],
)
def test_what_was_dealt_with_is_no_cause(survived: str) -> None:
    assert cause(survived) is None
    assert cause(survived, PORT) == "port"
    assert cause(survived, ABORT) == "mpi-abort"


def test_a_traceback_that_a_warning_introduces_and_that_goes_on_is_none() -> None:
    told = "[10/14/2026-03:12:01] [TRT-LLM] [W] Profiling failed, see the exception"
    trace = ["Traceback (most recent call last):", '  File "x.py", line 1, in f', OOM]
    on = "[10/14/2026-03:12:02] [TRT-LLM] [I] Loading weights"
    assert cause(told, *trace, on, PORT) == "port"
    assert cause(told, *trace) == "gpu-memory", "nothing went on"
    assert cause("Exception ignored in: <function f at 0x7f>", *trace, PORT) == "port"


def test_what_came_before_the_server_was_ready_counts_only_where_it_died() -> None:
    assert cause(OOM, READY, *works(2)) is None
    assert cause(OOM, READY, ABORT) == "gpu-memory"
    assert cause(OOM, READY, *works(5), ACCESS) == "illegal-access"


def test_the_root_wins_over_what_follows_wherever_it_stands() -> None:
    follows = ["Traceback (most recent call last):", ABORT, "srun: error: n0: task 0: Exited with exit code 1"]
    assert cause(*follows, OOM, *follows) == "gpu-memory"
    assert (
        cause("slurmstepd: error: pyxis: couldn't start container", "write: No space left on device") == "disk-full"
    )
    assert (
        cause("[rank1]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)", ACCESS) == "illegal-access"
    )


def test_of_two_causes_the_first_wins_unless_work_lies_between() -> None:
    assert cause(READY, *works(5), ACCESS, OOM) == "illegal-access"
    assert cause(READY, ACCESS, *works(1), OOM) == "illegal-access", "another rank's last iteration"
    assert cause(READY, ACCESS, *works(9), OOM) == "gpu-memory", "the first was survived"


def test_of_several_ranks_the_earliest_counts_in_whatever_order_their_logs_are_read() -> None:
    early = f"[10/14/2026-03:14:02] [TRT-LLM] [RANK 3] [E] {ACCESS}"
    late = f"[10/14/2026-03:14:55] [TRT-LLM] [RANK 0] [E] {OOM}"
    for texts in ([early, late], [late, early]):
        known = TRTLLM.diagnose(texts)
        assert known is not None and known.name == "illegal-access"
    slurm = "slurmstepd: error: *** STEP 7.0 ON n0 CANCELLED AT 2026-10-14T03:15:00 DUE TO TIME LIMIT ***"
    known = TRTLLM.diagnose([slurm, early])
    assert known is not None and known.name == "illegal-access"


def test_a_server_that_is_stopped_when_its_work_is_done_has_no_cause() -> None:
    end = [
        "slurmstepd: error: *** STEP 7.0 ON n0 CANCELLED AT 2026-10-14T04:00:00 ***",
        "srun: error: n0: task 0: Killed",
    ]
    assert cause(READY, *works(3), *end) is None
    assert cause(*end) == "step-ended" and cause(end[1]) == "killed"
    assert cause(READY, *works(3), f"{end[0][:-4]} DUE TO PREEMPTION ***", *end) == "preempted"


def test_harmless_at_times_counts_where_nothing_better_is_there() -> None:
    ucx = "[1.2] [n9:1:0] cache.c:276  UCX  ERROR   cuMemImportFromShareableHandle failed: invalid resource handle"
    assert TRTLLM.diagnose(["\n".join([READY, ucx, *works(4)])]) is None
    for after, name in ((ABORT, "nvlink-domains"), (OOM, "gpu-memory")):
        known = TRTLLM.diagnose(["\n".join([READY, *works(4), ucx, after])])
        assert known is not None and known.name == name


def test_a_lost_request_counts_in_a_warning_too_and_whatever_goes_on_after_it() -> None:
    warned = "[10/14/2026-03:14:02] [TRT-LLM] [W] Terminating generation request 7 due to KV cache transfer timeout"
    known = TRTLLM.diagnose(["\n".join([READY, *works(4), warned, *works(9)])])
    assert known is not None and known.name == "kv-transfer-timeout"
    expired = (
        "(EngineCore pid=7) WARNING 10-14 03:12:01 [x.py:1] Releasing expired KV blocks for request cmpl-1 which"
    )
    known = VLLM.diagnose(["\n".join([READY, expired, *works(9)])])
    assert known is not None and known.name == "kv-expired"
    for level in "IW":
        setting = (
            f"[10/14/2026-03:14:02] [TRT-LLM] [{level}] KV cache transfer timeout: 60 s (kv_transfer_timeout_ms)"
        )
        assert TRTLLM.diagnose([setting]) is None


def test_colours_labels_and_progress_bars_hide_nothing() -> None:
    assert (
        cause(f"\x1b[1;36m(EngineCore_DP0 pid=7)\x1b[0;0m ERROR 10-14 03:12:02 [core.py:708] {OOM}") == "gpu-memory"
    )
    assert cause(f" 3: [10/14/2026-03:14:02] [TRT-LLM] [E] {OOM}") == "gpu-memory"
    assert cause(f"Loading 1%\rLoading 2%\r{OOM}\r\n") == "gpu-memory"


@pytest.mark.parametrize("noise", ["x" * 3_000_000, "漢字 é\n" * 100_000, "\n" * 300_000, "a b\n" * 400_000])
def test_a_cause_is_seen_in_any_amount_of_anything(noise: str) -> None:
    known = TRTLLM.diagnose([f"{noise}\n{PORT}\n{noise}"])
    assert known is not None and known.name == "port"


def test_different_lines_without_end_are_bounded_and_those_of_trouble_kept() -> None:
    words = ["".join(chr(97 + (at >> shift) % 16) for shift in (0, 4, 8, 12, 16)) for at in range(90_000)]
    noise = "\n".join(f"request {word} {word * 25}" for word in words)
    known = VLLM.diagnose([f"{noise}\nERROR {OOM}\n{noise}"])
    assert known is not None and known.name == "gpu-memory"


def test_digits_that_mean_something_are_told_apart() -> None:
    lines = [f"RuntimeError: cudaGetDeviceCount(). Error {code}: x" for code in (801, 802)]
    assert cause(*lines) == "fabric-manager"
    assert cause(lines[0]) is None


def test_long_lines_and_logs_keep_both_ends() -> None:
    assert cause("y" * 5 * LONGEST + OOM) == "gpu-memory"
    lines = split_lines("first\n" + "\n" * (MOST_LINES + 10) + "last")
    assert len(lines) <= MOST_LINES and lines[0] == "first" and lines[-1] == "last"


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("RuntimeError: NCCL error (run with NCCL_DEBUG=INFO for details)", "error"),
        ("[TensorRT-LLM][ERROR] x", "error"),
        ("n0:1:1 [0] NCCL WARN Duplicate GPU detected", "error"),
        ("E1014 03:12:40.118211 8 ucx.cpp:1] x", "error"),
        ("(EngineCore pid=1) WARNING 10-14 03:12:01 [x.py:1] ValueError: x", "warning"),
        ("[1.1] [n0:1:0] ib.c:1 UCX  WARN  x", "warning"),
        ("FutureWarning: this will raise an error", "warning"),
        ("INFO:     Started server process", "info"),
        ('{"time":"2026-05-28T03:35:37Z","level":"warn","message":"RuntimeError: x"}', "warning"),
        ('{"time":"2026-05-28T03:35:37Z","level":"INFO","message":"RuntimeError: x"}', "info"),
        ("[10/14/2026-03:14:02] [TRT-LLM] [RANK 0] [I] error_on_oom=False", "info"),
        ("n0:1:1 [0] NCCL INFO NET/Plugin: Failed to find symbol", "info"),
        ("Killed", "none"),
    ],
)
def test_levels_are_read_where_each_program_puts_them(line: str, level: str) -> None:
    assert find_level(line) == level


def test_a_pattern_is_split_into_alternatives_with_a_literal_each() -> None:
    parts = split_pattern(r"(?i)oom[_-]kill|Error 80[34]\b|a(?:b|c)d efg?|\[Errno 98\]")
    assert [literal for literal, _ in parts] == ["kill", "error ", "d ef", "[errno "]
    assert all(
        pattern.search(line)
        for (_, pattern), line in zip(parts, ["OOM-KILL", "error 803", "ABD EF", "[errno 98]"], strict=True)
    )
    with pytest.raises(ValueError, match="no literal"):
        split_pattern(r"long enough|(?:a|b)\d+")
