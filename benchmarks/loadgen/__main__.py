"""ratematch's load generator beside its peers, against a server that logs its own truth.

    python benchmarks/loadgen                     every scenario, every client (about 15 minutes, plus installing)
    python benchmarks/loadgen --quick             ratematch alone, scenarios a and d
    python benchmarks/loadgen --scenarios b --clients ratematch,AIPerf

The server is compiled here (needs a C compiler); each peer is installed from PyPI into an environment of its own
below ``--folder``. A peer that cannot be installed or does not finish is a line of the table too. Figures of one
scenario are of one run of this program, clients one after another. Nothing is asserted: the last table says which
targets the run meets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from clients import CLIENTS, Client, Floats, install
from process import run_client
from targets import print_targets
from tokenizer import make_tokenizer
from truth import SCENARIOS, Scenario, build_server, read_truth, serve

LIMIT_S = 150.0


@dataclass(frozen=True)
class Row:
    """One client in one scenario. Errors: reported minus true, ms. CPU: ms per 1,000 tokens, ``cpu`` in the load with
    parsing, ``cpu_all`` of the whole program. ``tpot_ms``: mean, as reported.
    ``trouble``: why there are no figures."""

    client: str
    scenario: str
    ok: int = 0
    ttft_mean: float | None = None
    ttft_p99: float | None = None
    intended_mean: float | None = None
    intended_p99: float | None = None
    tpot_mean: float | None = None
    tpot_p99: float | None = None
    itl_p99: float | None = None
    tpot_ms: float | None = None
    tok_s: float | None = None
    true_tok_s: float | None = None
    held: float | None = None
    cpu: float | None = None
    cpu_all: float | None = None
    memory_mb: float | None = None
    start_s: float | None = None
    true_p99: float | None = None
    trouble: str = ""


def measure(client: Client, scenario: Scenario, folder: Path, server: Path, tokenizer: Path) -> Row:
    """Start server and client, let them run, and compare what both say."""
    home = install(client, folder / "environments")
    if isinstance(home, str):
        return Row(client.name, scenario.name, trouble=f"not installed: {home}")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        at = Path(name)
        with serve(server, scenario, at / "truth") as running:
            argv = client.command(home, scenario, running.url, tokenizer, at)
            try:
                ran = run_client(argv, at, client.environment, LIMIT_S)
            except OSError as problem:
                return Row(client.name, scenario.name, trouble=f"does not start: {problem}")
        if ran.status not in client.exits:
            how = f"exit {ran.status}" if ran.status is not None else f"cut after {LIMIT_S:.0f} s"
            said = ran.output.strip().splitlines()[-1:] if ran.status is not None else []
            return Row(client.name, scenario.name, trouble=": ".join([how, *said])[:100])
        try:
            truth = read_truth(at / "truth", scenario.num_requests, scenario.osl)
            told = client.read(at, scenario)
        except Exception as problem:  # its files are not what they were: that is a finding about it, not the end
            return Row(client.name, scenario.name, trouble=f"not read: {type(problem).__name__} {problem}"[:100])
    ktok = scenario.tokens / 1e3
    begin, end = float(truth.first_ns.min()), float(truth.end_ns.max())
    intended = told.ttft_ms if told.ttft_intended_ms is None else told.ttft_intended_ms
    return Row(
        client.name,
        scenario.name,
        len(told.ttft_ms),
        *_error(told.ttft_ms, truth.ttft_ms),
        *_error(intended, truth.ttft_ms),
        *_error(told.tpot_ms, truth.tpot_ms),
        itl_p99=_error(told.gaps_ms, truth.gaps_ms)[1] if told.gaps_ms is not None else None,
        tpot_ms=float(np.nanmean(told.tpot_ms)),
        tok_s=told.tok_s,
        true_tok_s=truth.tok_s,
        held=truth.held / scenario.concurrency,
        cpu=(ran.cpu_between(begin, end) + told.decode_cpu_s) * 1e3 / ktok,
        cpu_all=ran.cpu_s * 1e3 / ktok,
        memory_mb=ran.peak_mb,
        start_s=(truth.first_any_ns - ran.began_ns) / 1e9,
        true_p99=float(np.percentile(truth.ttft_ms, 99)),
    )


def _error(reported: Floats, true: Floats) -> tuple[float, float]:
    """Mean and 99th percentile: reported minus true, ms."""
    known = reported[~np.isnan(reported)]
    return float(known.mean() - true.mean()), float(np.percentile(known, 99) - np.percentile(true, 99))


COLUMNS = (
    ("ok", "ok", "d"),
    ("TTFT", "ttft_mean", ".2f"),
    ("p99", "ttft_p99", ".2f"),
    ("call", "intended_mean", ".2f"),
    ("p99", "intended_p99", ".2f"),
    ("TPOT", "tpot_mean", ".3f"),
    ("p99", "tpot_p99", ".3f"),
    ("ITL p99", "itl_p99", ".2f"),
    ("tok/s", "tok_s", ".0f"),
    ("true", "true_tok_s", ".0f"),
    ("held", "held", ".1%"),
    ("CPU", "cpu", ".1f"),
    ("all", "cpu_all", ".1f"),
    ("MB", "memory_mb", ".0f"),
    ("start s", "start_s", ".1f"),
)


def print_table(scenario: Scenario, rows: list[Row]) -> None:
    print(f"\n### {scenario.name}: {scenario.about}, {scenario.num_requests} requests of {scenario.osl} tokens\n")
    print("| client | " + " | ".join(name for name, _, _ in COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for row in rows:
        if row.trouble:
            print(f"| {row.client} | {row.trouble} |" + " |" * (len(COLUMNS) - 1))
            continue
        values = [getattr(row, key) for _, key, _ in COLUMNS]
        cells = [format(v, kind) if v is not None else "-" for v, (_, _, kind) in zip(values, COLUMNS, strict=True)]
        print(f"| {row.client} | " + " | ".join(cells) + " |")


def main() -> None:
    asked = _read_arguments()
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    server = build_server(folder)
    chosen = [client for client in CLIENTS if client.name.lower() in asked.clients.lower().split(",")]
    tokenizer = make_tokenizer(folder / "tokenizer") if any(client.requirement for client in chosen) else folder
    for client in chosen:
        install(client, folder / "environments")
    if asked.install_only:
        return
    kept = folder / "rows.json"
    rows = [Row(**row) for row in json.loads(kept.read_text())] if asked.show and kept.exists() else []
    print(
        "errors: reported minus true, ms. TTFT: from the send where a client tells it (ratematch), else from before"
    )
    print("the call; call: always from before the call. CPU: ms per 1,000 tokens in the load, parsing included;")
    print(
        "all: of the whole program. held: requests in flight at the server, of those asked for. MB: PSS at its peak."
    )
    for scenario in SCENARIOS:
        if scenario.name not in asked.scenarios.split(","):
            continue
        if not asked.show:
            for client in (each for each in chosen if not scenario.only or each.name in scenario.only):
                print(f"... {scenario.name} {client.name}", file=sys.stderr, flush=True)
                rows.append(measure(client, scenario, folder, server, tokenizer))
                _keep(kept, rows)
        print_table(scenario, [row for row in rows if row.scenario == scenario.name])
    print_targets([asdict(row) for row in rows])


def _keep(file: Path, rows: list[Row]) -> None:
    """After each client: those of ``rows``, and of earlier runs what they have not measured again."""
    earlier: list[Row] = []
    with contextlib.suppress(OSError, ValueError, TypeError):
        done = {(row.scenario, row.client) for row in rows}
        kept = [Row(**row) for row in json.loads(file.read_text())]
        earlier = [row for row in kept if (row.scenario, row.client) not in done]
    file.write_text(json.dumps([asdict(row) for row in (*earlier, *rows)], indent=1))


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", default="a,b,c,d,e")
    parser.add_argument("--clients", default=",".join(client.name for client in CLIENTS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ratematch-benchmark")
    parser.add_argument("--quick", action="store_true", help="ratematch alone, scenarios a and d")
    parser.add_argument("--show", action="store_true", help="print what the last runs kept, measure nothing")
    parser.add_argument("--install-only", action="store_true")
    asked = parser.parse_args()
    if asked.quick:
        asked.clients, asked.scenarios = "ratematch", "a,d"
    if shutil.which("cc") is None:
        parser.error("no C compiler: install gcc (apt-get install gcc libc6-dev)")
    return asked


if __name__ == "__main__":
    main()
