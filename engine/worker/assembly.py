"""Parts put together: a learner from a definition, and the keys that sign what it stores.

Never here: what a learner does, where it finds its models (`model_factory.py`).
"""

from __future__ import annotations

import os
import platform
import secrets
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from engine.definition.pipeline import Pipeline
from engine.machines.field_records import FieldSource
from engine.machines.keyed.keyed_learner import KeyedLearner
from engine.machines.learner import Learner
from engine.machines.race import Race
from engine.settings import Settings
from engine.worker.model_factory import KEY_BYTES, ModelFactory
from operators.models.digest import digest
from operators.models.parameters import model_text
from operators.models.scoring import Roster
from operators.models.signing import SigningKeys
from operators.race.field import RaceField
from operators.state import StoredEntries
from operators.stopwatch import Stopwatch
from topics.errors import DefinitionError, SettingsError
from topics.messages import ModelPointer

__all__ = [
    "build_keyed_learner",
    "build_learner",
    "known_keys",
    "libraries",
    "pointer_of",
    "race_pointer_of",
    "signing_keys",
]

KEY_FILE = "signing.key"
LIBRARIES = ("headrace", "numpy", "river")
"""What decides what a model computes, besides Python."""


def build_learner(
    pipeline: Pipeline,
    *,
    keys: SigningKeys | None = None,
    warmup_offset: int = 0,
    stopwatch: Stopwatch | None = None,
    source: FieldSource | None = None,
    roster: Roster | None = None,
    partition: int = 0,
    key: str = "",
    begins: RaceField | None = None,
) -> Learner:
    """Return a learner of the pipeline's field: fresh models, each behind the guard that its probe asks for.

    `roster` is the one that it takes over, as scorers read it already; None makes one.  `partition`, `key`
    and `begins` are for the race of one key that is folded alone: where its log lies, whose it is, and with
    which field it begins.
    `source` is for who builds more than one learner; without it, it is a `ModelFactory` without artefacts.
    Raises DefinitionError for a model that cannot do its work, and for a pipeline whose keys have races of
    their own: who asks for one learner knows of one race only.
    """
    if pipeline.per is not None:
        raise DefinitionError(
            f"this is not offered for a pipeline with per={pipeline.per!r}: each key has a race of its own",
            hint="run it on the same pipeline without `per`, over the events of one key",
        )
    return Learner(
        pipeline=pipeline.name,
        task=pipeline.task,
        field=pipeline.field,
        source=source or ModelFactory(pipeline, keys=keys),
        warmup_offset=warmup_offset,
        wait_ms=pipeline.labels.wait_ms,
        stopwatch=stopwatch,
        roster=roster,
        partition=partition,
        key=key,
        begins=begins,
        constants=pipeline.plan.constants,
    )


def build_keyed_learner(
    pipeline: Pipeline,
    partition: int = 0,
    *,
    keys: SigningKeys | None = None,
    warmup_offset: int = 0,
    stopwatch: Stopwatch | None = None,
    source: FieldSource | None = None,
    stored: StoredEntries | None = None,
) -> KeyedLearner:
    """Return the learner of one examples partition of a pipeline whose keys have races of their own.

    `stored` reads the races that are not in memory.  Raises DefinitionError as `build_learner`.
    """
    return KeyedLearner(
        pipeline=pipeline.name,
        task=pipeline.task,
        field=pipeline.field,
        source=source or ModelFactory(pipeline, keys=keys),
        per_max=pipeline.per_max,
        partition=partition,
        warmup_offset=warmup_offset,
        wait_ms=pipeline.labels.wait_ms,
        stopwatch=stopwatch,
        stored=stored,
        constants=pipeline.plan.constants,
    )


def libraries() -> dict[str, str]:
    """Return the versions by which models compute here."""
    return {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}


def pointer_of(pipeline: Pipeline, learner: Learner) -> ModelPointer:
    """Return who serves as of where the learner stands, in which state."""
    return race_pointer_of(pipeline, learner, learner.position)


def race_pointer_of(pipeline: Pipeline, race: Race, learned_to: int) -> ModelPointer:
    """Return who serves in a race that has learned all before an offset."""
    champion = race.roster.racers[race.roster.champion]
    defined = race.field.candidates.get(champion.definition)
    return ModelPointer(
        pipeline=pipeline.name,
        alias="champion",
        model_name=champion.name,
        version=champion.version,
        updates=champion.updates,
        digest=digest(champion.model),
        river=version("river"),
        learned_to=learned_to,
        features=tuple(pipeline.features),
        features_version=pipeline.features_version,
        definition="" if defined is None else model_text(defined.model),
        libraries=libraries(),
        key=race.key,
    )


def known_keys(settings: Settings) -> SigningKeys | None:
    """Return the keys by which a worker of these settings has signed; None where there are none yet."""
    there = settings.signing_secrets() or (settings.state_dir / KEY_FILE).is_file()
    return signing_keys(settings) if there else None


def signing_keys(settings: Settings) -> SigningKeys:
    """Return the keys of the settings, or that of the state directory, made at first use.

    Raises SettingsError if the directory cannot be written, or where a store is shared and no key is set.
    """
    if given := settings.signing_secrets():
        return SigningKeys(given)
    if settings.store_url is not None:
        raise SettingsError(
            "a shared store needs a signing key that all workers have: one reads what another has signed",
            hint="set HEADRACE_SIGNING_KEY to the same for all of them",
        )
    path = settings.state_dir / KEY_FILE
    try:
        return SigningKeys({KEY_FILE: _key_file(path)})
    except OSError as error:
        raise SettingsError(
            f"cannot keep a signing key in {settings.state_dir}: {error.strerror}",
            hint="make the directory writable, or set HEADRACE_SIGNING_KEY",
        ) from error


def _key_file(path: Path) -> bytes:
    """Return the key in a file; where there is none make one, whole: another worker may start with us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-") as file:
            file.write(secrets.token_hex(KEY_BYTES).encode())
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    return path.read_bytes()
