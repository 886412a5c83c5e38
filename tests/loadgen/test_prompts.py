"""Requests from files and tokenizers on disk, and loads of them against a server."""

import json
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from ratematch.errors import UserError
from ratematch.loadgen import Target
from ratematch.loadgen.prompts import PromptSource
from ratematch.loadgen.send import Senders, send_load
from ratematch.loadgen.shards import LoadJob
from ratematch.plan.load import Concurrency, Trace
from ratematch.plan.workload import Workload

from .sse_server import serve

WORDS = " ".join(f"the quick brown fox number {k} jumps over lazy dogs." for k in range(400))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made = ByteLevelBPETokenizer()
    made.train_from_iterator([WORDS], vocab_size=600, special_tokens=["<s>"], show_progress=False)
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_real_text_is_cut_to_exact_lengths(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(WORDS)
    source = PromptSource(Workload(100, 4, text=str(tmp_path / "book.txt"), tokenizer=str(tokenizer)), 600)
    made = source.requests(20)
    assert {spec.isl for spec in made} == {100}
    assert source.spell is not None and source.tokenizer_size is not None and source.tokenizer_size > 256
    assert source.spell(made[0].prompt[3:])[8:40] in WORDS


def test_texts_of_a_data_set_become_ids_with_a_tokenizer(tokenizer: Path, tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"prompt": "the quick brown fox", "max_tokens": 3}) + "\n")
    counted = PromptSource(Workload(100, 4, file=str(file), tokenizer=str(tokenizer)), 600).requests(1)[0]
    plain = PromptSource(Workload(100, 4, file=str(file)), 600).requests(1)[0]
    assert 0 < counted.isl < 20 and counted.text is None
    assert (plain.isl, plain.text) == (0, "the quick brown fox")


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        (Workload(9, 9, file="/no/such"), "/no/such: cannot be read"),
        (Workload(9, 9, text="/no/such"), "give --tokenizer too"),
        (Workload(9, 9, tokenizer="/no/such"), "/no/such: no tokenizer here"),
    ],
)
def test_files_that_are_not_there(workload: Workload, says: str) -> None:
    with pytest.raises(UserError, match=says):
        PromptSource(workload, 600)


def test_a_short_file_and_long_entries_are_noted(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text('{"isl": 4, "osl": 2}\n{"isl": 400, "osl": 2}\n')
    source = PromptSource(Workload(100, 4, file=str(file)), 600)
    assert [spec.isl for spec in source.requests(5)] == [4]
    assert "1 requests are longer than asked for" in source.notes[0] and "holds 1 requests" in source.notes[1]
    assert [spec.isl for spec in source.warmup(3, 50, 1)] == [100, 100, 100]
    with pytest.raises(UserError, match="no request fits into ISL 3"):
        PromptSource(Workload(3, 4, file=str(file)), 600).requests(5)


def test_a_trace_is_replayed_at_its_instants(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 5000 + 40 * k * k, "input_length": 8 + k, "output_length": 2} for k in range(6)]
    file.write_text("\n".join(map(json.dumps, rows)))
    with serve() as (url, seen):
        job = LoadJob(Target(url, "m"), Trace(6, 2.0), Workload(100, 4, file=str(file)), 32000)
        result = send_load(job, job.source())
    due = [record.intended_ns - result.start_ns for record in result.records]
    assert due == pytest.approx([20e6 * k * k for k in range(6)], abs=2)
    assert all((record.sent_ns or 0) >= record.intended_ns for record in result.records)
    assert [len(body["prompt"]) for body in seen.bodies] == [8 + k for k in range(6)]


def test_texts_are_sent_and_counted_by_the_server(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text('{"prompt": "hello there", "max_tokens": 3}\n{"prompt": "again", "max_tokens": 2}\n')
    for api in ("completions", "chat"):
        with serve() as (url, seen):
            target = Target(url, "m", "chat" if api == "chat" else "completions")
            job = LoadJob(target, Concurrency(1, 2), Workload(100, 4, file=str(file)), 32000)
            result = send_load(job, job.source())
        sent = [body["messages"][0]["content"] if api == "chat" else body["prompt"] for body in seen.bodies]
        assert sent == ["hello there", "again"]
        assert [record.isl for record in result.records] == [0, 0]
        assert [record.osl for record in result.records] == [3, 2]


@pytest.mark.parametrize("processes", [1, 2])
def test_chat_prompts_are_spelled_by_the_tokenizer(tokenizer: Path, processes: int) -> None:
    source = PromptSource(Workload(12, 4, tokenizer=str(tokenizer)), 300)
    with serve() as (url, seen):
        job = LoadJob(Target(url, "m", "chat", spell=source.spell), Concurrency(1, 1), source.workload, 300)
        send_load(job, source, senders=Senders(processes))
    assert source.spell is not None
    assert seen.bodies[0]["messages"][0]["content"] == source.spell(source.requests(1)[0].prompt)
