"""The documentation as a site: built without a warning, every page in it, nothing fetched from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """``make site`` of the repository at ``root``, into ``site``. With ``--quiet`` warnings would not count."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("outside_pages", ROOT / "docs" / "outside_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(page: Path) -> list[str]:
    return re.findall(r'(?:href|src)="([^"]*)"', page.read_text("utf-8"))


def test_every_page_of_the_documentation_is_in_the_site(site: Path) -> None:
    built = {str(page.parent.relative_to(site)) for page in site.rglob("index.html")}
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    outside = {
        "overview",
        "CONTRIBUTING",
        "SECURITY",
        "CHANGELOG",
        "sweeps",
        "slurm",
        "results",
        "benchmarks",
        "ratematch/emulator",
    }
    assert built == {".", *pages, *outside}


def test_every_link_leads_to_a_file_of_the_site_or_away_on_purpose(site: Path) -> None:
    wrong = []
    for page in sorted(site.rglob("index.html")):
        for link in links(page):
            parts = urlsplit(link)
            if parts.scheme in ("http", "https") or not parts.path:
                continue
            path = posixpath.normpath(page.parent.relative_to(site).as_posix() + "/" + unquote(parts.path))
            target = site / path / "index.html" if (site / path).is_dir() else site / path
            if path.startswith("..") or not target.is_file():
                wrong.append(f"{page.relative_to(site)}: {link}")
            elif parts.fragment and f'id="{parts.fragment}"' not in target.read_text("utf-8"):
                wrong.append(f"{page.relative_to(site)}: {link}: no such heading")
    assert not wrong


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loads = re.compile(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//|<link[^>]*href="(?:https?:)?//')
    assert [page for page in site.rglob("*.html") if loads.search(page.read_text("utf-8"))] == []
    assert [
        sheet for sheet in site.rglob("*.css") if re.search(r"url\([\"']?https?:|@import", sheet.read_text())
    ] == []


def test_pages_outside_docs_are_linked_as_pages(site: Path) -> None:
    assert "../sweeps/#stages" in links(site / "search" / "index.html")
    assert "../../simulation/" in links(site / "ratematch" / "emulator" / "index.html")
    assert "../first-front/" in links(site / "overview" / "index.html")


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    shutil.copytree(ROOT / "docs", root / "docs")
    for name in ("mkdocs.yml", *hook().outside_files()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    page = root / "sweeps" / "README.md"
    page.write_text(page.read_text("utf-8") + "\n[gone](../docs/gone.md) and [no heading](../docs/search.md#gone)\n")
    done = build(root, tmp_path / "site")
    assert done.returncode != 0
    assert "'../docs/gone.md'" in done.stderr and "#gone" in done.stderr


def test_lists_begin_where_other_readers_of_markdown_see_one() -> None:
    text = "Words:\n* one\n  more\n* two\n\n| a |\n|---|\n```\n* code\n```\n1. not\n"
    assert "\n".join(hook().spaced(iter(text.splitlines()))) == (
        "Words:\n\n* one\n  more\n* two\n\n| a |\n|---|\n```\n* code\n```\n\n1. not"
    )
