"""The whole corpus: recall, wrong causes and false alarms, printed as a table (``pytest -s``)."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from ratematch.engines import diagnose_logs, find_engine
from ratematch.engines.dynamo.diagnosis import OWN as DYNAMO
from ratematch.engines.failures import root_cause
from ratematch.engines.sitefailures import SITE
from ratematch.engines.trtllm_serve.diagnosis import KNOWN as TRTLLM
from ratematch.engines.vllm.diagnosis import KNOWN as VLLM
from tests.diagnosis.corpus import FOLDER, HEALTHY, Sample, read_corpus

CORPUS = read_corpus()
SETS = list(dict.fromkeys(sample.origin for sample in CORPUS))


def outcome(sample: Sample) -> str:
    known = find_engine(sample.engine).diagnose([sample.text])
    if (known.name if known else HEALTHY) == sample.cause:
        return "right"
    if sample.cause == HEALTHY:
        return "false alarm"
    return "wrong" if known and not known.general else "unknown"


def test_causes_are_named_and_healthy_servers_are_left_alone() -> None:
    found = {sample.name: outcome(sample) for sample in CORPUS}
    table = [f"\n{'logs':<10}{'count':>7}{'causes':>8}{'right':>7}{'wrong':>7}{'unknown':>9}{'false alarm':>13}"]
    for part in [*SETS, "all"]:
        samples = [sample for sample in CORPUS if part in (sample.origin, "all")]
        count = Counter(found[sample.name] for sample in samples)
        causes = len({sample.cause for sample in samples} - {HEALTHY})
        figures = f"{count['right']:>7}{count['wrong']:>7}{count['unknown']:>9}{count['false alarm']:>13}"
        table.append(f"{part:<10}{len(samples):>7}{causes:>8}{figures}")
    failed = [sample for sample in CORPUS if sample.cause != HEALTHY]
    right = sum(found[sample.name] == "right" for sample in failed)
    wrong = sum(found[sample.name] == "wrong" for sample in failed)
    alarms = [name for name, how in found.items() if how == "false alarm"]
    table.append(
        f"recall {right / len(failed):.1%}, precision {right / (right + wrong):.1%}, false alarms {len(alarms)}"
    )
    sys.stdout.write("\n".join(table) + "\n")
    assert right >= 0.95 * len(failed) and wrong <= 0.01 * len(failed)
    assert alarms == []


def test_a_start_of_a_healthy_server_is_never_ended_early() -> None:
    """At whatever line of its log it is silent for long."""
    for sample in CORPUS:
        if sample.cause == HEALTHY:
            engine, lines = find_engine(sample.engine), sample.text.splitlines()
            assert not engine.has_given_up(sample.text), sample.name
            for end in {*range(1, len(lines), 7), len(lines)}:
                found = root_cause(["\n".join(lines[:end])], engine.known_failures)
                assert found is None, (sample.name, end, found)


def test_a_start_that_hangs_on_a_failed_rank_is_ended_early() -> None:
    """Failed starts: by far the most show it, whether the process ends by itself or not."""
    engines = {name: find_engine(name) for name in ("trtllm-serve", "vllm")}
    failed = [sample for sample in CORPUS if sample.cause == "gpu-memory"]
    shown = [
        sample
        for sample in failed
        if engines[sample.engine].has_given_up(sample.text)
        or root_cause([sample.text], engines[sample.engine].known_failures)
    ]
    assert len(failed) >= 10 and len(shown) >= 0.9 * len(failed)


def test_the_corpus_is_large_enough_and_of_both_engines() -> None:
    failed = [sample for sample in CORPUS if sample.cause != HEALTHY]
    assert len(failed) >= 150 and len({sample.cause for sample in failed}) >= 60
    for engine in ("trtllm-serve", "vllm"):
        mine = [sample for sample in CORPUS if sample.engine == engine]
        assert len(mine) >= 75 and sum(sample.cause == HEALTHY for sample in mine) >= 10
    assert {sample.cause for sample in failed} <= {row.diagnosis.name for row in (*TRTLLM, *VLLM)}


@pytest.mark.parametrize("engine", ["trtllm-serve", "vllm"])
def test_what_is_no_engines_own_is_known_to_both(engine: str) -> None:
    """Logs of Slurm, MPI, containers and the driver, read as those of the other engine's servers."""
    others = [
        sample
        for sample in CORPUS
        if sample.engine != engine and not find_engine(sample.engine).wrote(sample.text) and sample.cause != HEALTHY
    ]
    shared = {row.diagnosis.name for row in SITE}
    tried = [sample for sample in others if sample.cause in shared]
    assert len(tried) >= 5
    for sample in tried:
        known = find_engine(engine).diagnose([sample.text])
        assert known is not None and known.name == sample.cause, sample.name


def test_logs_without_a_servers_words_are_tried_with_every_table() -> None:
    known, reference = diagnose_logs(["vllm serve: error: unrecognized arguments: --max-num-tokens 8192"])
    assert known is not None and known.name == "unknown-flag" and "vLLM" in reference
    known, _ = diagnose_logs(["RuntimeError: Couldn't find the requested block in the reuse tree"])
    assert known is not None and known.name == "block-reuse"
    assert diagnose_logs(["all is well"])[0] is None


def test_the_page_of_causes_has_every_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    missing = {row.diagnosis.name for row in (*TRTLLM, *VLLM, *DYNAMO) if f"| `{row.diagnosis.name}` |" not in page}
    assert missing == set()


def test_one_line_is_enough_and_both_engines_read_it_alike() -> None:
    for line in (FOLDER / "wordings.tsv").read_text(encoding="utf-8").splitlines():
        cause, _, text = line.partition("\t")
        for engine in ("trtllm-serve", "vllm"):
            known = find_engine(engine).diagnose([f"something\n{text}\nsomething\n"])
            assert known is not None and known.name == cause, (engine, text)


def test_what_slurm_says_and_goes_on_is_no_cause() -> None:
    said = "slurmstepd: error: Unable to create TMPDIR [/scratch/x]: Permission denied\n"
    said += "slurmstepd: error: Setting TMPDIR to /tmp\n"
    assert diagnose_logs([said])[0] is None
    known, _ = diagnose_logs([f"{said}yaml.parser.ParserError: while parsing a block mapping\n"])
    assert known is not None and known.name == "options-file"


def test_parsers_that_vllm_does_not_know_are_values() -> None:
    for kind in ("tool call", "reasoning"):
        known = find_engine("vllm").diagnose([f"KeyError: 'invalid {kind} parser: x (chose from {{ a,b }})'"])
        assert known is not None and known.name == "unknown-value"
