"""The thirty most likely mistakes: what was done, the exit code, where the message says it is, what to do.

`test_mistakes.py` has the same kind of mistakes closer to the code, and more of each.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import errors as kafka_errors
from brokers.ports import fresh, made
from paths import CHECKOUT
from test_mistakes import PIPELINE

from engine.cli.main import main
from engine.kafka.client import broker_error
from engine.settings import KafkaSettings

CHECK = ("check", "p.py")
RUN = ("run", "p.py")
CREATE = ("topics", "create", "p.py")
BACKTEST = ("backtest", "p.py", "--events", "events.jsonl", "--labels", "labels.jsonl")
NOBODY = {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "HEADRACE_KAFKA__CONNECT_DEADLINE_MS": "200"}
ROWS = 12
START_MS = 1_700_000_000_000


class Mistake(NamedTuple):
    """One mistake, and what it is answered with."""

    done: str
    code: int
    place: str
    """What the message says of where it is and what is wrong."""
    fix: str
    command: tuple[str, ...] = CHECK
    wrote: tuple[str, str] = ("", "")
    """A text of the pipeline's file, and what stands in its place."""
    sent: Callable[[dict[str, Any], dict[str, Any]], None] | None = None
    """What is done to each event and its label before they are written to files."""
    settings: dict[str, str] = {}  # noqa: RUF012 - never changed


def seconds(event: dict[str, Any], _: dict[str, Any]) -> None:
    event["event_time"] //= 1_000


def another_id(_: dict[str, Any], label: dict[str, Any]) -> None:
    label["event_id"] += "-x"


def no_size(event: dict[str, Any], _: dict[str, Any]) -> None:
    del event["size"]


def text_size(event: dict[str, Any], _: dict[str, Any]) -> None:
    event["size"] = "large"


def late_label(_: dict[str, Any], label: dict[str, Any]) -> None:
    label["label_time"] += 600_000


def text_label(_: dict[str, Any], label: dict[str, Any]) -> None:
    label["label"] = "fraud"


def target(_: dict[str, Any], label: dict[str, Any]) -> None:
    label["target"] = label.pop("label")


COUNT, SIZE, TOPIC = 'svc.count("1m")', 'field("size")', 'Packet, key="service"'
MODEL, WAIT = '{"lr": linear_model.LogisticRegression()}', ', wait="1m"'
# fmt: off
MISTAKES = [
    # the pipeline's file
    Mistake("a field that the event has not", 2,
        "p.py, line 20: feature 'size': Packet has no field 'sise'", "did you mean 'size'?",
        wrote=(SIZE, 'field("sise")')),
    Mistake("a window that is no duration", 2,
        """p.py, line 18: by("service").count: '1min' is no duration""", 'such as "30s" or "7d"',
        wrote=(COUNT, 'svc.count("1min")')),
    Mistake("a window by a key that the event has not", 2,
        """p.py, line 20: feature 'n': by("srvice")""", "did you mean 'service'",
        wrote=('by("service")', 'by("srvice")')),
    Mistake("the topic's key is no field", 2,
        "p.py, line 20: the key of events: Packet has no field `servce`", "did you mean `service`?",
        wrote=(TOPIC, 'Packet, key="servce"')),
    Mistake("the event's time has another name", 2,
        "p.py, line 20: the time of events: Packet has no field `ts`", "It has: event_id, event_time",
        wrote=(TOPIC, TOPIC + ', time="ts"')),
    Mistake("a mean of text", 2,
        """p.py, line 20: feature 'n': by("service").mean("service", "1m"): Packet.service (str)""",
        "aggregate a number",
        wrote=(COUNT, 'svc.mean("service", "1m")')),
    Mistake("an aggregate without its window", 2,
        "p.py, line 18 does not run: TypeError: Key.mean() missing", "called as mean(of, window)",
        wrote=(COUNT, 'svc.mean("size")')),
    Mistake("an argument misspelt", 2,
        "p.py, line 20 does not run: TypeError: Pipeline.__init__()", "did you mean `features`?",
        wrote=("features=features", "feature=features")),
    Mistake("a River module misspelt", 2,
        "p.py, line 2 does not run: ImportError: cannot import name 'linear_modle'",
        "did you mean `linear_model`?",
        wrote=("import linear_model", "import linear_modle")),
    Mistake("a package that is not installed", 2,
        "p.py, line 1 does not run: ModuleNotFoundError: No module named 'nowhere'",
        f"{sys.executable} -m pip install nowhere",
        wrote=("from msgspec import", "import nowhere\nfrom msgspec import")),
    Mistake("a random model without a seed", 2,
        "p.py, line 20: model `lr` is random without a seed (ARFClassifier.seed)", "seed=42",
        wrote=(MODEL, '{"lr": __import__("river.forest").forest.ARFClassifier()}')),
    Mistake("a class in place of a model", 2,
        "p.py, line 20: model `lr`", "pass an object such as river.linear_model.LogisticRegression()",
        wrote=("LogisticRegression()", "LogisticRegression")),
    Mistake("a champion that is no model", 2,
        "p.py, line 20: champion `tree` is no model", "name one of: lr",
        wrote=(MODEL, MODEL + ', champion="tree"')),
    Mistake("labels that are waited for without end", 2,
        "p.py, line 23: labels of topic mistakes.labels have no `wait`", 'wait="36h"',
        wrote=(WAIT, "")),
    Mistake("events and labels on one topic", 2,
        "p.py, line 20: events and labels would share the topic 'mistakes.packets'", "a topic of its own",
        wrote=("mistakes.labels", "mistakes.packets")),
    Mistake("a file without a pipeline", 2,
        "p.py has no `pipeline`", "pipeline = Pipeline(",
        wrote=("pipeline = Pipeline(", "flow = Pipeline(")),
    Mistake("a path that is none", 2,
        "there is no file other.py", "path of your pipeline's Python file",
        command=("check", "other.py")),
    # events and labels
    Mistake("times in seconds", 1,
        "times of events.jsonl are seconds", "multiply them by 1,000",
        command=BACKTEST, sent=seconds),
    Mistake("labels under ids of their own", 1,
        "an event's is 'e0', a label's 'e0-x'", "Labels(id=...)",
        command=BACKTEST, sent=another_id),
    Mistake("events without a field of their type", 1,
        "events of events.jsonl have no field `size`", "give them a default",
        command=BACKTEST, sent=no_size),
    Mistake("text where a number is declared", 1,
        "Expected `float`, got `str` - at `$.size`", "declare the field as it is sent",
        command=BACKTEST, sent=text_size),
    Mistake("labels later than the wait", 1,
        "`wait` is 1m, but labels take longer", "Labels(..., wait=",
        command=BACKTEST, sent=late_label),
    Mistake("classes for a binary model", 1,
        'the labels are of another: "fraud" (text)', "task='multiclass'",
        command=BACKTEST, sent=text_label),
    Mistake("a label field of another name", 1,
        "labels of labels.jsonl have no field `label`", "Labels(..., id=..., label=..., time=...)",
        command=BACKTEST, sent=target),
    Mistake("the files swapped", 1,
        "the files are swapped", "give --events events.jsonl --labels labels.jsonl",
        command=("backtest", "p.py", "--events", "labels.jsonl", "--labels", "events.jsonl")),
    # the surroundings
    Mistake("no broker at the address", 1,
        "no Kafka answers at 127.0.0.1:1", "HEADRACE_KAFKA__BOOTSTRAP_SERVERS=host:port",
        command=CREATE, settings=NOBODY),
    Mistake("a setting misspelt", 2,
        "HEADRACE_STATEDIR in the environment: no such setting", "did you mean HEADRACE_STATE_DIR?",
        command=RUN, settings={"HEADRACE_STATEDIR": "/state"}),
    Mistake("a setting of another type", 2,
        "checkpoint_interval_ms: Input should be a valid integer",
        "where it is set: HEADRACE_CHECKPOINT_INTERVAL_MS",
        command=RUN, settings={"HEADRACE_CHECKPOINT_INTERVAL_MS": "5s"}),
    Mistake("pages open to everybody", 2,
        "web: host '0.0.0.0' is reached from other machines, and there is no token", "HEADRACE_WEB__HOST",
        command=RUN, settings={"HEADRACE_WEB__HOST": "0.0.0.0"}),
    Mistake("a state directory that cannot be made", 2,
        "the state directory p.py/state cannot be made: Not a directory", "HEADRACE_STATE_DIR",
        command=RUN, settings={"HEADRACE_STATE_DIR": "p.py/state", "HEADRACE_WEB__PORT": "0"}),
]
# fmt: on


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of a user's own, the present one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, mistake: Mistake) -> None:
    """Write the pipeline with the mistake in it, events and labels."""
    right, wrong = mistake.wrote
    assert right in PIPELINE
    (folder / "p.py").write_text(PIPELINE.replace(right, wrong, 1) if right else PIPELINE)
    events, labels = [], []
    for number in range(ROWS):
        at_ms = START_MS + number * 1_000
        event = {"event_id": f"e{number}", "event_time": at_ms, "service": "http", "size": 1.0}
        label = {"event_id": f"e{number}", "label": number % 2 == 0, "label_time": at_ms + 500}
        if mistake.sent is not None:
            mistake.sent(event, label)
        events.append(json.dumps(event) + "\n")
        labels.append(json.dumps(label) + "\n")
    (folder / "events.jsonl").write_text("".join(events))
    (folder / "labels.jsonl").write_text("".join(labels))


def answered(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run a command here; return its exit code and what it said of errors."""
    monkeypatch.setattr(sys, "argv", ["headrace", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one.done)
def test_a_mistake_is_answered_by_its_place_and_its_fix(
    mistake: Mistake, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder, mistake)
    for name, value in mistake.settings.items():
        monkeypatch.setenv(name, value)
    code, said = answered(mistake.command, monkeypatch, capsys)
    problem, found, fix = said.partition("fix: ")
    assert found, said
    assert (code, mistake.place in problem, mistake.fix in fix) == (mistake.code, True, True), said
    assert "Traceback" not in said


def test_there_are_thirty_and_each_is_one_of_its_own() -> None:
    assert len({mistake.done for mistake in MISTAKES}) == len({mistake.place for mistake in MISTAKES}) == 30


def test_without_a_mistake_nothing_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder, Mistake("nothing", 0, "", ""))
    for words in (CHECK, BACKTEST):
        code, said = answered(words, monkeypatch, capsys)
        assert (code, "fix:" in said) == (0, False), said


# -- those that take more than a file ------------------------------------------------------------------


def test_a_topic_that_is_missing(
    tansu: KafkaSettings, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = fresh("missing-topic")
    (folder / "p.py").write_text(PIPELINE.replace("mistakes", name))
    asyncio.run(made(tansu, f"{name}.packets"))
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", tansu.bootstrap_servers)
    code, said = answered(("tail", f"{name}.labels", "--to-end"), monkeypatch, capsys)
    assert (code, "there is no such topic" in said, f"topic {name}.labels" in said) == (1, True, True), said
    assert "fix: check its name, or create it: headrace topics create PIPELINE.py" in said


def test_a_port_that_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder, Mistake("nothing", 0, "", ""))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = answered(("run", "p.py", "--web-port", str(port)), monkeypatch, capsys)
    assert code == 2
    assert f"error: the pages cannot be served on 127.0.0.1:{port}: another process listens there" in said
    assert "fix: set HEADRACE_WEB__PORT" in said


@pytest.mark.parametrize(
    ("refusal", "fix"),
    [
        (kafka_errors.TopicAuthorizationFailedError, "READ or WRITE on the topic"),
        (kafka_errors.GroupAuthorizationFailedError, "READ on the consumer group"),
        (kafka_errors.ClusterAuthorizationFailedError, "IDEMPOTENT_WRITE on the cluster"),
    ],
)
def test_rights_that_a_user_lacks(refusal: type[Exception], fix: str) -> None:
    told = broker_error(refusal("flights"), "reading flights", KafkaSettings())
    assert told.message.startswith("reading flights: ")
    assert fix in told.hint


def test_a_python_that_is_too_old(folder: Path) -> None:
    command = ["make", "-f", str(CHECKOUT / "Makefile"), "PYTHON=false", "VENV=none", "none/bin/uv"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Headrace needs Python 3.11 or newer: make PYTHON=python3.12 demo" in done.stdout
