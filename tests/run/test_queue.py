"""What the controller makes of Slurm's answers, and how often it asks."""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.slurm.queue import SLOWEST_S, Ending, Queue

LINE = "7|RUNNING|None|node[1-2]|ratematch-abc-1\n"
ENDED = (
    "JobId=7 JobName=ratematch-abc-1 JobState=NODE_FAIL Reason=NodeDown Restarts=2 ExitCode=0:1 "
    "RunTime=1-00:00:05 NodeList=node[1-2]"
)


class Slurm:
    """Answers what it is told to, and counts the questions."""

    def __init__(self, **answers: str | None):
        self.answers: dict[str, str | None] = dict(answers)
        self.asked: list[str] = []
        self.now_s = 0.0

    def ask(self, argv: Sequence[str]) -> str | None:
        self.asked.append(argv[0])
        return self.answers.get(argv[0])

    def queue(self) -> Queue:
        return Queue(self.ask, lambda: self.now_s)


def test_many_looks_at_once_are_one_question_and_an_unchanged_queue_is_asked_ever_less_often() -> None:
    slurm = Slurm(squeue=LINE)
    queue = slurm.queue()
    for _ in range(600 * 4):
        assert queue.refresh() is not None
        slurm.now_s += 0.25
    assert len(slurm.asked) <= 8 + 600 / SLOWEST_S
    before = len(slurm.asked)
    slurm.answers["squeue"] = ""
    slurm.now_s += SLOWEST_S
    assert queue.refresh() == {}
    slurm.now_s += 1.1
    queue.refresh()
    assert len(slurm.asked) == before + 2, "after a change it looks sooner"


def test_silence_says_nothing_about_a_job() -> None:
    slurm = Slurm(squeue=None, scontrol=None)
    queue = slurm.queue()
    assert queue.refresh() is None and queue.silent
    assert queue.ending("7", "ratematch-abc-1") is None
    slurm.answers["squeue"] = LINE
    slurm.now_s += SLOWEST_S
    jobs = queue.refresh()
    assert jobs is not None and jobs["7"].nodes == "node[1-2]" and not queue.silent


def test_how_a_job_ended_is_told_by_scontrol_and_after_that_by_sacct() -> None:
    slurm = Slurm(squeue="", scontrol=ENDED)
    assert slurm.queue().ending("7", "ratematch-abc-1") == Ending("NODE_FAIL", "0:1", 2, "node[1-2]", 86405.0)
    slurm = Slurm(squeue="", scontrol=None, sacct="CANCELLED by 0|0:15|node1|12|ratematch-abc-1\n")
    assert slurm.queue().ending("7", "ratematch-abc-1") == Ending("CANCELLED", "0:15", 0, "node1", 12.0)
    slurm = Slurm(squeue="", scontrol=None, sacct=None)
    assert slurm.queue().ending("7", "ratematch-abc-1") == Ending(None), "no accounting: nobody knows any more"


def test_a_job_that_still_runs_has_no_ending() -> None:
    slurm = Slurm(squeue=LINE, scontrol=ENDED.replace("NODE_FAIL", "COMPLETING"))
    assert slurm.queue().ending("7", "ratematch-abc-1") is None


def test_an_id_that_the_cluster_gave_out_again_is_not_ours() -> None:
    slurm = Slurm(squeue="", scontrol=ENDED.replace("ratematch-abc-1", "somebody-else"))
    assert slurm.queue().ending("7", "ratematch-abc-1") == Ending(None)
