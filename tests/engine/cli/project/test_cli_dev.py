"""`headrace dev`, as a user starts it: saved files are reloaded, bad ones told, Ctrl-C ends everything."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 120.0
SOURCE = """
    from msgspec import Struct
    from river import linear_model, tree

    from headrace import Labels, Pipeline, Topic, by, field

    class Event(Struct):
        event_id: str
        event_time: int
        value: float
        label: bool

    pipeline = Pipeline(
        name="tried",
        events=Topic("tried.events", Event, key="event_id"),
        labels=Labels(field="label"),
        features={"value": field("value"), "count": by().count("1m")},
        models={"linear": linear_model.LogisticRegression()},
        champion="linear",
    )
"""
MORE = SOURCE.replace(
    "LogisticRegression()}", 'LogisticRegression(), "tree": tree.HoeffdingTreeClassifier()}'
)


class Dev:
    """A running `headrace dev`, and what it has told."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.file = folder / "pipeline.py"
        self.told: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "dev", str(self.file), "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def save(self, source: str) -> None:
        """As editors do: a new file in the place of the old one."""
        new = self.file.with_suffix(".new")
        new.write_text(textwrap.dedent(source))
        new.replace(self.file)

    def until(self, kind: str, **facts: object) -> dict[str, Any]:
        """The next thing told of this kind, with these facts."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            one = self._queue.get(timeout=max(0.1, deadline - time.monotonic()))
            if one is None:
                assert self.process.stderr is not None
                pytest.fail(f"it ended: {self.told} {self.process.stderr.read()}")
            self.told.append(one)
            if one["kind"] == kind and all(one[name] == value for name, value in facts.items()):
                return one

    def close(self) -> None:
        self._reader.join(DEADLINE_S)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.py").write_text(textwrap.dedent(SOURCE))
    rows = [
        {"event_id": f"e{n}", "event_time": 1_700_000_000_000 + 1_000 * n, "value": n % 7, "label": n % 7 > 3}
        for n in range(600)
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def dev(folder: Path) -> Iterator[Dev]:
    started = Dev(folder, "--data", "events.jsonl", "--rate", "60")
    yield started
    if started.process.poll() is None:
        started.interrupt()
    started.close()


def children_of(pid: int) -> set[int]:
    """The processes that one has started, where the system says so."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found}


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "(" in Path(f"/proc/{pid}/stat").read_text() and ") Z" not in Path(f"/proc/{pid}/stat").read_text()


def status_of(file: Path, servers: str) -> tuple[int, Any]:
    command = [
        sys.executable,
        "-m",
        "headrace",
        "status",
        str(file),
        "--json",
        "--bootstrap-servers",
        servers,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_saved_file_is_reloaded_into_the_race_and_a_bad_one_is_told(dev: Dev) -> None:
    servers = dev.until("broker")["servers"]
    page = dev.until("started")["page"]
    with urllib.request.urlopen(page, timeout=DEADLINE_S) as answer:
        assert b"<html" in answer.read().lower()
    dev.until("figures")
    code, told = status_of(dev.file, servers)
    assert (code, told["healthy"], told["totals"]["ready"]) == (0, True, 1), told
    assert [worker["champion"] for worker in told["workers"]] == ["linear"]

    dev.save(SOURCE.replace('field("value")', 'field("valeu")'))
    assert "valeu" in dev.until("refused")["reason"]
    with urllib.request.urlopen(f"{page}readyz", timeout=DEADLINE_S) as answer:
        assert answer.status == 200  # the one before it runs on

    dev.save(MORE)
    assert dev.until("reloaded")["page"] == page
    dev.until("decision", type="candidate.entered", model="tree")

    dev.save(MORE.replace("event_id: str", "event_id: int"))  # sound by itself, and not for this race
    assert "another definition" in dev.until("died")["log"]
    assert dev.until("goes")["page"] == page
    with urllib.request.urlopen(f"{page}metrics", timeout=DEADLINE_S) as answer:
        assert 'model="tree"' in answer.read().decode()
    assert [one["said"] for one in dev.told if one["kind"] == "sent"] == [
        "sent 600 events and 0 labels, by time"
    ]

    started = children_of(dev.process.pid)
    assert len(started) >= 2  # broker and worker
    assert dev.interrupt() == 0
    assert not [pid for pid in started if runs(pid)]


def test_a_file_that_does_not_run_is_no_start(folder: Path) -> None:
    (folder / "pipeline.py").write_text("x = 1\n")
    command = [sys.executable, "-m", "headrace", "dev", "pipeline.py"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 2
    assert "has no `pipeline`" in done.stderr
