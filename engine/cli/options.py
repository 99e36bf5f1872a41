"""Options and output that several commands share.

Lives here: arguments and options under one name each, those that go together as a group, settings from them,
JSON, files that are written.  Never here: what one command alone takes (`main.py` and its neighbours).

A group is a dataclass whose fields are options.  A command under `grouped` names the group as one parameter;
its user sees the fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, get_annotations, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from topics.errors import SettingsError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from engine.settings import Settings

__all__ = [
    "Config",
    "ForKey",
    "Json",
    "KafkaOptions",
    "LogOptions",
    "PipelineFile",
    "RaceLogOptions",
    "grouped",
    "print_json",
    "race_key",
    "settings_of",
    "write_file",
]

PipelineFile = Annotated[
    Path, typer.Argument(metavar="PIPELINE.py", help="File with `pipeline = Pipeline(...)`.")
]
Recorded = Annotated[
    Path | None,
    typer.Option(
        "--recording", metavar="FOLDER", help="Read this recording (`backtest --record`), not the topics."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Servers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers", help="Kafka; default HEADRACE_KAFKA__BOOTSTRAP_SERVERS or 127.0.0.1:9092."
    ),
]
Config = Annotated[Path | None, typer.Option("--config", help="Settings file; default headrace.toml.")]
ForKey = Annotated[
    str | None,
    typer.Option("--for", metavar="KEY", help="Where each key has a race of its own (`per=`): whose race."),
]


@dataclass(frozen=True)
class KafkaOptions:
    """Which broker, by which settings."""

    bootstrap_servers: Servers = None
    config: Config = None

    def settings(self, **flags: Any) -> Settings:
        """Return the settings, those given on the command line first.  Raises SettingsError."""
        return settings_of(self.config, self.bootstrap_servers, **flags)


@dataclass(frozen=True)
class LogOptions(KafkaOptions):
    """Where the logs of a pipeline are read: from a broker, or from a recording."""

    recording: Recorded = None


@dataclass(frozen=True)
class RaceLogOptions(LogOptions):
    """Where the logs of a pipeline are read, and whose race is asked about."""

    key: ForKey = None


def race_key(pipeline: Pipeline, key: str | None) -> str:
    """Return whose race is meant; empty where there is one race for all.

    Raises SettingsError where a key is missing, or there is one too many.
    """
    if pipeline.per is None and key is not None:
        raise SettingsError(f"`{pipeline.name}` has one race for all keys", hint="leave --for out")
    if pipeline.per is not None and not key:
        raise SettingsError(
            f"each `{pipeline.per}` of `{pipeline.name}` has a race of its own", hint="name one: --for KEY"
        )
    return key or ""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes each field of its groups as an option of its own, in the group's place.

    Of a group that extends another, its own fields come first.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    options: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        if name in groups:
            options += _options_of(groups[name])
        else:
            options.append(parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY))

    @wraps(command)
    def called(**given: Any) -> None:
        filled = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **filled)

    called.__signature__ = Signature(options)  # type: ignore[attr-defined]
    called.__annotations__ = {option.name: option.annotation for option in options}
    return called


def _options_of(group: type[Any]) -> list[Parameter]:
    """Return the fields of a group as parameters."""
    hints = get_type_hints(group, include_extras=True)
    own_first = [name for owner in group.__mro__ for name in get_annotations(owner)]
    defaults = {field.name: field.default for field in fields(group)}
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hints[name])
        for name in own_first
    ]


def settings_of(config: Path | None, servers: str | None = None, **flags: Any) -> Settings:
    """Return the settings, those given on the command line (not None) first.  Raises SettingsError."""
    from engine.settings import load_settings  # noqa: PLC0415

    given = {name: value for name, value in flags.items() if value is not None}
    if servers is not None:
        given["kafka"] = {"bootstrap_servers": servers}
    return load_settings(config, **given)


def print_json(value: object) -> None:
    """Print one JSON object."""
    from topics.codec import encode_json  # noqa: PLC0415

    typer.echo(encode_json(value).decode())


def write_file(path: Path, data: bytes) -> None:
    """Write a file.  Raises SettingsError where that cannot be."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}", hint="check the folder") from None
