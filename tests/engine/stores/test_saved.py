"""Models saved by a backtest: what the folder holds, and which pipeline may begin with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from river import linear_model, preprocessing, tree
from test_rerun import race, raced, stream

from engine.machines.learner import Learner
from engine.offline.backtest import LocalRun
from engine.stores.saved import save, started_from
from engine.worker.model_factory import ModelFactory
from operators import field
from operators.models.artefacts import allow_for, load
from operators.models.digest import digest
from operators.models.signing import SigningKeys
from operators.race.blend import Blend
from operators.race.candidates import Artefact, Candidate
from topics.errors import DefinitionError, ModelError, SettingsError

KEYS = SigningKeys({"": b"a key of these tests alone"})


@pytest.fixture(scope="module")
def learned() -> Learner:
    return raced(race(), *stream(300)).run.learner


def test_saved_models_are_those_of_the_end_signed(learned: Learner, tmp_path: Path) -> None:
    saved = save(race(), learned, tmp_path / "new" / "folder", KEYS)
    about = json.loads((tmp_path / "new" / "folder" / "saved.json").read_bytes())
    assert about["champion"] == saved.champion == learned.roster.champion
    assert about["examples"] == learned.examples
    for name, model in saved.models.items():
        racer = learned.roster.racers[name]
        data = (tmp_path / "new" / "folder" / model.file).read_bytes()
        loaded, meta = load(data, keys=KEYS, allowed=allow_for([racer.model]))
        assert digest(loaded) == digest(racer.model) == model.digest == meta["digest"]
        assert (model.updates, model.version) == (racer.updates, racer.version)


def test_a_pipeline_begins_with_what_was_saved(learned: Learner, tmp_path: Path) -> None:
    save(race(), learned, tmp_path, KEYS)
    begun = started_from(race(champion="linear"), tmp_path)
    assert begun.champion == "linear", "who serves first is as the file says"
    assert started_from(race(champion=None), tmp_path).candidates["blend"].start == "fresh"
    files = {name: candidate.start for name, candidate in begun.candidates.items()}
    assert files == {
        "tree": Artefact(str(tmp_path / "0-tree.model")),
        "linear": Artefact(str(tmp_path / "1-linear.model")),
    }


@pytest.mark.parametrize("named", [True, False])
def test_a_blend_goes_on_with_its_weights_digest_for_digest(named: bool, tmp_path: Path) -> None:
    """Those of a challenger that is not saved are shared out among the others."""
    models = race().estimators | {"both": Blend(), "fixed": Blend(weights={"tree": 2, "linear": 1})}
    pipeline = race(models=models, champion="both" if named else None)
    learner = raced(pipeline, *stream(300)).run.learner
    weights = learner.roster.racers["both"].model.weights
    learner.roster.racers["both"].model.weights = {
        **{name: weight * 0.75 for name, weight in weights.items()},
        "tree-7": 0.25,
    }
    saved = save(pipeline, learner, tmp_path, KEYS)
    begun = started_from(pipeline, tmp_path)
    run = LocalRun(begun, source=ModelFactory(begun, keys=KEYS))
    found = run.learner.roster.racers
    assert set(saved.models) == {"tree", "linear", "both", "fixed"}
    assert run.learner.digests() == {name: one.digest for name, one in saved.models.items()}
    assert {name: one.updates for name, one in saved.models.items()} == {
        name: racer.updates for name, racer in found.items()
    }
    assert found["both"].model.weights == pytest.approx(weights)
    assert max(weights.values()) > 0.6
    other = race(models=models | {"both": Blend(eta=1.0)}, champion="tree")
    with pytest.raises(DefinitionError, match=r"`both` of .* has other parameters"):
        started_from(other, tmp_path)
    start = Artefact(str(tmp_path / saved.models["both"].file))
    wrong = race(models=models | {"both": Candidate(Blend(eta=1.0), start=start)}, champion="tree")
    with pytest.raises(ModelError, match=r"candidate `both` is a binary blend of all with eta=1\.0"):
        LocalRun(wrong, source=ModelFactory(wrong, keys=KEYS))


def test_what_the_file_starts_otherwise_stays(learned: Learner, tmp_path: Path) -> None:
    save(race(), learned, tmp_path, KEYS)
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
    assert set(save(race(), learner, tmp_path, KEYS).models) == {"tree"}


def test_another_question_or_another_model_is_refused(learned: Learner, tmp_path: Path) -> None:
    save(race(), learned, tmp_path, KEYS)
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
