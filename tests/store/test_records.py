from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratematch.errors import DiskFull, ResultsError
from ratematch.loadgen import RECORDS_SCHEMA, read_records, write_records
from ratematch.measure.records import RequestRecord

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
