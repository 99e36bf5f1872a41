"""River's remedies for rare classes, through what a checkpoint does to a model."""

from __future__ import annotations

import pytest
from river import imblearn, linear_model, optim, preprocessing, tree

from operators.models.artefacts import allow_for, dump, load
from operators.models.digest import digest
from operators.models.guards import last_step
from operators.models.probe import check_model
from operators.models.signing import SigningKeys

KEYS = SigningKeys({"": b"k" * 32})
EVEN = {False: 0.5, True: 0.5}


def linear(loss=None):
    return linear_model.LogisticRegression(loss=loss)


REMEDIES = {
    "under": lambda: imblearn.RandomUnderSampler(linear(), EVEN, seed=1),
    "over": lambda: imblearn.RandomOverSampler(linear(), EVEN, seed=1),
    "both": lambda: imblearn.RandomSampler(tree.HoeffdingTreeClassifier(), EVEN, sampling_rate=0.5, seed=1),
    "hard": lambda: imblearn.HardSamplingClassifier(linear(), size=20, p=0.3, seed=1),
    "weighted": lambda: linear(optim.losses.Log(weight_pos=20.0)),
    "focal": lambda: linear(optim.losses.BinaryFocalLoss(gamma=2)),
    "hinge": lambda: linear_model.PAClassifier(C=0.01),
}


def row(n: int) -> tuple[dict[str, float], bool]:
    rare = n % 23 == 0
    return {"a": (n * 37 % 101) / 101 + rare, "b": (n * 53 % 89) / 89}, rare


@pytest.mark.parametrize("name", REMEDIES)
@pytest.mark.parametrize("scaled", [False, True])
def test_it_goes_on_after_a_checkpoint_as_if_nothing_had_been(name, scaled) -> None:
    model = REMEDIES[name]()
    if scaled:
        model = preprocessing.StandardScaler() | model
    check_model(name, model, {"a": float, "b": float}, (), "binary")
    allowed = allow_for([model])
    taught = model.clone()
    for n in range(300):
        x, y = row(n)
        taught.learn_one(x, y)
    again, _ = load(dump(taught, keys=KEYS, meta={}), keys=KEYS, allowed=allowed)
    assert digest(again) == digest(taught)
    for n in range(300, 700):
        for one in (taught, again):
            one.learn_one(*row(n))
    assert digest(again) == digest(taught)
    assert taught.predict_proba_one(row(0)[0]) == again.predict_proba_one(row(0)[0])
    assert type(last_step(again)) is type(last_step(model))
