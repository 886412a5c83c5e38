"""What only its owner may read, and secrets masked in all that is written."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from ratematch.errors import ResultsError
from ratematch.store import layout, masking
from ratematch.store.files import to_text, write_json, write_lines
from ratematch.store.private import (
    forget_secrets,
    make_private,
    read_secrets,
    why_not_private,
    write_secrets,
)

CANARY = "hf_canary4711"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_secrets_are_0600_in_0700_and_gone_when_they_are_forgotten(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_secrets(tmp_path / "experiment", {"HF_TOKEN": CANARY})
    finally:
        os.umask(before)
    folder = tmp_path / "experiment" / layout.SECRETS
    assert mode(folder) == 0o700 and [mode(file) for file in folder.iterdir()] == [0o600]
    assert read_secrets(tmp_path / "experiment") == {"HF_TOKEN": CANARY}
    forget_secrets(tmp_path / "experiment")
    assert not folder.exists() and read_secrets(tmp_path / "experiment") == {}
    forget_secrets(tmp_path / "experiment")


def test_what_others_could_have_written_is_not_read(tmp_path: Path) -> None:
    write_secrets(tmp_path, {"HF_TOKEN": CANARY})
    file = tmp_path / layout.SECRETS / layout.ENVIRONMENT
    file.chmod(0o660)
    with pytest.raises(ResultsError, match=r"is open to others \(mode 0660\): it is not read"):
        read_secrets(tmp_path)
    file.chmod(0o600)
    file.parent.chmod(0o770)
    with pytest.raises(ResultsError, match=r"is open to others \(mode 0770\)"):
        read_secrets(tmp_path)
    file.parent.chmod(0o700)
    file.write_text("[1")
    with pytest.raises(ResultsError, match="cannot be read") as caught:
        read_secrets(tmp_path)
    assert "[1" not in str(caught.value)
    file.unlink()
    file.symlink_to("/etc/hostname")
    with pytest.raises(ResultsError, match="is a link"):
        read_secrets(tmp_path)


def test_a_folder_of_jobs_is_made_ours_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mode(make_private(tmp_path / "a" / "job")) == 0o700
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o775)
    assert mode(make_private(tmp_path / "old")) == 0o700 and why_not_private(tmp_path / "old") is None
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResultsError, match="link is a link; move it away"):
        make_private(tmp_path / "link")
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(ResultsError, match="belongs to another user"):
        make_private(tmp_path / "old")


def test_texts_of_json_are_masked_and_numbers_are_not(tmp_path: Path) -> None:
    content = {"error": f"no access with {CANARY}", "deep": [{CANARY: 47114711}], "n": 47114711}
    with masking.masking([CANARY, "47114711"]):
        write_json(tmp_path / "a.json", content)
        write_lines(tmp_path / "b.jsonl", [content])
        assert masking.mask(f"<{CANARY}>") == "<***>"
        with masking.masking(["more secrets"]):
            assert masking.mask(f"more secrets than {CANARY}") == "*** than ***"
        with masking.not_inherited():
            assert masking.VARIABLE not in os.environ
        assert masking.VARIABLE in os.environ
    masked = {"error": "no access with ***", "deep": [{"***": 47114711}], "n": 47114711}
    assert json.loads((tmp_path / "a.json").read_text()) == masked
    assert json.loads((tmp_path / "b.jsonl").read_text()) == masked
    assert CANARY in to_text(content) and masking.VARIABLE not in os.environ
