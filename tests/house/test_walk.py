"""The walk of an event and of a label through the files, in a real worker, on the flights example."""

from __future__ import annotations

import asyncio
import re

import pytest
from paths import CHECKOUT
from walk import Walk, walk_of_event, walk_of_label

EVENT_FILES_MAX, EVENT_LINES_MAX = 19, 975
LABEL_FILES_MAX = 37


@pytest.fixture(scope="module")
def event_walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return asyncio.run(walk_of_event(tmp_path_factory.mktemp("event")))


@pytest.fixture(scope="module")
def label_walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return asyncio.run(walk_of_label(tmp_path_factory.mktemp("label")))


def test_the_walk_of_an_event_fits_one_sitting(event_walk: Walk) -> None:
    table = event_walk.table("one event, from the poll to its prediction's batch")
    print(f"\n{table}")
    assert not event_walk.generated, table
    assert len(event_walk.lines) <= EVENT_FILES_MAX, table
    assert sum(event_walk.lines.values()) <= EVENT_LINES_MAX, table


def test_the_walk_of_a_label_to_a_swap_fits_one_sitting(label_walk: Walk) -> None:
    table = label_walk.table("one label, from the poll to a champion swap")
    print(f"\n{table}")
    assert not label_walk.generated, table
    assert len(label_walk.lines) <= LABEL_FILES_MAX, table


def test_the_readme_tells_the_walk(event_walk: Walk, label_walk: Walk) -> None:
    """Every file of an event's walk in its order and no other, then those that only a label enters."""
    readme = (CHECKOUT / "README.md").read_text()
    _, _, chapter = readme.partition("## How one event walks through the files")
    events, found, labels = chapter.partition("\n## ")[0].partition("Then the label comes")
    assert found
    wanted = list(event_walk.lines), [path for path in label_walk.lines if path not in event_walk.lines]
    for text, paths in zip((events, labels), wanted, strict=True):
        told = re.findall(r"^\d+\. `([\w/]+\.py)`", text, re.MULTILINE)
        assert told == paths, "\n".join(paths)
