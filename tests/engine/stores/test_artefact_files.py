"""Fields and states come back as they were stored, for who has the key; nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
from river import drift, linear_model, metrics, preprocessing, tree

from engine.stores.artefacts import ArtefactFiles, dump_field, load_field
from operators.drift.detectors import Drift
from operators.models.signing import SigningKeys
from operators.race.candidates import Artefact, Candidate, Challenge, Every, Release
from operators.race.evidence import Promotion
from operators.race.field import RaceField
from topics.errors import ModelError

KEYS = SigningKeys({"": b"k" * 32})
FIELD = RaceField.of(
    {
        "tree": Candidate(tree.HoeffdingTreeClassifier(), release=Release(every=64)),
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "old": Candidate(linear_model.Perceptron(), start=Artefact("old.model"), learn="never"),
    },
    champion="tree",
    promotion=Promotion(min_examples=7),
    challenges=(Challenge(Every("1d")),),
    drift=[Drift(drift.ADWIN())],
    metrics=[metrics.Accuracy()],
    threshold=0.3,
)


def test_a_field_comes_back_part_by_part() -> None:
    again = load_field(dump_field(FIELD, KEYS), KEYS, FIELD.field_id)
    assert again.parts() == FIELD.parts()
    assert FIELD.difference(again) == ((), (), {})


def test_another_key_id_or_byte_is_refused() -> None:
    data = dump_field(FIELD, KEYS)
    with pytest.raises(ModelError, match="another field"):
        load_field(data, KEYS, "0" * 32)
    with pytest.raises(ModelError, match="signed with key"):
        load_field(data, SigningKeys({"": b"j" * 32}), FIELD.field_id)
    with pytest.raises(ModelError, match="changed after"):
        load_field(data[:-40] + bytes([data[-40] ^ 1]) + data[-39:], KEYS, FIELD.field_id)


def test_what_was_put_is_there_and_what_was_not_says_so(tmp_path: Path) -> None:
    stored = ArtefactFiles(tmp_path, "p")
    stored.put("a" * 32, b"first")
    stored.put("a" * 32, b"second")  # a name is a digest: what is there stays
    assert stored.get("a" * 32) == b"first"
    assert [path.name for path in stored.directory.iterdir()] == ["a" * 32]
    with pytest.raises(ModelError, match="cannot read artefact"):
        stored.get("b" * 32)
    for name in ("../x", "", "A" * 32):
        with pytest.raises(ModelError, match="no name of an artefact"):
            stored.get(name)
