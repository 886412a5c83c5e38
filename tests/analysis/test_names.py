"""One configuration of servers, one name: what a later sweep leaves out of a label is not lost."""

from __future__ import annotations

from dataclasses import replace

from ratematch.analysis.names import with_one_name
from ratematch.match.analysis import analyze
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.report.verdict import name_deployment
from tests.support.invented import ctx_rows, gen_rows


def tagged(rows: list[Measured], tag: str, block: int) -> list[Measured]:
    changed = []
    for row in rows:
        deployment = row.experiment.deployment
        (group,) = deployment.groups
        own = replace(group, tag=tag, options={"block_size": block})
        changed.append(
            replace(
                row,
                experiment=replace(row.experiment, deployment=replace(deployment, **{group.role: own})),
                layout=f"{block} tokens a block",
            )
        )
    return changed


def test_a_configuration_keeps_the_fullest_name_that_a_sweep_gave_it() -> None:
    rates = {32: 4000.0, 64: 6400.0}
    rows = [
        *tagged(ctx_rows("TEP4", {1: 8.0, 4: 12.0}), "block_size=16", 16),
        *tagged(ctx_rows("TEP4", {1: 8.0, 4: 12.0}), "", 128),  # a second sweep, whose axes do not have it
        *tagged(gen_rows("DEP8", rates), "block_size=16", 16),
        *tagged(gen_rows("DEP8", rates), "block_size=128", 128),
    ]
    other = replace(rows[2].experiment, deployment=replace(rows[2].experiment.deployment))
    rows.append(tagged([replace(rows[2], experiment=other)], "block_size=128", 128)[0])
    named = with_one_name(rows)
    ctx = {row.experiment.deployment.label for row in named if row.experiment.stage == "ctx"}
    assert ctx == {"ctx1xTEP4+block_size=16-mtp0", "ctx1xTEP4+block_size=128-mtp0"}
    assert [row.experiment.id for row in named] == [row.experiment.id for row in rows]
    found = analyze(named, Question(max_gpus=16, draws=0), sweep="s").workloads[0]
    labels = {point.label for point in found.plans}
    assert not any("TEP4-gen" in label for label in labels), labels
    cards = {name_deployment(point) for point in found.plans}
    assert any("no\N{NO-BREAK SPACE}MTP, block_size=128" in card for card in cards), cards
