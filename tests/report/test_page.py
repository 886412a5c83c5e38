"""report.html as text: what it says first, that it is whole, and that nothing from data becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ratematch.analysis import analyze
from ratematch.errors import UserError
from ratematch.match.points import Analysis, WorkloadAnalysis
from ratematch.match.question import Question
from ratematch.match.recommend import TARGETS, recommend_all
from ratematch.report import collect
from ratematch.report.contents import Bundle, Report, RunFile, Section
from ratematch.report.page import render_report
from ratematch.show.definitions import DEFINITIONS
from ratematch.show.files import one_line
from ratematch.store.folder import Results

from ..show.invented import make_analysis, make_empty, make_few, make_hostile, make_many

ROOT = Path(__file__).parents[2]
EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(1)">'


class Reader(HTMLParser):
    """Tags and texts of a page; script and style apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._in: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._in and self._in[-1] in ("script", "style"):
            self.scripts.append(data)
        elif data.strip():
            self.texts.append(data.strip())


def make_report(
    *workloads: WorkloadAnalysis, warnings: tuple[str, ...] = (), analysis: Analysis | None = None
) -> Report:
    files = (RunFile("ctx.yaml", "tensor_parallel_size: 4\n"),)
    return Report(
        analysis=analysis or make_analysis(*workloads),
        command="ratematch report results/quickstart",
        limits="mean TTFT 1000 ms",
        origin="20 of 22 loads valid",
        provenance=(("host", "node-1"),),
        sections=tuple(
            Section(
                workload,
                tuple(recommend_all(workload, TARGETS)),
                (),
                bundles={50.0: Bundle("files-50", "for 50 tok/s/user", "sbatch it", files)},
            )
            for workload in workloads
        ),
        warnings=warnings,
    )


def test_the_page_needs_no_network_and_forbids_it() -> None:
    page = Reader(render_report(make_report(make_many())))
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, value)
        assert tag not in ("link", "iframe", "object", "embed")
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "Content-Security-Policy" in a.values()]
    assert policy is not None and "default-src 'none'" in policy


def test_stamp_verdict_warnings_and_recommendation_come_before_everything_else() -> None:
    page = render_report(make_report(make_many(), warnings=("ctx-1 failed: out of memory",)))
    places = [
        page.index(text)
        for text in (
            "EMULATED",
            "ratematch report results/quickstart",
            "Disaggregated serving gives",
            "ctx-1 failed: out of memory",
            "Recommended deployment",
            "for 50 tok/s/user",
            'class="chart"',
            "What the figures mean",
        )
    ]
    assert places == sorted(places)


def test_real_results_carry_no_stamp() -> None:
    real = make_analysis(make_many(), emulated=False)
    page = render_report(make_report(*real.workloads, analysis=real))
    assert "EMULATED" not in page and 'class="stamp"' not in page


def test_every_target_has_a_card_with_the_deployment_or_says_that_nothing_reaches_it() -> None:
    workload = make_many()
    text = " ".join(Reader(render_report(make_report(workload))).texts)
    for advice in recommend_all(workload, TARGETS):
        assert advice.point is not None
        assert f"for {advice.at:g} tok/s/user" in text
        assert f"{advice.point.gpus}" in text
    few = " ".join(Reader(render_report(make_report(make_few()))).texts)
    assert "nothing reaches it" in few and "The fastest deployment gives 90 tok/s/user" in few


def test_an_empty_workload_says_why_and_draws_no_chart_from_nothing() -> None:
    page = render_report(make_report(make_empty()))
    assert "No speed-up over IFB can be stated: no valid IFB or end-to-end point" in page
    assert "16 of 64 requests failed" in page and "Left out" in page


@pytest.mark.parametrize("evil", [EVIL, "{{ 7*7 }}", "<!--", "]]>", "\u2028\u202e'\"&"])
def test_hostile_text_stays_text_wherever_it_comes_from(evil: str) -> None:
    workload = make_many()
    point = replace(workload.end_to_end[0], label=evil, flags=(evil,))
    workload = replace(
        workload,
        workload=evil,
        end_to_end=(point,),
        measured=(point, *workload.measured),
        left_out=((evil, evil, (evil,)),),
    )
    analysis = replace(make_analysis(workload), model=evil, sweep=evil, gpu=evil, engine=evil)
    report = replace(
        make_report(workload, analysis=analysis, warnings=(evil,)), command=evil, provenance=((evil, evil),)
    )
    plain, page = Reader(render_report(make_report(make_many()))), Reader(render_report(report))
    kinds = {"script", "img", "style"}
    assert [t for t, _ in page.tags if t in kinds] == [t for t, _ in plain.tags if t in kinds]
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "49" not in [text for text in page.texts if evil == "{{ 7*7 }}"]
    (data,) = [json.loads(script) for script in page.scripts if script.startswith("{")]
    labels = {p["label"] for p in data["workloads"][0]["points"]}
    assert one_line(evil) in labels


def test_hostile_names_of_the_plots_tests_make_a_page_too() -> None:
    page = Reader(render_report(make_report(make_hostile())))
    assert any("<script>alert(1)</script>" in text for text in page.texts)


def test_points_of_the_chart_are_those_of_the_fronts_with_what_hovering_shows() -> None:
    workload = make_many()
    page = Reader(render_report(make_report(workload)))
    (data,) = [json.loads(script) for script in page.scripts if script.startswith("{")]
    (chart,) = data["workloads"]
    for kind in ("rate_matched", "end_to_end", "ifb", "bound"):
        front = [(p["x"], p["y"]) for p in chart["points"] if p["kind"] == kind and p["front"]]
        points = [(p.tok_s_user, p.tok_s_gpu) for p in getattr(workload, kind)]
        assert front == [pytest.approx(point, rel=1e-5) for point in points], "to six digits"
    assert {"label", "concurrency", "ttft_ms", "valid", "remarks"} <= set(chart["points"][0])
    assert chart["targets"] == list(TARGETS)


def test_every_column_of_the_page_is_defined() -> None:
    known = {column for entry in DEFINITIONS for column in entry.columns}
    assert {"tok_s_user", "tok_s_gpu", "ttft_ms", "tpot_ms", "concurrency", "limit", "ratio", "valid"} <= known
    page = " ".join(Reader(render_report(make_report(make_many()))).texts)
    for entry in DEFINITIONS:
        assert entry.name in page and entry.formula in page


def test_targets_a_person_types() -> None:
    assert collect.parse_targets("50 tok/s/user") == (50.0,)
    assert collect.parse_targets("100,20, 50tps") == (20.0, 50.0, 100.0)
    for wrong in ("", "fast", "-3", "0", "nan", "20;50"):
        with pytest.raises(UserError, match="tok/s/user"):
            collect.parse_targets(wrong)


def test_the_report_of_the_sample_is_whole() -> None:
    results = Results.open(ROOT / "results" / "sample")
    inputs = analyze.read_inputs(results, Question(tpot_ms=25.0))
    page = collect.make_report(results, inputs, analyze.analyze_inputs(inputs), "ratematch report results/sample")
    reader = Reader(page)
    text = " ".join(reader.texts)
    assert "for 40 tok/s/user" in text, "the TPOT limit is the target"
    assert "1.2.0+emulated" in text and "GPU-hours" in text and "EMULATED" in text
    pictures = [attributes["alt"] for tag, attributes in reader.tags if tag == "img"]
    assert {str(name).split("-")[0] for name in pictures} == {
        *("pareto", "speedup", "gap", "split", "ctx", "gen", "latency", "slip")
    }
    assert len(page) < 4_000_000
    assert not re.search(r"/(tmp|home|root)/", text), "no path of the machine that measured"
