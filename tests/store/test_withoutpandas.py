"""Jobs and controllers do without pandas: pyarrow would load it at its first conversion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path

from ratematch.measure.records import RequestRecord
from ratematch.store.records import arrivals_from_bytes, read_columns, read_records, write_records
from ratematch.store.withoutpandas import leave_pandas_out

leave_pandas_out()
path = Path(sys.argv[1])
record = RequestRecord(0, 0, osl=2, outcome="ok", chunk_ns=[5, 9], last_token_ns=9)
write_records(path, [record, RequestRecord(1, 3)])
assert [each.osl for each in read_records(path)] == [2, None]
assert read_columns(path).chunks().tolist() == [5, 9]
assert arrivals_from_bytes(path, path.read_bytes()).instants_ns.tolist() == [5, 9]
assert "pandas" not in sys.modules

import pandas as pd
import pyarrow as pa

frame = pd.DataFrame({"tokens": [2.0, None], "outcome": ["ok", None]})
back = pa.Table.from_pandas(frame).to_pandas()
assert back["tokens"].tolist()[0] == 2.0 and back["tokens"].isna().tolist() == [False, True]
assert back["outcome"].isna().tolist() == [False, True]
print("done")
"""


def test_records_need_no_pandas_and_whoever_wants_frames_gets_them(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "records.parquet")]
    run = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")
