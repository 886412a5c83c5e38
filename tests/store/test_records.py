import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratematch.errors import DamagedFile, DiskFull, ResultsError
from ratematch.loadgen import RECORDS_SCHEMA, read_records, write_records
from ratematch.measure.records import RequestRecord
from ratematch.store.records import arrivals_from_bytes

RECORDS = [
    RequestRecord(0, 5, 6, 10, 30, 31, [10, 20, 30], 8, 8, 3, 3, 2, "length", "ok", 200, None),
    RequestRecord(1, 5, error="no connection: \u00e9", outcome="connect_error", isl=8, osl_requested=3),
]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write_records(path, RECORDS)
    assert read_records(path) == RECORDS
    write_records(path, [])
    assert read_records(path) == []
    assert [file.name for file in tmp_path.iterdir()] == ["records.parquet"]


def test_files_from_before_a_column_was_kept_are_read(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write_records(path, RECORDS)
    older = ["later_tokens", "other_first_ns", "other_last_ns", "stream_note"]
    pq.write_table(pq.read_table(path).drop_columns(older), path)
    assert read_records(path) == RECORDS


def test_what_is_known_of_a_stream_is_kept(tmp_path: Path) -> None:
    record = RequestRecord(0, 5, later_tokens=4, other_first_ns=9, other_last_ns=31, stream_note="it goes down")
    write_records(tmp_path / "records.parquet", [record])
    assert read_records(tmp_path / "records.parquet") == [record]


def test_columns_and_compression(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write_records(path, RECORDS)
    file = pq.ParquetFile(path)
    assert file.schema_arrow.equals(RECORDS_SCHEMA)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.schema_arrow.metadata[b"ratematch.records_version"] == b"1"


def test_foreign_missing_and_broken_files(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    for path in (foreign, broken, tmp_path / "missing.parquet"):
        with pytest.raises(ResultsError, match=path.name):
            read_records(path)


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.parquet"
    write_records(path, RECORDS[:1])

    def no_room(table: object, where: Path, **more: object) -> None:
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", no_room)
    with pytest.raises(DiskFull, match="2 records"):
        write_records(path, RECORDS)
    assert read_records(path) == RECORDS[:1]
    assert list(tmp_path.iterdir()) == [path]


def _record(seq: int, rng: random.Random) -> RequestRecord:
    chunks = sorted(rng.randrange(1_000_000) for _ in range(rng.choice([0, 0, 1, 3, 9])))
    outcome = rng.choice(["ok", "ok", "ok", "timeout"])
    last = rng.choice([None, chunks[-1] if chunks else 77])
    osl = rng.choice([None, 0, 1, 64])
    return RequestRecord(seq, 5, last_token_ns=last, chunk_ns=chunks, osl=osl, outcome=outcome, isl=8)


@pytest.mark.parametrize("number", [0, 1, 2, 5, 40])
def test_arrivals_are_those_of_the_records(number: int, tmp_path: Path) -> None:
    rng = random.Random(number)
    for _ in range(20):
        records = [_record(seq, rng) for seq in range(number)]
        write_records(tmp_path / "records.parquet", records)
        arrivals = arrivals_from_bytes(tmp_path, (tmp_path / "records.parquet").read_bytes())
        expected: list[tuple[int, float]] = []
        for record in records:
            if record.outcome == "ok" and record.osl:
                instants = record.chunk_ns or ([] if record.last_token_ns is None else [record.last_token_ns])
                expected += [(instant, record.osl / len(instants)) for instant in instants]
        assert list(zip(arrivals.instants_ns.tolist(), arrivals.tokens.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    "name, column", [("osl", pa.array(["64"])), ("chunk_ns", pa.array([None], pa.list_(pa.int64())))]
)
def test_arrivals_of_a_column_of_another_kind_are_damage(name: str, column: pa.Array, tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write_records(path, [replace(RECORDS[0], outcome="ok")])
    table = pq.read_table(path)
    table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table.replace_schema_metadata(RECORDS_SCHEMA.metadata), path)
    with pytest.raises(DamagedFile):
        arrivals_from_bytes(path, path.read_bytes())
