"""The demo end to end over the embedded broker, with a stand-in worker that behaves well or badly."""

from __future__ import annotations

import io
import itertools
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import CHECKOUT
from rich.console import Console

from loadtest.demo import command as demo
from loadtest.demo import race
from loadtest.demo.command import commands_after
from loadtest.demo.race import FeedPace, Flood, TwoThirds
from loadtest.demo.scenarios import FLIGHTS

STUB = CHECKOUT / "tests" / "loadtest" / "demo" / "stub_worker.py"
EVENTS = 200
ENDLESS = """
import sys
from loadtest.demo import command as demo
from loadtest.demo.race import TwoThirds
demo.worker_command = lambda _: [sys.executable, sys.argv[1], "good"]
sys.exit(demo.run(TwoThirds(200.0)))
"""


KEPT = ENDLESS.replace("TwoThirds(200.0)", "TwoThirds(2000.0), events=100, keep=True")
NARROW = {"PATH": "/usr/bin:/bin"}
"""No `headrace` on the path, as in a shell that has not activated the environment."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(race, "STALL_DEADLINE_S", 2.0)
    monkeypatch.setattr(race, "SCRAPE_S", 0.1)


def run_with(
    behaviour: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    terminal: bool = False,
    pace: Callable[[float], FeedPace] = TwoThirds,
) -> tuple[int, str]:
    monkeypatch.setattr(demo, "worker_command", lambda _: [sys.executable, str(STUB), behaviour])
    out = io.StringIO()
    console = Console(file=out, width=100, height=30, force_terminal=terminal)
    return demo.run(pace(2_000.0), events=EVENTS, console=console), out.getvalue()


@pytest.mark.parametrize(("terminal", "pace"), [(False, TwoThirds), (True, TwoThirds), (False, Flood)])
def test_a_good_worker_gives_one_prediction_per_event_and_exit_0(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, pace: Callable[[float], FeedPace], tmp_path: Path
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    code, text = run_with("good", monkeypatch, terminal=terminal, pace=pace)
    assert code == 0, text
    assert re.search(r"first prediction after \d+\.\d s\s", text)
    assert f"predictions    {EVENTS}, exactly one for each event" in text
    assert f"labels joined  {EVENTS} of {EVENTS}; learned {EVENTS}" in text
    assert "headrace backtest" in text
    assert ("\x1b[" in text) == terminal, "plain lines where stdout is no terminal"
    assert list(tmp_path.iterdir()) == [], "a run that went well leaves nothing behind"


def test_a_record_that_the_claims_rule_drops_is_no_second_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = run_with("retry", monkeypatch)
    assert code == 0, text
    assert f"predictions    {EVENTS}, exactly one for each event" in text
    assert "1 superseded records" in text


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("twice", "1 predictions repeated"),
        ("deaf", "nothing came back for 2 s: 1 events without a prediction"),
        (
            "refuses",
            "dead letters: 1 decode: not to its taste (topic flights.departures partition 0 offset 4)",
        ),
        ("dies", "the worker died with exit code 7"),
    ],
)
def test_a_bad_worker_is_found_out(monkeypatch: pytest.MonkeyPatch, behaviour: str, said: str) -> None:
    code, text = run_with(behaviour, monkeypatch)
    assert code == 1
    assert said in text
    found = re.search(r"^logs: (\S+)/worker.log", text, re.MULTILINE)
    assert found, "the logs stay for the one who has to find out why"
    log = Path(found[1]) / "worker.log"
    assert ("the stub falls over" in log.read_text()) == (behaviour == "dies")


def test_the_commands_it_names_work_as_they_are_printed() -> None:
    """Each is run by a shell with another path, in the folder of the demo, and says something."""
    with subprocess.Popen(
        [sys.executable, "-c", KEPT, str(STUB)], stdout=subprocess.PIPE, text=True, env=os.environ | NARROW
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        said = [line.rstrip() for line in itertools.takewhile(lambda line: "Ctrl-C stops" not in line, lines)]
        named = said[next(n for n, line in enumerate(said) if "in another terminal" in line) + 1 :]
        found = [
            subprocess.run(
                ["bash", "-c", f"set -o pipefail; {line}"],
                check=False,
                capture_output=True,
                env=NARROW,
                timeout=30,
                text=True,
            )
            for line in named
        ]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert [one.returncode for one in found] == [0, 0, 0], [named, found]
    decisions, predictions, scores = (one.stdout for one in found)
    assert "drift.detected" in decisions
    assert "0.25" in predictions
    assert 'headrace_model_score{model="tree"' in scores
    for line in commands_after(FLIGHTS)[:2]:
        words = [word for word in shlex.split(line) if "/" in word]
        assert all(Path(word).exists() for word in words), words


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_demo_stops_all_it_started(stop: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(STUB)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("first prediction"):
                break
        process.send_signal(stop)
        rest = process.stdout.read()
        assert process.wait(30) == 130, rest
    assert "stopped: broker and worker are down" in rest
    ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", "".join(said))]
    assert len(ports) == 2
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
