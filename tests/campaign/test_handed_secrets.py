"""Secrets on their way to jobs, and folders of jobs that somebody else could have written to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.campaign.jobs.local import LocalJob, start_here
from ratematch.campaign.jobs.sent import Membership
from ratematch.campaign.secrets import Handed, find_values, handing_over
from ratematch.errors import ResultsError, UserError
from ratematch.store.folder import ExperimentFolder, Results
from ratematch.store.masking import mask
from ratematch.store.private import forget_secrets, read_secrets, write_secrets
from tests.support.canary import CANARY
from tests.support.invented import LAPTOP, PAIR, experiment
from tests.support.sweeptext import GOOD, parse


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results" / "mini")


def test_values_come_from_the_files_and_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    tagged = ("gen.environment.LOGIN=!secret env:MY_LOGIN", f"ctx.environment.HF_TOKEN={CANARY}")
    sweep = parse(GOOD, *tagged)
    monkeypatch.setenv("MY_LOGIN", "my login")
    assert find_values(sweep) == {"LOGIN": "my login", "HF_TOKEN": CANARY}
    for value, why in (("abc", "at least 4 characters"), ("two\nlines", "one line of printable characters")):
        monkeypatch.setenv("MY_LOGIN", value)
        with pytest.raises(UserError, match=f"MY_LOGIN: a secret .*{why}|MY_LOGIN: a secret is {why}"):
            find_values(sweep)
    monkeypatch.setenv("MY_LOGIN", "deepseek-r1")
    with pytest.raises(UserError, match="the value of LOGIN stands in the sweep or its profile elsewhere too"):
        find_values(sweep)
    monkeypatch.delenv("MY_LOGIN")
    with pytest.raises(UserError, match=r"LOGIN of demo.yaml or its profile is a secret: set MY_LOGIN and run"):
        find_values(sweep)


def test_they_lie_there_while_a_job_may_need_them(results: Results) -> None:
    waiting, running = (results.add(each, LAPTOP) for each in (experiment(), experiment("e2e", PAIR)))
    values = {"HF_TOKEN": CANARY}
    with running.lock(), handing_over(parse(GOOD, f"ctx.environment.HF_TOKEN={CANARY}"), values, results) as handed:
        handed.hand([waiting.path, running.path])
        assert read_secrets(waiting.path) == read_secrets(running.path) == {"HF_TOKEN": CANARY}
        forget_secrets(waiting.path)
        handed.ended(waiting.path)
        handed.hand([waiting.path])
        assert read_secrets(waiting.path) == {"HF_TOKEN": CANARY}, "tried again"
        assert mask(CANARY) == "***"
        with handing_over(parse(GOOD), {}, results):
            pass
        assert read_secrets(waiting.path) == {}
        assert read_secrets(running.path), "whoever measures there removes it"
    assert mask(CANARY) == CANARY
    with handing_over(parse(GOOD), {}, results) as nothing:
        nothing.hand([waiting.path])
        assert read_secrets(waiting.path) == {}
    assert not list(results.path.rglob("secrets")), "of a controller that was killed, too"


def test_a_sweep_with_another_secret_hands_over_the_new_one(results: Results) -> None:
    folder = results.add(experiment(), LAPTOP)
    write_secrets(folder.path, {"HF_TOKEN": "an older one"})
    Handed({"HF_TOKEN": CANARY}).hand([folder.path])
    assert read_secrets(folder.path) == {"HF_TOKEN": CANARY}


def elsewhere(folder: ExperimentFolder) -> Path:
    """Somebody else's folder where the pickled calls of jobs are to lie."""
    place = folder.path.parent / "theirs"
    place.mkdir()
    (folder.path / "job").symlink_to(place)
    return place


def test_no_call_is_pickled_where_others_can_write(results: Results) -> None:
    folder = results.add(experiment(), LAPTOP)
    place = elsewhere(folder)
    with pytest.raises(ResultsError, match=r"job is a link; move it away and run the same command again"):
        start_here([folder], "local")
    with pytest.raises(ResultsError, match="is a link"):
        Membership(folder, "ratematch-pack-1").cancel()
    assert list(place.iterdir()) == []


class Planted:
    """A job of submitit's whose result somebody else has written."""

    def done(self) -> bool:
        return True

    def result(self) -> object:
        raise AssertionError("was unpickled")


def test_no_result_is_unpickled_where_others_could_have_written(results: Results) -> None:
    folder = results.add(experiment(), LAPTOP)
    for mode in (0o770, 0o702, 0o755):
        (folder.path / "job").mkdir(exist_ok=True)
        (folder.path / "job").chmod(mode)
        failure = LocalJob(folder, Planted()).failure()  # type: ignore[arg-type]
        assert failure is not None and "ended without a word" in str(failure)


def test_a_folder_of_an_earlier_version_is_made_private(results: Results) -> None:
    folder = results.add(replace(experiment()), LAPTOP)
    (folder.path / "job").mkdir()
    (folder.path / "job").chmod(0o755)
    Membership(folder, "ratematch-pack-1").end(0)
    assert (folder.path / "job").stat().st_mode & 0o777 == 0o700
