"""Options and output that several commands share.

Lives here: arguments and options under one name each, settings from them, JSON.  Never here: what one command
alone takes (`main.py` and its neighbours).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engine.settings import Settings

__all__ = ["Config", "Json", "PipelineFile", "Recorded", "Servers", "print_json", "settings_of"]

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
