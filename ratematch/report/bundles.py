"""Ready-to-run files of recommended deployments, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.analysis import analyze
from ratematch.errors import PlacementError, UserError
from ratematch.match.points import WorkloadAnalysis
from ratematch.match.recommend import Recommendation
from ratematch.report import deployment
from ratematch.report.contents import Bundle, RunFile
from ratematch.store.folder import Results


def make_bundles(
    results: Results,
    inputs: analyze.Inputs,
    workload: WorkloadAnalysis,
    recommendations: Sequence[Recommendation],
    number: int,
) -> dict[float, Bundle]:
    """By tok/s/user, the files of the deployment that is recommended there; one bundle a deployment and load.

    ``number``: of the workload, for the anchors. Recommendations whose files cannot be made are left out: a load
    that was imported, say, has no engine that ratematch can start.
    """
    bundles: dict[float, Bundle] = {}
    by_load: dict[tuple[str, float], Bundle] = {}
    for recommendation in recommendations:
        if recommendation.point is None:
            continue
        key = (recommendation.point.label, recommendation.point.concurrency)
        if key not in by_load:
            try:
                files = deployment.hand_over(results, inputs.measured, workload, recommendation.at)
            except (UserError, PlacementError):
                continue
            by_load[key] = _bundle(files, results, f"files-{number}-{recommendation.at:g}")
        bundles[recommendation.at] = by_load[key]
    return bundles


def _bundle(files: deployment.Handover, results: Results, anchor: str) -> Bundle:
    point = files.recommendation.point
    assert point is not None
    start = "sbatch job.sbatch" if "job.sbatch" in files.files else "bash run.sh"
    again = f"ratematch export deployment {results.path.name} --at {files.recommendation.at:g} -o deploy"
    return Bundle(
        anchor,
        f"{point.label}, for {files.recommendation.at:g} tok/s/user, on {files.cluster.name}",
        f"{start} runs it. To write these files, also for another cluster (--cluster): {again}",
        tuple(RunFile(name, text) for name, text in files.files.items()),
    )
