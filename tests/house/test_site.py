"""The documentation as a site: it builds, no link leads nowhere, nothing is fetched from elsewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from paths import CHECKOUT

TAG = re.compile(r"<(a|link|script|img)\b[^>]*?\b(?:href|src)=\"?([^\"\s>]+)")
ELSEWHERE = re.compile(r"^[a-z]+:")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(CHECKOUT / "docs" / "site.py"))


@pytest.fixture(scope="module")
def site(script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    assert script["build"](folder) == 0
    return folder / "site"


def test_every_page_is_there_and_every_link_leads_somewhere(script: dict[str, Any], site: Path) -> None:
    built = sorted(page for page in site.glob("*.html") if page.name != "404.html")
    wanted = {script["place"](path).removesuffix(".md") + ".html" for path in script["pages"]()}
    assert {page.name for page in built} == wanted
    links = {(page, target) for page in built for _, target in TAG.findall(page.read_text())}
    inside = {
        (page, target.split("#")[0].split("?")[0]) for page, target in links if not ELSEWHERE.match(target)
    }
    assert not [(page.name, path) for page, path in inside if path and not (page.parent / path).exists()]


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    fetched = {
        target
        for page in site.glob("*.html")
        for tag, target in TAG.findall(page.read_text())
        if tag != "a" and ELSEWHERE.match(target)
    }
    assert not fetched


def test_a_link_that_leads_nowhere_fails(script: dict[str, Any], tmp_path: Path) -> None:
    pages = tmp_path / "site-pages"
    script["lay_out"](pages)
    (pages / "race.md").write_text("[nowhere](no-such-page.md)")
    (tmp_path / "zensical.toml").write_text(script["configuration"]())
    assert script["built"](tmp_path) != 0
