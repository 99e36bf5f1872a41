"""What is kept of a backtest: what was asked, what it read, what came of it and how long it took.

Lives here: the record, the folder of records and its limit, how two of them differ.  Never here: tables.

A record is one JSON file, named by the time of the run.  Two runs are of the same definition where every part
of it has the same text, and of the same data where the files' digests are the same.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.definition.pipeline import Pipeline
from engine.offline.runs.curves import CurveRow
from engine.worker.assembly import libraries
from topics.errors import SettingsError

__all__ = ["RUNS_MAX", "RunFile", "RunRecord", "Runs", "differences", "record_of"]

RUNS_MAX = 200
"""Records of a folder; with one more the oldest is removed."""
ID_DIGITS = 8


class RunFile(msgspec.Struct, frozen=True):
    """A file that a run read."""

    path: str
    bytes: int
    sha256: str


class RunRecord(msgspec.Struct, frozen=True):
    """One backtest."""

    run_id: str
    pipeline: str
    started_ms: int
    """Wall clock."""
    seconds: float
    """Of the whole run."""
    model_seconds: dict[str, float]
    """Scoring and learning, by candidate."""
    parameters: dict[str, str]
    """The text of every part of the definition, by name: models with all their arguments among them."""
    files: dict[str, RunFile]
    versions: dict[str, str]
    warmup: int
    examples: int
    champion: str
    judged_by: str
    metrics: dict[str, dict[str, float]]
    """By candidate and River's class name; `loss` too."""
    curves: list[CurveRow]


def record_of(
    pipeline: Pipeline,
    report: Mapping[str, Any],
    curves: list[CurveRow],
    *,
    files: Mapping[str, Path],
    started_ms: int,
    warmup: int = 0,
) -> RunRecord:
    """Return the record of a backtest from its report; reads the files again for their digests."""
    told_of = {"served": report["served"], **report["models"]}
    metrics = {
        name: {metric: value for metric, value in one.items() if math.isfinite(value)}
        for name, one in told_of.items()
    }
    for name, loss in report["losses"].items():
        if name in metrics and loss is not None:
            metrics[name]["loss"] = loss
    parameters = {**pipeline.field.parts(), **_asked(pipeline)}
    data = {name: _file(path) for name, path in files.items()}
    told = repr((started_ms, sorted(parameters.items()), sorted(one.sha256 for one in data.values())))
    return RunRecord(
        run_id=f"{started_ms}-{hashlib.sha256(told.encode()).hexdigest()[:ID_DIGITS]}",
        pipeline=pipeline.name,
        started_ms=started_ms,
        seconds=report["seconds"],
        model_seconds=dict(report["model_seconds"]),
        parameters=parameters,
        files=data,
        versions=libraries(),
        warmup=warmup,
        examples=report["examples"],
        champion=report["champion"],
        judged_by=report["judged_by"],
        metrics=metrics,
        curves=curves,
    )


def _asked(pipeline: Pipeline) -> dict[str, str]:
    """Return what is answered, as text by part: features by their expressions, task, labels."""
    features = {f"features.{name}": repr(expression) for name, expression in pipeline.features.items()}
    return features | {"task": pipeline.task, "labels": repr(pipeline.labels)}


def _file(path: Path) -> RunFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return RunFile(str(path), path.stat().st_size, digest)


class Runs:
    """A folder of records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, record: RunRecord) -> Path:
        """Write a record; the oldest go where there are more than `RUNS_MAX`.  Raises SettingsError."""
        path = self.folder / f"{record.run_id}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(f".{os.getpid()}")
            beside.write_bytes(msgspec.json.encode(record) + b"\n")
            beside.replace(path)
            for old in self._paths()[:-RUNS_MAX]:
                old.unlink()
        except OSError as error:
            raise SettingsError(
                f"cannot write {path}: {error.strerror}", hint="make room, or give another folder: --runs DIR"
            ) from error
        return path

    def _paths(self) -> list[Path]:
        return sorted(
            self.folder.glob("*-*.json"), key=lambda path: (int(path.stem.split("-")[0]), path.stem)
        )

    def all(self) -> list[RunRecord]:
        """Return every record, the oldest first.  Raises SettingsError for a file that is none."""
        return [self._read(path) for path in self._paths()]

    def get(self, name: str) -> RunRecord:
        """Return the record whose id begins or ends with `name`; `-1` is the last, `-2` the one before.

        Raises SettingsError where there is none, or more than one.
        """
        paths = self._paths()
        if name.startswith("-") and name[1:].isdigit():
            found = paths[-int(name[1:])] if 0 < int(name[1:]) <= len(paths) else None
            matching = [] if found is None else [found]
        else:
            matching = [path for path in paths if path.stem.startswith(name) or path.stem.endswith(name)]
        if len(matching) != 1:
            raise SettingsError(
                f"{len(matching)} runs in {self.folder} are called {name!r}",
                hint="`headrace runs list` names them; -1 is the last one",
            )
        return self._read(matching[0])

    def _read(self, path: Path) -> RunRecord:
        try:
            return msgspec.json.decode(path.read_bytes(), type=RunRecord)
        except (OSError, msgspec.MsgspecError) as error:
            raise SettingsError(f"{path} is no record of a run: {error}", hint="remove the file") from error


def differences(before: RunRecord, after: RunRecord) -> dict[str, Any]:
    """Return what differs between two runs: parameters, data, versions, metrics, seconds; only what does."""
    files = {name: one.sha256 for name, one in before.files.items()}
    files_after = {name: one.sha256 for name, one in after.files.items()}
    names = dict.fromkeys([*before.metrics, *after.metrics])
    return {
        "before": before.run_id,
        "after": after.run_id,
        "parameters": _apart(before.parameters, after.parameters),
        "files": _apart(files, files_after),
        "versions": _apart(before.versions, after.versions),
        "metrics": {
            name: {
                metric: {"before": values[0], "after": values[1], "change": _change(*values)}
                for metric, values in _beside(
                    before.metrics.get(name, {}), after.metrics.get(name, {})
                ).items()
            }
            for name in names
        },
        "seconds": {"before": before.seconds, "after": after.seconds},
        "model_seconds": {
            name: {"before": values[0], "after": values[1]}
            for name, values in _beside(before.model_seconds, after.model_seconds).items()
        },
        "examples": {"before": before.examples, "after": after.examples},
        "champion": {"before": before.champion, "after": after.champion},
    }


def _beside(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])}


def _apart(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    return {
        name: {"before": values[0], "after": values[1]}
        for name, values in _beside(before, after).items()
        if values[0] != values[1]
    }


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
