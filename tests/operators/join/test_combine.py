"""Several labels of one event, against a scan of all that ever came: values, bounds, repeats, restarts."""

from __future__ import annotations

import statistics
from collections import defaultdict
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Trust
from engine.definition.streams import Labels
from operators.join.combine import Combine, LabelPolicy, combinable, combined
from operators.join.join import Join, Joined
from operators.join.pending import Waiting
from topics.errors import DefinitionError
from topics.messages import Label

WAIT_MS = 30
LABELS_MAX = 4


class Step(NamedTuple):
    """An event (`who` is None) or a label of an earlier or later event, and what happens after it."""

    who: int | None
    time: int
    value: float
    after: str


steps = st.lists(
    st.builds(
        Step,
        st.one_of(st.none(), st.integers(0, 12)),
        st.integers(0, 40),
        st.sampled_from([0.0, 1.0, 2.5, -3.0, 0.1]),
        st.sampled_from(["", "", "", "snapshot", "delta", "prepare"]),
    ),
    max_size=60,
)


def oracle(combine: Combine, came: list[Label]) -> float:
    """The definition of each combination, word for word."""
    values = [float(one.label) for one in came]
    match combine:
        case "first":
            return values[0]
        case "last":
            newest = max(one.label_time for one in came)
            return [float(one.label) for one in came if one.label_time == newest][-1]
        case "sum":
            return float(sum(map(Fraction, values)))
        case "mean":
            return float(sum(map(Fraction, values))) / len(values)
        case "median":
            return statistics.median(values)
        case "max" | "min":
            return sorted(values)[-1 if combine == "max" else 0]


class Run:
    """A join, restarted as the steps say, beside a list of everything that has come."""

    def __init__(self, policy: LabelPolicy, implicit: float | None) -> None:
        self.policy, self.implicit = policy, implicit
        self.join = self.fresh()
        self.stored: dict[str, bytes] = {}
        self.now = 0
        self.events: dict[str, int] = {}
        self.gone: set[str] = set()
        self.came: dict[str, list[Label]] = defaultdict(list)
        self.early: dict[str, list[Label]] = defaultdict(list)
        self.emitted: list[tuple[str, float, int, int]] = []
        self.expected: list[tuple[str, float, int, int]] = []

    def fresh(self) -> Join[Waiting]:
        return Join(wait_ms=WAIT_MS, implicit=self.implicit, policy=self.policy)

    def take(self, offset: int, step: Step) -> None:
        if step.who is None:
            self.event(offset, f"e{len(self.events)}", step.time)
        else:
            self.label(Label(f"e{step.who}", step.value, step.time, offset))
        match step.after:
            case "snapshot":
                self.restart(self.join.snapshot())
            case "delta":
                self.stored = self.laid()
                self.restart(self.stored)
            case "prepare":
                self.join.prepare(2)

    def laid(self) -> dict[str, bytes]:
        laid = dict(self.stored)
        for name, data in self.join.delta().items():
            if data is None:
                del laid[name]
            else:
                laid[name] = data
        return laid

    def restart(self, entries: dict[str, bytes]) -> None:
        self.join = self.fresh()
        self.stored = dict(entries)
        self.join.restore(entries)

    def event(self, offset: int, event_id: str, step: int) -> None:
        self.now += step // 4
        self.end(offset)
        self.events[event_id] = self.now
        entry = Waiting(event_id, self.now, offset, ())
        self.join.open(entry)
        outcomes = {met.early.label.offset: met.outcome for met in self.join.meet_early(entry)}
        for label in self.early.pop(event_id, []):
            assert outcomes.pop(label.offset) == self.met(label)
        assert not outcomes

    def end(self, offset: int) -> None:
        """Let the watermark pass what it passes."""
        emitted, unmatched = self.join.expire(self.now, at_offset=offset)
        self.emitted += [self.made(one) for one in emitted]
        ended = sorted(
            (time, int(event_id[1:]), event_id)
            for event_id, time in self.events.items()
            if event_id not in self.gone and time + WAIT_MS < self.now
        )
        for time, _, event_id in ended:
            self.gone.add(event_id)
            due, came = time + WAIT_MS, self.came[event_id]
            if came:
                newest = max(one.offset for one in came)
                self.expected.append((event_id, oracle(self.policy.combine, came), due, newest))
            elif self.implicit is not None:
                self.expected.append((event_id, self.implicit, due, -1))
        over = [
            one for labels in self.early.values() for one in labels if one.label_time + WAIT_MS < self.now
        ]
        assert sorted(one.label.offset for one in unmatched) == sorted(one.offset for one in over)
        for one in over:
            self.early[one.event_id].remove(one)

    @staticmethod
    def made(one: Joined[Waiting]) -> tuple[str, float, int, int]:
        return one.waiting.event_id, float(one.label), one.label_time, one.label_offset

    def label(self, label: Label) -> None:
        outcome, joined = self.join.label(label, key=b"k", value=b"v")
        assert joined is None
        if label.event_id in self.events and label.event_id not in self.gone:
            assert outcome == self.met(label)
            return
        early = self.early[label.event_id]
        if any((one.label, one.label_time) == (label.label, label.label_time) for one in early):
            assert outcome == "duplicate"
        elif len(early) >= LABELS_MAX:
            assert outcome == "crowded"
        else:
            assert outcome == "early"
            early.append(label)

    def met(self, label: Label) -> str:
        came = self.came[label.event_id]
        if label.label_time > self.events[label.event_id] + WAIT_MS:
            return "late"
        if any((one.label, one.label_time) == (label.label, label.label_time) for one in came):
            return "duplicate"
        if len(came) >= LABELS_MAX:
            return "crowded"
        came.append(label)
        return "collected"


@pytest.mark.parametrize("combine", combinable("regression"))
@given(steps, st.sampled_from([None, 0.5]))
def test_one_example_at_the_horizon_of_all_labels_that_came(
    combine: Combine, taken: list[Step], implicit: float | None
) -> None:
    run = Run(LabelPolicy(combine, "uniform", labels_max=LABELS_MAX), implicit)
    for offset, step in enumerate(taken):
        run.take(offset, step)
    run.now += 10 * WAIT_MS
    run.end(len(taken))
    assert run.emitted == run.expected
    assert run.join.pending == 0
    assert not run.laid()


@given(st.permutations([0.1, 0.2, 0.3, 1e16, -1e16, 7.0]))
def test_the_order_of_labels_changes_no_bit_of_what_is_calculated(values: list[float]) -> None:
    labels = [Label("e", value, 10) for value in values]
    assert combined("sum", labels)[0] == 7.6
    assert combined("mean", labels)[0] == 7.6 / 6
    assert combined("median", labels)[0] == 0.25
    assert (combined("max", labels)[0], combined("min", labels)[0]) == (1e16, -1e16)


def test_a_label_has_its_own_weight_and_a_calculated_one_their_mean() -> None:
    labels = [
        Label("e", 1.0, 10, weight=2.0),
        Label("e", 3.0, 30, weight=4.0),
        Label("e", 3.0, 20, weight=6.0),
    ]
    assert [combined(how, labels) for how in combinable("regression")] == [
        (1.0, 2.0),
        (3.0, 4.0),
        (7.0, 4.0),
        (7 / 3, 4.0),
        (3.0, 6.0),
        (1.0, 2.0),
        (3.0, 4.0),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"combine": "most"}, "`combine` of labels is 'most'"),
        ({"learn": "soon"}, "`learn` of labels is 'soon'"),
        ({"labels_per_event_max": 0}, "`labels_per_event_max` of labels is 0"),
        ({"correct": "record", "source": "by", "per_source_max": 5}, "left out for its source"),
        ({"correct": "relearn", "source": "by", "trust": Trust()}, "left out for its source"),
    ],
)
def test_what_is_no_policy_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        Labels("l", wait="1h", **arguments)


def test_an_event_that_carries_its_label_has_one() -> None:
    with pytest.raises(DefinitionError, match="has one, and it is learned at once"):
        Labels(field="label", combine="last")


@pytest.mark.parametrize(("task", "refused"), [("binary", "sum"), ("multiclass", "max")])
def test_what_makes_no_sense_of_a_task_is_refused(task: Any, refused: Any) -> None:
    with pytest.raises(DefinitionError, match=f"the {task} models cannot be combined by '{refused}'"):
        Labels("l", wait="1h", combine=refused).check_task(task)
