"""What a leader writes of candidates: who still waits, who cannot be stored, whose class is nowhere."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from fields import Source
from river import naive_bayes, tree

from engine.definition.file import load_pipeline
from engine.machines.beside.warm_up import WarmUp
from engine.machines.field_records import Brought
from engine.machines.learner import Learner
from engine.stores.artefacts import ArtefactFiles
from engine.worker.entry import Entries
from engine.worker.model_factory import ModelFactory
from operators.models.signing import SigningKeys
from operators.race.candidates import Candidate
from operators.race.evidence import Promotion
from operators.race.field import RaceField
from topics import headers
from topics.codec import decode_field, encode
from topics.errors import ModelError
from topics.messages import Claim, Example, FieldChange, Outgoing, Record

ONLY = RaceField.of({"tree": tree.HoeffdingTreeClassifier()}, champion="tree")
WARMING = RaceField.of(
    {"tree": tree.HoeffdingTreeClassifier(), "bayes": Candidate(naive_bayes.GaussianNB(), start="log")},
    champion="tree",
)
RETUNED = replace(WARMING, promotion=Promotion(min_examples=500))
BEGINS_AFRESH = RaceField.of({**WARMING.candidates, "bayes": naive_bayes.GaussianNB()}, champion="tree")
FIELDS = (ONLY, WARMING, RETUNED, BEGINS_AFRESH)
REASON = "ArithmeticError: no, at the lesson of offset 1"


class Factory(Source):
    """Stores fields, and no model: each is too large."""

    def packed(self, field: RaceField) -> bytes:
        return field.field_id.encode()

    def brought(self, *_: object) -> list[tuple[str, Brought]]:
        return []

    def stored(self, *_: object) -> tuple[str, bytes]:
        raise ModelError("the model is too large")


def raced(*changes: FieldChange) -> Learner:
    """A learner of the first field that has learned one example, and then folded changes."""
    found = Learner(pipeline="p", task="binary", field=ONLY, source=Source(fields=FIELDS))
    example = Example(
        "e", "k", 0, 5, True, {"a": 1.0}, {"tree": 0.5}, 0.5, "champion", "tree", 0, 0, -1, 1, 0
    )
    messages = (
        (Claim(0, 1), headers.CLAIM),
        (FieldChange(ONLY.field_id, 0), headers.FIELD),
        (example, headers.EXAMPLE),
        *((change, headers.FIELD) for change in changes),
    )
    found.fold(
        [
            Record("p.examples", 0, offset, 0, b"k", encode(message), kind)
            for offset, (message, kind) in enumerate(messages)
        ]
    )
    assert found.examples == 1
    return found


def entries(folder: Path, own: RaceField, learner: Learner) -> Entries:
    return Entries("p", own, cast("ModelFactory", Factory()), ArtefactFiles(folder, "p"), lambda: learner)


def said(record: Outgoing | None) -> FieldChange:
    assert record is not None
    return decode_field(record.value or b"")


OWN = """
from msgspec import Struct
from river import naive_bayes

from headrace import Labels, Pipeline, Topic, field


class Row(Struct):
    event_id: str
    event_time: int
    key: str
    a: float


class Own(naive_bayes.GaussianNB):
    pass


pipeline = Pipeline(
    name="p",
    events=Topic("p.events", Row, key="key"),
    labels=Labels("p.labels", wait="1h"),
    features={"a": field("a")},
    models={"bayes": Own()},
    champion="bayes",
)
"""


def test_a_class_that_only_the_other_file_has_is_named(tmp_path: Path) -> None:
    files = tmp_path / "new.py", tmp_path / "old.py"
    for file, text in zip(files, (OWN, OWN.replace("Own", "Other")), strict=True):
        file.write_text(text)
    keys, stored = SigningKeys({"": b"k" * 32}), ArtefactFiles(tmp_path, "p")
    new = load_pipeline(files[0])
    stored.put(new.field.field_id, ModelFactory(new, keys=keys).packed(new.field))
    old = ModelFactory(load_pipeline(files[1]), keys=keys, stored=stored)
    with pytest.raises(ModelError, match="Can't get attribute 'Own'") as error:
        old.field(new.field.field_id)
    assert "each file needs classes of your own" in str(error.value)


WAITS = FieldChange(WARMING.field_id, 0, ONLY.field_id, waiting=("bayes",))


def test_a_file_that_changes_something_else_lets_nobody_in_who_is_learning_the_log(tmp_path: Path) -> None:
    due = said(entries(tmp_path, RETUNED, raced(WAITS)).due())
    assert (due.waiting, due.entering) == (("bayes",), ())


def test_who_was_refused_is_left_out_of_a_file_that_says_the_same_of_it(tmp_path: Path) -> None:
    refused = FieldChange(WARMING.field_id, 0, WARMING.field_id, refused={"bayes": REASON})
    due = said(entries(tmp_path, RETUNED, raced(WAITS, refused)).due())
    assert (due.waiting, due.entering) == ((), ())
    (entrant,) = said(entries(tmp_path, BEGINS_AFRESH, raced(WAITS, refused)).due()).entering
    assert (entrant.name, entrant.start) == ("bayes", "fresh")


def test_one_that_cannot_be_stored_is_refused_and_the_service_goes_on(tmp_path: Path) -> None:
    async def scenario() -> FieldChange:
        found = entries(tmp_path, WARMING, raced(WAITS))
        found._enter(WARMING, WARMING.field_id, WarmUp({"bayes": naive_bayes.GaussianNB()}, {"bayes": -1}))
        return said(found.ready.get_nowait())

    asked = asyncio.run(scenario())
    assert asked.refused == {"bayes": "the model is too large"}
    learner = raced(WAITS, asked)
    assert (learner.fields.waiting, learner.fields.refused) == ((), ("bayes",))
