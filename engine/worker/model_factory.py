"""Where a learner of this process finds models: made, tried and guarded here, or stored.

Lives here: the trial of fresh models and the choice of their guards, the codec of a field, the way to stored
fields and states.  Never here: what a learner or a guard does, files (`engine/stores/artefacts.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.definition.candidates import scoring_models
from engine.definition.pipeline import Pipeline
from engine.machines.field_records import Brought, Codec
from engine.stores.artefacts import Artefacts, dump_field, load_field
from operators.models.artefacts import allow_for, load, model_codec
from operators.models.digest import digest
from operators.models.guards import Copied, FirstLesson, KnownNames, KnownValues
from operators.models.mixture import Mixture
from operators.models.parameters import model_text
from operators.models.probe import ProbeReport, check_model, guarded, probe, samples_for
from operators.models.signing import SigningKeys
from operators.race.blend import Blend
from operators.race.candidates import Artefact
from operators.race.evaluation import default_metrics
from operators.race.field import RaceField
from operators.race.routing import Bandit
from topics.errors import ModelError

__all__ = ["KEY_BYTES", "ModelFactory", "probe_models"]

KEY_BYTES = 32


class ModelFactory:
    """Models, codecs and fields of one pipeline, for a learner: a `FieldSource`.

    `keys` sign what is stored; None takes a new one, for state that outlives nothing.  `stored` has the
    artefacts by digest; without it none are found.
    """

    def __init__(
        self, pipeline: Pipeline, *, keys: SigningKeys | None = None, stored: Artefacts | None = None
    ) -> None:
        self._pipeline = pipeline
        self._knows_keys = keys is not None
        self._keys = keys or SigningKeys({"": secrets.token_bytes(KEY_BYTES)})
        self._stored = stored
        self._brought: dict[str, bytes] = {}
        """States of candidates that were learned elsewhere, by digest."""
        self._texts: dict[int, tuple[Any, str]] = {}
        """Of the models of fields, by identity, with the model: a race per key asks for each again."""
        self._reports: dict[str, ProbeReport] = {}
        """By the text of a model: to try one takes half a second."""

    def fresh(self, field: RaceField, name: str) -> Any:
        """Return the model of a candidate, in its guards, that has learned nothing.

        Raises DefinitionError for a model that cannot do its work.
        """
        model = field.candidates[name].model
        if isinstance(model, Blend):
            return model.mixture(self._pipeline.task)
        # Another than the one that serves is tried: looking into an object's `__dict__`, as the probe's
        # digests do, makes its attributes slower for good (CPython 3.11: a tenth of a small model's time).
        return guarded(model.clone(), self._report(name, model))

    def _report(self, name: str, model: Any) -> ProbeReport:
        _, text = self._texts.get(id(model)) or self._texts.setdefault(id(model), (model, model_text(model)))
        if text not in self._reports:
            self._reports[text] = probed(self._pipeline, name, model.clone())
        return self._reports[text]

    def codec(self, field: RaceField) -> Codec:
        """Return the functions that store and load the models, metrics and detectors of a field."""
        return model_codec(
            self._keys,
            (
                *(self.fresh(field, name) for name in field.candidates),
                *(field.metrics or default_metrics(self._pipeline.task)),
                *(drift.detector for drift in field.drift),
                *([field.serving.policy.reward_obj] if isinstance(field.serving, Bandit) else ()),
            ),
        )

    def packed(self, field: RaceField) -> bytes:
        """Return a field as an artefact."""
        return dump_field(field, self._keys)

    def stored(self, field: RaceField, model: Any) -> tuple[str, bytes]:
        """Return the structural digest of a model's state, and the state as an artefact."""
        dump, load = self.codec(field)
        data = dump(model)
        return digest(load(data)), data  # a copy is looked into: a look makes an object slower for good

    def imported(self, field: RaceField, name: str) -> tuple[Any, int]:
        """Return the model of a candidate's file, in its guards, and the labels that it has learned.

        Raises ModelError for a file that is not signed with a key of ours, or holds another model than the
        candidate's.
        """
        candidate = field.candidates[name]
        assert isinstance(candidate.start, Artefact)
        path = Path(candidate.start.path)
        place = f"candidate `{name}` starts from {path}"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"{place}, which cannot be read: {error.strerror}",
                hint="give a path that every worker that may lead can read",
            ) from error
        if not self._knows_keys:
            raise ModelError(
                f"{place}, and there is no key here to check it by",
                hint="set HEADRACE_SIGNING_KEY, or HEADRACE_STATE_DIR to where its signing.key lies",
            )
        allowed = allow_for([self.fresh(field, name), candidate.model])
        try:
            model, meta = load(data, keys=self._keys, allowed=allowed)
        except ModelError as error:
            raise ModelError(f"{place}: {error.message}", hint=error.hint) from error
        bare = model
        while isinstance(bare, FirstLesson | KnownNames | KnownValues | Copied):
            bare = bare.model
        fresh = self.fresh(field, name)
        if isinstance(fresh, Mixture):
            wanted, found = fresh.settings, bare.settings if isinstance(bare, Mixture) else model_text(bare)
        else:
            wanted, found = model_text(candidate.model), model_text(bare)
        if found != wanted:
            raise ModelError(
                f"{path} holds {found}, and candidate `{name}` is {wanted}",
                hint="give the candidate the model that was stored, or start it fresh",
            )
        if model is bare and not isinstance(bare, Mixture) and self._report(name, candidate.model).guards:
            model = Copied(bare)  # a guard must have seen every lesson; this one is right without
        updates = meta.get("updates", 0)
        return model, updates if isinstance(updates, int) else 0

    def brought(self, field: RaceField, names: Iterable[str]) -> list[tuple[str, Brought]]:
        """Return what candidates bring that were learned elsewhere; their states are stored.

        Raises ModelError, with the candidate and its file, as `imported`.
        """
        found = []
        for name in names:
            if isinstance(field.candidates[name].start, Artefact):
                model, updates = self.imported(field, name)
                artefact, self._brought[artefact] = self.stored(field, model)
                if self._stored is not None:
                    self._stored.put(artefact, self._brought[artefact])
                found.append((name, Brought(artefact, updates)))
        return found

    def field(self, field_id: str) -> RaceField:
        """Return the field that was stored under its id.

        Raises ModelError where there is none, or our file lacks a class of the user's own that it names.
        """
        data = self._bytes(field_id)
        try:
            return load_field(data, self._keys, field_id)
        except ModelError as error:
            raise ModelError(
                f"the race goes on with another file's field, which cannot be built here: {error.message}",
                hint="run the file that wrote it; in a rolling restart each file needs classes of your own",
            ) from error

    def model(self, field: RaceField, artefact: str) -> Any:
        """Return a model of the field, in its guards, that was stored.  Raises ModelError where it is not."""
        model = self.codec(field)[1](self._bytes(artefact))
        if (found := digest(model)) != artefact:
            raise ModelError(
                f"the artefact {artefact} holds a model of digest {found}",
                hint="bring back the directory of artefacts as it was",
            )
        return model

    def _bytes(self, name: str) -> bytes:
        if name in self._brought:
            return self._brought[name]
        if self._stored is None:
            raise ModelError(f"there is no artefact {name}", hint="give the directory that has it")
        return self._stored.get(name)


def probe_models(pipeline: Pipeline) -> dict[str, ProbeReport]:
    """Return what scoring does to each model, tried on made-up rows of the pipeline's features.

    Raises DefinitionError for a model that cannot score and learn them.
    """
    return {
        name: probed(pipeline, name, model.clone())
        for name, model in scoring_models(pipeline.estimators).items()
    }


def probed(pipeline: Pipeline, name: str, model: Any) -> ProbeReport:
    """Return what scoring does to a model, as `probe_models` does for all; the model is used up."""
    types, optional, task = pipeline.feature_types(), pipeline.optional_features(), pipeline.task
    report = probe(model, samples_for(types), task)
    check_model(name, model if report.error else guarded(model, report), types, optional, task)
    return report
