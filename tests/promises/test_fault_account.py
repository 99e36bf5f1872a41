"""The account of fault runs tells right logs from wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import reading
from fault_runs.account import account, account_labels, account_windows
from fault_runs.schedule import POINTS, schedule
from fault_runs.stream import GRACE_MS, SOURCE, START_MS
from running import write_pipeline

from engine.definition.file import load_pipeline

EVENTS = 6


class Logs(NamedTuple):
    """The four logs of one partition, as aiokafka reads them."""

    events: list[Any]
    labels: list[Any]
    answers: list[Any]
    lessons: list[Any]


def record(offset: int, value: dict[str, Any], kind: str = "") -> Any:
    headers = [("headrace-kind", kind.encode())] if kind else []
    return SimpleNamespace(
        partition=0, offset=offset, value=json.dumps(value).encode(), headers=headers, key=b"s"
    )


def logs() -> Logs:
    """Return what a worker writes of six events of one sensor, a minute apart; the last one is late."""
    claim = {"source_partition": 0, "claim": 1, "nonce": "n"}
    found = Logs([], [], [record(0, claim, "claim")], [record(0, claim, "claim")])
    for number in range(EVENTS):
        late = number == EVENTS - 1
        time = START_MS + (0 if late else number * 60_000)
        at = {"event_id": f"r{number}", "event_time": time}
        found.events.append(record(number, at | {"sensor": "s", "room": "k", "value": float(number)}))
        found.labels.append(record(number, {"event_id": f"r{number}", "label_time": time, "label": True}))
        counted = {"claim": 1, "sequence": number, "source_partition": 0, "event_offset": number}
        features = {
            "value": float(number),
            "n_5m": min(number + 1, 5),
            "mean_1h": number / 2,
            "room_max_20m": float(number),
        }
        answer = {"features": features, "prediction_score": 0.5, "model_name": "tree", "late": late}
        found.answers.append(record(number + 1, at | counted | answer))
        lesson = {"features": features, "served_score": 0.5, "scores": {"tree": 0.5}, "label": True}
        found.lessons.append(
            record(
                number + 1, {"event_id": f"r{number}", "label_offset": number} | counted | lesson, "example"
            )
        )
    return found


def judge(found: Logs, folder: Path) -> None:
    pipeline = load_pipeline(write_pipeline(folder, SOURCE.replace("MORE", ""), name="account"))
    counted = account(found.events, found.answers, found.lessons)
    account_labels(found.labels, counted.lessons)
    assert account_windows(pipeline, found.events, counted.answers, grace_ms=GRACE_MS) == 3 * (EVENTS - 1)


def changed(one: Any, **values: Any) -> None:
    one.value = json.dumps(json.loads(one.value) | values).encode()


def claimed_again(log: list[Any], repeated: Any) -> None:
    """Let a new owner write a record again."""
    kind = dict(repeated.headers).get("headrace-kind", b"").decode()
    log.append(record(20, {"source_partition": 0, "claim": 2, "nonce": "m"}, "claim"))
    log.append(record(21, json.loads(repeated.value) | {"claim": 2, "sequence": 0}, kind))


def test_right_logs_pass(tmp_path: Path) -> None:
    judge(logs(), tmp_path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda found: found.answers.pop(), "missing 1"),
        (lambda found: claimed_again(found.answers, found.answers[2]), "counts 2 times"),
        (lambda found: claimed_again(found.lessons, found.lessons[2]), "counts 2 times"),
        (lambda found: found.lessons.pop(), "missing 1"),
        (lambda found: found.answers.insert(1, found.answers.pop(3)), "missing"),
        (lambda found: changed(found.lessons[2], label=False), "r1: learned"),
        (lambda found: changed(found.lessons[2], served_score=0.25), "r1"),
        (lambda found: changed(found.labels[2], label=False), "r2: learned"),
        (lambda found: changed(found.events[1], value=7.0), "mean_1h of r1"),
        (lambda found: found.events.append(found.events.pop(0)), "r0"),
        (lambda found: changed(found.answers[6], late=False), "late"),
    ],
)
def test_wrong_logs_do_not(tmp_path: Path, spoil: Callable[[Logs], object], says: str) -> None:
    found = logs()
    spoil(found)
    with pytest.raises(AssertionError, match=says):
        judge(found, tmp_path)


def test_the_account_of_a_zombie_needs_the_claim_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it writes after another has claimed counts for nobody who keeps the rule, and twice without it."""
    found = logs()
    late = json.loads(found.answers[2].value) | {"sequence": EVENTS}
    found.answers.append(record(20, {"source_partition": 0, "claim": 2, "nonce": "m"}, "claim"))
    found.answers.append(record(21, late))
    judge(found, tmp_path)
    monkeypatch.setattr(reading.Fold, "_counts", lambda *_: True)
    with pytest.raises(AssertionError, match="counts 2 times"):
        judge(found, tmp_path)


def test_seeds_reach_every_point_by_death_and_by_freezing() -> None:
    faults = [fault for seed in range(1, 51) for fault in schedule(seed, 30).faults]
    assert {fault.kind for fault in faults} == {"kill", "stop", "freeze", "point", "jump"}
    reached = {(fault.point, fault.how) for fault in faults if fault.kind == "point"}
    assert reached == {(point, how) for point in POINTS for how in ("SIGKILL", "SIGSTOP")}
    assert schedule(7, 30) == schedule(7, 30)
