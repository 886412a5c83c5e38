"""A load that is stopped from outside keeps what it has, and the same command goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.store.records import read_records
from tests.loadgen.sse_server import Reply, answer_normally, serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_load_in_order(tmp_path: Path, number: signal.Signals) -> None:
    async def stop_at_eighth(reply: Reply) -> None:
        if reply.number == 8:
            os.kill(os.getpid(), number)
            await asyncio.sleep(3600)
        await answer_normally(reply)

    before = signal.getsignal(number)
    argv = ["--model", "m", "--isl", "16", "--osl", "4", "--concurrency", "1", "--warmup", "0", "--seed", "5"]
    with serve(stop_at_eighth) as (url, _):
        done = CliRunner().invoke(main, ["load", url, *argv, "--num-requests", "12", "-o", str(tmp_path / "kept")])
    assert done.exit_code != 0 and "stopped" in done.stderr
    (file,) = (tmp_path / "kept").rglob("records.parquet")
    assert sum(record.outcome == "ok" for record in read_records(file)) == 8, "numbered from 0"
    assert signal.getsignal(number) == before


def test_the_same_command_goes_on_after_a_stop(tmp_path: Path) -> None:
    stopped: list[int] = []

    async def stop_once(reply: Reply) -> None:
        if reply.number == 5 and not stopped:
            stopped.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(3600)
        await answer_normally(reply)

    argv = ["--model", "m", "--isl", "16", "--osl", "4", "--concurrency", "1,2", "--num-requests", "8", "--json"]
    folder = tmp_path / "kept"
    with serve(stop_once) as (url, _):
        words = ["load", url, *argv, "-o", str(folder)]
        first, again = CliRunner().invoke(main, words), CliRunner().invoke(main, words)
    assert first.exit_code == 130 or "stopped" in first.stderr
    assert "nothing measured is overwritten" not in again.stderr and again.exit_code in (0, 3), again.stderr
    full = [file for file in folder.rglob("records.parquet") if len(read_records(file)) == 8]
    assert len(full) == 2
