"""Parts put together: a learner from a definition, and the key that signs what it stores.

Lives here: the trial of fresh models and the choice of their guards.  Never here: what a
learner or a guard does.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from engine.definition.pipeline import Pipeline
from engine.machines.learner import Learner
from engine.settings import Settings
from operators.models.artefacts import model_codec
from operators.models.digest import digest
from operators.models.parameters import model_text
from operators.models.probe import ProbeReport, check_model, guarded, probe, samples_for
from operators.race.evaluation import default_metrics
from operators.race.routing import Bandit
from operators.stopwatch import Stopwatch
from topics.errors import SettingsError
from topics.messages import ModelPointer

__all__ = ["build_learner", "libraries", "pointer_of", "signing_key"]

KEY_BYTES = 32
LIBRARIES = ("headrace", "numpy", "river")
"""What decides what a model computes, besides Python."""


def build_learner(
    pipeline: Pipeline,
    *,
    key: bytes | None = None,
    warmup_offset: int = 0,
    stopwatch: Stopwatch | None = None,
    reports: Mapping[str, ProbeReport] | None = None,
) -> Learner:
    """Return a learner with fresh models, each behind the guard that its probe asks for.

    `key` signs what `snapshot` stores; None takes a new one, for state that outlives nothing.  `reports` are
    those of `probe_models`, for who builds more than one learner; without them it is asked.  Raises
    DefinitionError for a model that cannot do its work.
    """
    reports_of = probe_models(pipeline) if reports is None else reports
    # Others than those that serve were tried: looking into an object's `__dict__`, as the probe's digests do,
    # makes its attributes slower for good (CPython 3.11: a tenth of a small model's time).
    models = {name: guarded(model, reports_of[name]) for name, model in pipeline.fresh_models().items()}
    stored = (
        *models.values(),
        *(pipeline.metrics or default_metrics(pipeline.task)),
        *(drift.detector for drift in pipeline.drift),
        *([serving.policy.reward_obj] if isinstance(serving := pipeline.serving, Bandit) else ()),
    )
    dump, load = model_codec(key or secrets.token_bytes(KEY_BYTES), stored)
    return Learner(
        pipeline=pipeline.name,
        task=pipeline.task,
        field=pipeline.field,
        models=models,
        dump=dump,
        load=load,
        warmup_offset=warmup_offset,
        wait_ms=pipeline.labels.wait_ms,
        stopwatch=stopwatch,
    )


def probe_models(pipeline: Pipeline) -> dict[str, ProbeReport]:
    """Return what scoring does to each model, tried on made-up rows of the pipeline's features.

    Raises DefinitionError for a model that cannot score and learn them.
    """
    types, optional, task = pipeline.feature_types(), pipeline.optional_features(), pipeline.task
    samples = samples_for(types)
    reports: dict[str, ProbeReport] = {}
    for name, model in pipeline.fresh_models().items():
        report = reports[name] = probe(model, samples, task)
        tried = model if report.error else guarded(model, report)
        check_model(name, tried, types, optional, task)
    return reports


def libraries() -> dict[str, str]:
    """Return the versions by which models compute here."""
    return {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}


def pointer_of(pipeline: Pipeline, learner: Learner) -> ModelPointer:
    """Return who serves as of where the learner stands, in which state."""
    champion = learner.roster.racers[learner.roster.champion]
    defined = pipeline.models.get(champion.definition)
    return ModelPointer(
        pipeline=pipeline.name,
        alias="champion",
        model_name=champion.name,
        version=champion.version,
        updates=champion.updates,
        digest=digest(champion.model),
        river=version("river"),
        learned_to=learner.position,
        features=tuple(pipeline.features),
        features_version=pipeline.features_version,
        definition="" if defined is None else model_text(defined),
        libraries=libraries(),
    )


def signing_key(settings: Settings) -> bytes:
    """Return the key of the settings, or that of the state directory, made at first use.

    Raises SettingsError if the directory cannot be written.
    """
    if settings.signing_key is not None:
        return settings.signing_key.get_secret_value().encode()
    path = settings.state_dir / "signing.key"
    try:
        return _key_file(path)
    except OSError as error:
        raise SettingsError(
            f"cannot keep a signing key in {settings.state_dir}: {error.strerror}",
            hint="make the directory writable, or set HEADRACE_SIGNING_KEY",
        ) from error


def _key_file(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(KEY_BYTES).encode())
    return path.read_bytes()
