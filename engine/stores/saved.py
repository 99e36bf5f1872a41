"""The models of a backtest, saved to start a pipeline with what they have learned.

Lives here: the folder, what it says of itself, and the pipeline that begins with it.  Never here: the form of
a signed model (`operators/models/artefacts.py`), how one enters a race that runs (`engine/machines`).

    saved.json       pipeline, task, features; of each model version, updates, digest, definition; who led
    NAME.model       each model of the definition, and each blend's weights, as they were at the end, signed
                     with the pipeline's key

Models only: windows begin empty, as they do where nothing is saved, and fill as events come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from engine.definition.pipeline import Pipeline
from engine.machines.learner import Learner
from operators.models.artefacts import dump
from operators.models.digest import digest
from operators.models.mixture import Mixture
from operators.models.parameters import model_text
from operators.models.signing import SigningKeys
from operators.race.candidates import Artefact, Candidate
from topics.errors import DefinitionError, SettingsError

__all__ = ["Saved", "SavedModel", "save", "started_from"]

ABOUT = "saved.json"
_FILE = re.compile(r"[^\w.-]")
"""What no name of a file has."""


class SavedModel(msgspec.Struct, frozen=True):
    """One model of the folder."""

    file: str
    version: int
    updates: int
    """Labels that it has learned."""
    digest: str
    definition: str
    """Class and arguments, all the way down."""


class Saved(msgspec.Struct, frozen=True):
    """What a folder holds."""

    pipeline: str
    task: str
    features_version: str
    examples: int
    """Rows learned."""
    champion: str
    """Who led at the end."""
    models: dict[str, SavedModel]


_about: Callable[[bytes], Saved] = msgspec.json.Decoder(Saved).decode


def save(pipeline: Pipeline, learner: Learner, folder: Path, keys: SigningKeys) -> Saved:
    """Write the models of the definition, but for those in quarantine, signed with the first of `keys`.

    A blend's weights are those of the models that are saved with it.

    Raises SettingsError where the folder cannot be written, ModelError for a model that cannot be stored.
    """
    models: dict[str, SavedModel] = {}
    files: dict[str, bytes] = {}
    healthy = [name for name in pipeline.models if learner.roster.healthy(name)]
    for name in healthy:
        racer = learner.roster.racers[name]
        model = _among(healthy, racer.model) if isinstance(racer.model, Mixture) else racer.model
        about = SavedModel(
            file=f"{len(models)}-{_FILE.sub('_', name)}.model",
            version=racer.version,
            updates=racer.updates,
            digest=digest(model),
            definition=model_text(pipeline.candidates[name].model),
        )
        models[name] = about
        meta = {"pipeline": pipeline.name, "name": name, **msgspec.structs.asdict(about)}
        files[about.file] = dump(model, keys=keys, meta=meta)
    saved = Saved(
        pipeline.name,
        pipeline.task,
        pipeline.features_version,
        learner.examples,
        learner.roster.champion,
        models,
    )
    files[ABOUT] = msgspec.json.format(msgspec.json.encode(saved)) + b"\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
    except OSError as error:
        raise SettingsError(f"cannot write {folder}: {error.strerror}", hint="give another folder") from None
    return saved


def _among(names: Sequence[str], blend: Mixture) -> Mixture:
    """Return a blend that weighs no others than these."""
    kept = blend.copy()
    for name in [name for name in kept.weights if name not in names]:
        kept.forget(name)
    return kept


def started_from(pipeline: Pipeline, folder: Path) -> Pipeline:
    """Return the pipeline whose candidates start with what a backtest of it learned.

    Who serves first is as the file says.  A candidate that the file starts in another way, or that was not
    saved, starts as the file says too.  Raises SettingsError for what is
    no such folder, DefinitionError for models of other features, another task or another definition.
    """
    saved = _read(folder)
    _check_answered(pipeline, saved, folder)
    candidates: dict[str, Candidate] = dict(pipeline.candidates)
    for name, about in saved.models.items():
        candidate = candidates.get(name)
        if candidate is None or candidate.start != "fresh":
            continue
        if model_text(candidate.model) != about.definition:
            raise DefinitionError(
                f"model `{name}` of {folder} has other parameters than the pipeline's",
                hint="run the backtest again with this file, or write the model as it was",
            )
        candidates[name] = replace(candidate, start=Artefact(str(folder / about.file)))
    return replace(pipeline, models=candidates)


def _check_answered(pipeline: Pipeline, saved: Saved, folder: Path) -> None:
    """Raise DefinitionError where the models of a folder answer another question than the pipeline's."""
    for what, theirs, ours in (
        ("task", saved.task, pipeline.task),
        ("version of all features", saved.features_version, pipeline.features_version),
    ):
        if theirs != ours:
            raise DefinitionError(
                f"the models of {folder} learned another {what}: {theirs}, this pipeline's is {ours}",
                hint="run the backtest again with this file: headrace backtest PIPELINE.py --save FOLDER ...",
            )


def _read(folder: Path) -> Saved:
    try:
        return _about((folder / ABOUT).read_bytes())
    except OSError as error:
        raise SettingsError(
            f"cannot read {folder / ABOUT}: {error.strerror}",
            hint="make the folder with: headrace backtest PIPELINE.py --save FOLDER ...",
        ) from None
    except msgspec.MsgspecError as error:
        raise SettingsError(
            f"{folder / ABOUT} is not what a backtest saves: {error}", hint="run the backtest again"
        ) from None
