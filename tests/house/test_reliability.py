"""docs/reliability.md beside the tests that it names, the waits of the code and the clocks that it reads."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from paths import CHECKOUT

PAGE = (CHECKOUT / "docs" / "reliability.md").read_text()
FAULTS = range(1, 62)
ROW = re.compile(r"^- \*\*F(\d+)\*\* (.*?)(?=^- \*\*F|^#|\Z)", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
WALL_CLOCK = re.compile(r"\btime\.time(?:_ns)?\(|\bdatetime\.(?:now|utcnow)\(")
WALL_CLOCK_READERS = {
    "engine/alerts/alerting.py",
    "engine/alerts/delivery.py",
    "engine/alerts/skewed.py",
    "engine/answering/predict.py",
    "engine/cli/deciding.py",
    "engine/cli/erase.py",
    "engine/cli/offline/backtest.py",
    "engine/cli/watching/status.py",
    "engine/group/exchange.py",
    "engine/kafka/cluster.py",
    "engine/kafka/sink.py",
    "engine/offline/publish.py",
    "engine/page/facts.py",
    "engine/state/snapshots.py",
    "engine/stores/redis_checkpoints.py",
    "engine/worker/claim.py",
    "engine/worker/entry.py",
    "engine/worker/follower.py",
    "engine/worker/loop.py",
    "engine/worker/snapshots.py",
}
"""Each stamps what it writes or shows, or hands the time to a state machine; none waits by it."""


@cache
def found_in(file: str) -> frozenset[str]:
    """Return the tests of a file, whose name no other has."""
    return frozenset(
        node.name
        for path in (CHECKOUT / "tests").rglob(file)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def test_every_fault_has_one_row_in_order() -> None:
    assert [int(number) for number, _ in ROW.findall(PAGE)] == list(FAULTS)


@pytest.mark.parametrize(("number", "text"), ROW.findall(PAGE))
def test_every_fault_is_held_by_a_test_or_says_why_not(number: str, text: str) -> None:
    assert NAMED.search(text) or "Not held:" in text, f"F{number}"


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall(PAGE)
    assert named
    assert not [f"{file}::{name}" for file, name in named if name not in found_in(file)]


def test_wall_clocks_are_read_where_times_are_stamped_and_nowhere_else() -> None:
    rooms = ("topics", "operators", "engine")
    sources = [path for room in rooms for path in (CHECKOUT / room).rglob("*.py")]
    readers = {str(path.relative_to(CHECKOUT)) for path in sources if WALL_CLOCK.search(path.read_text())}
    assert readers <= WALL_CLOCK_READERS
