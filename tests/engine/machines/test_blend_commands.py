"""Fixed weights change by command, as a new version; a challenger of a blend is one of its base models."""

from __future__ import annotations

import math
from typing import Any

import pytest
from river import linear_model, naive_bayes

from engine import Blend, Pipeline
from engine.machines.learner import Learner
from engine.worker.assembly import build_learner
from operators.models.mixture import Mixture
from operators.models.signing import SigningKeys
from operators.race.arena import Moment
from operators.race.candidates import Challenge, Every
from tests.engine.machines.test_blended import definition
from topics import headers
from topics.codec import encode
from topics.messages import Command, Decision, Record


def mixed() -> Pipeline:
    models = {
        "lr": linear_model.LogisticRegression(),
        "nb": naive_bayes.GaussianNB(),
        "mix": Blend(weights={"lr": 3, "nb": 1}),
        "learned": Blend(),
    }
    return definition("binary", models=models)


def ask(learner: Learner, offset: int, **told: Any) -> list[Decision]:
    command = Command(f"c{offset}", "weights", 0, actor="kim", **told)
    return learner.fold([Record("e", 0, offset, 0, None, encode(command), headers.COMMAND)])


def test_a_command_changes_fixed_weights_as_a_version_of_its_own() -> None:
    learner = build_learner(mixed(), keys=SigningKeys({"": b"k" * 32}))
    state = {name: data for name, data in learner.delta().items() if data is not None}
    (decided,) = ask(learner, 0, model_name="mix", weights={"lr": 1.0, "nb": 1.0})
    assert (decided.type, decided.model_name, decided.model_version, decided.from_version) == (
        "blend.weighed",
        "mix",
        5,
        3,
    )
    assert decided.evidence["lr"] == 1.0
    assert decided.actor == "kim"
    state |= {name: data for name, data in learner.delta().items() if data is not None}
    restored = build_learner(mixed(), keys=SigningKeys({"": b"k" * 32}))
    restored.restore(state)
    for made in (learner, restored):
        mixture = made.roster.racers["mix"].model
        assert isinstance(mixture, Mixture)
        assert mixture.blend({"lr": 0.0, "nb": 1.0}, ("lr", "nb")).score == 0.5
    assert restored.digests() == learner.digests()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"weights": {"lr": 1.0, "nb": 1.0}}, "needs a model_name"),
        ({"model_name": "tree", "weights": {"lr": 1.0}}, "no candidate `tree`"),
        ({"model_name": "lr", "weights": {"lr": 1.0}}, "no blend of fixed weights"),
        ({"model_name": "learned", "weights": {"lr": 1.0, "nb": 1.0}}, "weights are learned"),
        ({"model_name": "mix"}, "a weight for each of: lr, nb"),
        ({"model_name": "mix", "weights": {"lr": 1.0}}, "a weight for each of: lr, nb"),
        ({"model_name": "mix", "weights": {"lr": -1.0, "nb": 1.0}}, "0 or more"),
        ({"model_name": "mix", "weights": {"lr": 0.0, "nb": 0.0}}, "above 0"),
    ],
)
def test_weights_that_cannot_be_are_refused_and_nothing_changes(told: dict[str, Any], said: str) -> None:
    learner = build_learner(mixed(), keys=SigningKeys({"": b"k" * 32}))
    before = learner.digests()
    (decided,) = ask(learner, 0, **told)
    assert decided.type == "command.refused"
    assert said in decided.reason
    assert learner.digests() == before


def test_a_challenger_of_a_blend_is_a_clone_of_its_heaviest_base_model() -> None:
    learner = build_learner(mixed(), keys=SigningKeys({"": b"k" * 32}))
    assert learner.roster.champion == "mix"
    decisions = learner.arena.start(
        Moment(1, 0, 1), Challenge(when=Every(10)), "every 10", lambda _: math.inf
    )
    assert [(d.type, d.model_name) for d in decisions] == [("challenger.started", "lr-5")]
    assert learner.roster.racers["lr-5"].definition == "lr"
