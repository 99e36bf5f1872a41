"""The rooms hold: import direction, banned imports, sizes, the length of the walk."""

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from paths import CHECKOUT

ROOT = CHECKOUT
RANK = {"topics": 0, "operators": 1, "engine": 2, "loadtest": 3, "headrace": 4}
PURE = ("topics", "operators")
BANNED_IN_PURE = {
    "asyncio", "time", "random", "os", "socket", "logging", "pathlib", "threading", "subprocess",
    "faust", "aiokafka", "redis", "structlog", "prometheus_client",
}  # fmt: skip
STATE_MACHINES = (
    "engine/machines/scorer.py",
    "engine/machines/learner.py",
    "engine/machines/intake.py",
    "engine/machines/outbox.py",
    "engine/definition/pipeline.py",
)
SHELL_WALK = {
    "engine/kafka/source.py": {"poll", "_fill", "_take", "_shares"},
    "engine/kafka/log_reader.py": {"records_of"},
    "engine/worker/loop.py": {"_score", "_offer", "_advance"},
    "engine/worker/dispatch.py": {"put", "turn", "answers"},
    "engine/kafka/sink.py": {"send", "_lane", "_pack"},
}
"""What a record passes in the shell; its way through the core is traced."""
WALK_LINES_MAX = 1_600
WALK_FILES_MAX = 17
LINES_MAX = 400
FUNCTION_LINES_MAX = 70


def sources() -> list[Path]:
    return sorted(path for room in RANK for path in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    wrong = {name for name in imported(path) if name in RANK and RANK[name] > RANK[room]}
    assert not wrong, f"{room} must not import {wrong}"


@pytest.mark.parametrize(
    "path",
    [path for path in sources() if path.relative_to(ROOT).parts[0] in PURE]
    + [ROOT / name for name in STATE_MACHINES],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_thinking_files_touch_no_clock_and_no_world(path: Path) -> None:
    assert not imported(path) & BANNED_IN_PURE


def test_no_file_and_no_function_outgrows_its_room() -> None:
    outgrown = []
    for path in sources():
        text = path.read_text()
        if text.count("\n") > LINES_MAX:
            outgrown.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > FUNCTION_LINES_MAX:
                    outgrown.append(f"{path.name}:{node.name}: {lines} lines")
    assert not outgrown


def test_every_file_says_what_lives_there() -> None:
    silent = [str(path) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def function_lines(path: Path, names: set[str]) -> int:
    """Lines of these functions and methods, docstrings included."""
    found = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in names
    ]
    assert {node.name for node in found} == names
    return sum((node.end_lineno or 0) - node.lineno + 1 for node in found)


def test_the_walk_from_kafka_bytes_to_prediction_bytes_fits_one_sitting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from engine.offline.backtest import LocalRun
    from operators import by, columns
    from topics.messages import Record

    class Payment(msgspec.Struct):
        event_id: str
        event_time: int
        card: str
        amount: float

    monkeypatch.setattr(columns, "find_spec", lambda _: None)  # Numba is no part of the walk
    pipeline = Pipeline(
        name="walk",
        events=Topic("walk.events", Payment, key="card"),
        labels=Labels("walk.labels", wait="1h"),
        features={"n": by("card").count("1h"), "mean": by("card").mean("amount", "1h")},
        models={"lr": linear_model.LogisticRegression()},
    )
    run = LocalRun(pipeline)
    value = b'{"event_id": "e", "event_time": 1700000000000, "card": "a", "amount": 2.5}'
    walked: dict[str, set[str]] = {name: set(functions) for name, functions in SHELL_WALK.items()}

    def trace(frame: Any, kind: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        name = frame.f_code.co_name
        ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in RANK
        if kind == "call" and ours and not name.startswith("<"):
            walked.setdefault(str(path.relative_to(ROOT)), set()).add(name)

    sys.setprofile(trace)
    try:
        run.scorer.intake.offer_events([Record("walk.events", 0, 0, None, b"a", value)])
        taken = run.scorer.intake.next_run(events_unread=False, labels_unread=False)
        assert taken is not None
        out = run.scorer.step(taken, 0)
    finally:
        sys.setprofile(None)
    assert [record.target for record in out] == ["predictions"]
    lines = {name: function_lines(ROOT / name, functions) for name, functions in walked.items()}
    assert sum(lines.values()) <= WALK_LINES_MAX, lines
    assert len(lines) <= WALK_FILES_MAX, lines


def test_every_banned_name_can_be_imported() -> None:
    assert {name for name in BANNED_IN_PURE if name in sys.stdlib_module_names} >= {"asyncio", "time", "os"}
    # Once imported, Faust's module has no spec.
    unknown = {
        name for name in BANNED_IN_PURE if name not in sys.modules and not importlib.util.find_spec(name)
    }
    assert not unknown
