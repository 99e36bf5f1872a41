"""An alarm that pauses: learning and swaps stop behind the example that raised it, however it is read."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from msgspec import Struct
from river import drift, linear_model, tree

from engine import Drift, Labels, Pipeline, Promotion, Topic
from engine.machines.learner import Learner
from engine.worker.assembly import build_learner
from operators import field
from operators.models.parameters import model_text
from operators.models.signing import SigningKeys
from topics import headers
from topics.codec import encode
from topics.errors import DefinitionError
from topics.messages import Claim, Command, Decision, Example, Record

KEYS = SigningKeys({"": b"k" * 32})
ROWS, FROM, TO = 4_000, 1_500, 2_800
HOSTILE = 0.5
"""Share of the labels in between that somebody turns round."""


class Row(Struct):
    event_id: str
    event_time: int
    key: str
    a: float
    b: float


def pipeline(then: Any, **labels: Any) -> Pipeline:
    return Pipeline(
        name="p",
        events=Topic("p.events", Row, key="key"),
        labels=Labels("p.labels", wait="1d") if not labels else Labels(**labels),
        features={"a": field("a"), "b": field("b")},
        models={"linear": linear_model.LogisticRegression(), "tree": tree.HoeffdingTreeClassifier()},
        champion="linear",
        drift=[Drift(drift.ADWIN(), on="loss", then=then)],
        promotion=Promotion(false_swap_every=1_000, evidence_block=16, min_examples=64, cooldown=64),
    )


def rows(seed: int = 1) -> list[tuple[dict[str, float], bool, bool]]:
    """Features, the truth, and the label that is told."""
    draw, made = random.Random(seed), []
    for n in range(ROWS):
        a, b = draw.gauss(0, 1), draw.gauss(0, 1)
        truth = a + b > 0
        lie = FROM <= n < TO and draw.random() < HOSTILE
        made.append(({"a": a, "b": b}, truth, truth != lie))
    return made


class Race:
    """A learner that answers each row with what it has learned by then, and learns the label that is told."""

    def __init__(self, then: Any) -> None:
        self.learner: Learner = build_learner(pipeline(then), keys=KEYS)
        self.log: list[Record] = []
        self.decisions: list[Decision] = []
        self.right: list[bool] = []

    def write(self, value: Any, header: headers.Headers) -> None:
        self.log.append(Record("p.examples", 0, len(self.log), 0, None, encode(value), header))

    def run(self) -> None:
        self.write(Claim(0, 1), headers.CLAIM)
        self.learner.fold(self.log)
        for n, (features, truth, told) in enumerate(rows()):
            racers = self.learner.roster.racers
            scores = {
                name: racer.model.predict_proba_one(features).get(True, 0.5) for name, racer in racers.items()
            }
            served = scores[self.learner.roster.champion]
            self.right.append((served > 0.5) == truth)
            self.write(
                Example(
                    event_id=str(n),
                    key="k",
                    event_time=n,
                    label_time=n,
                    label=told,
                    features=features,
                    scores=scores,
                    served_score=served,
                    claim=1,
                    sequence=n,
                    source_partition=0,
                    event_offset=n,
                    label_offset=n,
                    served_by="champion",
                    model_name=self.learner.roster.champion,
                    model_version=1,
                ),
                headers.EXAMPLE,
            )
            self.decisions += self.learner.fold(self.log[-1:])

    def share_right(self, begin: int, end: int) -> float:
        return sum(self.right[begin:end]) / (end - begin)


@pytest.fixture(scope="module")
def told() -> Race:
    race = Race("tell")
    race.run()
    return race


@pytest.fixture(scope="module")
def paused() -> Race:
    race = Race("pause")
    race.run()
    return race


def test_poisoned_labels_teach_nothing_behind_the_alarm(told: Race, paused: Race) -> None:
    types = [one.type for one in paused.decisions]
    (alarm,) = (one for one in paused.decisions if one.type == "learning.paused")
    assert FROM < alarm.offset < FROM + 300, "it takes some lies to be seen"
    assert alarm.reason == "ADWIN on loss"
    assert types[: types.index("learning.paused")][-1] == "drift.detected"
    behind = {one.type for one in paused.decisions if one.offset > alarm.offset}
    assert behind == {"learning.backlog"}, "no swap, and nobody starts"
    before, during = (FROM - 500, FROM), (FROM + 300, TO)
    assert paused.share_right(*during) > paused.share_right(*before) - 0.03
    assert paused.share_right(*during) > told.share_right(*during) + 0.02


@pytest.mark.parametrize("batch", [7, 512, ROWS + 1])
def test_a_replay_is_paused_at_the_same_example(batch: int, paused: Race) -> None:
    learner, decisions = build_learner(pipeline("pause"), keys=KEYS), []
    for at in range(0, ROWS + 1, batch):
        decisions += learner.fold(paused.log[at : at + batch])
    assert decisions == paused.decisions
    assert learner.digests() == paused.learner.digests()
    assert learner.paused
    assert learner.position < ROWS + 1 == learner.reading


def test_a_resume_learns_on_and_skips_nothing(paused: Race) -> None:
    learner, decisions = build_learner(pipeline("pause"), keys=KEYS), []
    log = list(paused.log)
    resumes = 0
    while learner.examples < ROWS:
        start = learner.reading
        decisions += learner.fold(log[start:])
        if learner.paused and learner.reading == len(log):
            resumes += 1
            command = encode(Command(f"r{resumes}", "resume", resumes))
            log.append(Record("p.examples", 0, len(log), 0, None, command, headers.COMMAND))
    pauses = [one for one in decisions if one.type == "learning.paused"]
    assert len(pauses) == resumes >= 1
    plain = build_learner(pipeline("tell"), keys=KEYS)
    plain.fold(paused.log)
    assert learner.digests().items() <= plain.digests().items(), "which has started a challenger besides"


def test_who_pauses_nothing_is_the_field_that_it_was() -> None:
    assert "then" not in model_text(Drift(drift.ADWIN()))
    assert "then='pause'" in model_text(Drift(drift.ADWIN(), then="pause"))


def test_what_cannot_pause_is_refused() -> None:
    with pytest.raises(DefinitionError, match="cannot `stop`"):
        Drift(drift.ADWIN(), then="stop")  # type: ignore[arg-type]

    class Inside(Row):
        hot: bool

    with pytest.raises(DefinitionError, match="while they are answered"):
        Pipeline(
            name="p",
            events=Topic("p.events", Inside, key="key"),
            labels=Labels(field="hot"),
            features={"a": field("a")},
            models={"linear": linear_model.LogisticRegression()},
            drift=[Drift(drift.ADWIN(), then="pause")],
        )
    with pytest.raises(DefinitionError, match='then="pause" of a drift is not offered with per='):
        replace(pipeline("pause"), per="key")
