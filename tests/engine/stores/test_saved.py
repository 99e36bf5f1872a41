"""Models saved by a backtest: what the folder holds, and which pipeline may begin with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from river import linear_model, preprocessing, tree
from test_rerun import race, raced, stream

from engine.machines.learner import Learner
from engine.stores.saved import save, started_from
from operators import field
from operators.models.artefacts import allow_for, load
from operators.models.digest import digest
from operators.race.candidates import Artefact, Candidate
from topics.errors import DefinitionError, SettingsError

KEY = b"a key of these tests alone"


@pytest.fixture(scope="module")
def learned() -> Learner:
    return raced(race(), *stream(300)).run.learner


def test_saved_models_are_those_of_the_end_signed(learned: Learner, tmp_path: Path) -> None:
    saved = save(race(), learned, tmp_path / "new" / "folder", KEY)
    about = json.loads((tmp_path / "new" / "folder" / "saved.json").read_bytes())
    assert about["champion"] == saved.champion == learned.roster.champion
    assert about["examples"] == learned.examples
    for name, model in saved.models.items():
        racer = learned.roster.racers[name]
        data = (tmp_path / "new" / "folder" / model.file).read_bytes()
        loaded, meta = load(data, key=KEY, allowed=allow_for([racer.model]))
        assert digest(loaded) == digest(racer.model) == model.digest == meta["digest"]
        assert (model.updates, model.version) == (racer.updates, racer.version)


def test_a_pipeline_begins_with_what_was_saved(learned: Learner, tmp_path: Path) -> None:
    save(race(), learned, tmp_path, KEY)
    begun = started_from(race(champion="linear"), tmp_path)
    assert begun.champion == "linear", "who serves first is as the file says"
    assert started_from(race(champion=None), tmp_path).candidates["blend"].start == "fresh"
    files = {name: candidate.start for name, candidate in begun.candidates.items()}
    assert files == {
        "tree": Artefact(str(tmp_path / "0-tree.model")),
        "linear": Artefact(str(tmp_path / "1-linear.model")),
    }


def test_what_the_file_starts_otherwise_stays(learned: Learner, tmp_path: Path) -> None:
    save(race(), learned, tmp_path, KEY)
    models = race().estimators
    more = {
        "tree": Candidate(models["tree"], start="log"),
        "linear": Candidate(models["linear"], learn="never"),
        "new": linear_model.Perceptron(),
    }
    begun = started_from(race(models=more), tmp_path).candidates
    assert (begun["tree"].start, begun["new"].start) == ("log", "fresh")
    assert (begun["linear"].start, begun["linear"].learn) == (
        Artefact(str(tmp_path / "1-linear.model")),
        "never",
    )


def test_a_model_in_quarantine_is_not_saved(tmp_path: Path) -> None:
    learner = raced(race(), *stream(60)).run.learner
    learner.learning.quarantine("linear", "it raised", 0)
    assert set(save(race(), learner, tmp_path, KEY).models) == {"tree"}


def test_another_question_or_another_model_is_refused(learned: Learner, tmp_path: Path) -> None:
    save(race(), learned, tmp_path, KEY)
    other = {"tree": tree.HoeffdingTreeClassifier(grace_period=41), "linear": race().estimators["linear"]}
    with pytest.raises(DefinitionError, match=r"`tree` of .* has other parameters"):
        started_from(race(models=other), tmp_path)
    with pytest.raises(DefinitionError, match="learned another version of all features"):
        started_from(replace(race(), features={"a": field("a").log()}), tmp_path)
    regressor = {"linear": preprocessing.StandardScaler() | linear_model.LinearRegression()}
    with pytest.raises(DefinitionError, match="learned another task: binary"):
        started_from(race(models=regressor, champion="linear"), tmp_path)


@pytest.mark.parametrize("text", [None, b"", b"{}", b'{"pipeline": 1}'])
def test_what_is_no_such_folder_is_named(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "saved.json").write_bytes(text)
    with pytest.raises(SettingsError, match=r"saved\.json"):
        started_from(race(), tmp_path)
