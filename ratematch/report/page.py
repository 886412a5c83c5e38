"""``report.html``: one file that opens anywhere, without a network. All text from data is escaped.

What it says is a :class:`~ratematch.report.contents.Report`, gathered by :mod:`ratematch.report.collect`.
"""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ratematch.report.chart import make_chart
from ratematch.report.contents import Report, Section
from ratematch.report.datatables import make_tables
from ratematch.report.verdict import make_card
from ratematch.show import style
from ratematch.show.definitions import DEFINITIONS
from ratematch.show.files import one_line
from ratematch.show.headline import describe_gain

PICTURE_DPI = 150
CAPTIONS = {
    "speedup": "Speed-up over IFB at equal tok/s/user.",
    "gap": "What keeps each end-to-end run below its ideal.",
    "split": "The best split of GPUs is not constant along the front.",
    "ctx": "Context servers alone: the rate they sustain, and what their users wait.",
    "gen": "Generation servers alone.",
    "latency": "How latencies are spread over the requests of some loads.",
    "slip": "How late the client sent its requests.",
    "pareto": "The fronts.",
}


def render_report(report: Report) -> str:
    """The page as text.

    Every value from data passes jinja's autoescape, or JSON with ``<``, ``>``, ``&`` and quotes escaped.
    """
    environment = Environment(
        loader=PackageLoader("ratematch.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html").render(report=_page(report))


def _page(report: Report) -> dict[str, Any]:
    analysis = report.analysis
    stamp = style.find_stamp(analysis, *analysis.workloads)
    bundles = {bundle.anchor: bundle for section in report.sections for bundle in section.bundles.values()}
    return {
        "title": one_line(f"{analysis.sweep}: disaggregated against aggregated serving"),
        "stamp": stamp,
        "model": one_line(analysis.model),
        "gpu": one_line(analysis.gpu),
        "engine": one_line(analysis.engine),
        "limits": report.limits,
        "command": one_line(report.command),
        "origin": report.origin,
        "warnings": [one_line(text) for text in report.warnings],
        "provenance": [(name, one_line(value)) for name, value in report.provenance],
        "sections": [_section(section) for section in report.sections],
        "files": list(bundles.values()),
        "definitions": DEFINITIONS,
        "data": {
            "x_label": style.X_LABEL,
            "y_label": style.Y_LABEL,
            "workloads": [make_chart(section) for section in report.sections],
        },
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "workload": one_line(section.workload.workload),
        "verdict": describe_gain(section.workload),
        "cards": [make_card(advice, section.bundles.get(advice.at)) for advice in section.recommendations],
        "tables": make_tables(section),
        "pictures": [
            {
                "alt": picture.name,
                "uri": "data:image/png;base64," + base64.b64encode(picture.png(PICTURE_DPI)).decode(),
                "caption": CAPTIONS.get(picture.name.split("-")[0], ""),
            }
            for picture in section.pictures
        ],
    }
