"""`headrace export`: what the messages of a pipeline look like, for those who read or write its topics.

Lives here: the commands' arguments.  Never here: the documents (`schemas.py`, `asyncapi.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import PipelineFile, print_json
from engine.definition.file import load_pipeline

__all__ = ["export_app"]

export_app = typer.Typer(help="The messages as schemas.", no_args_is_help=True)


@export_app.command("jsonschema")
def export_jsonschema(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="PIPELINE.py", help="Adds its events and labels, leaves out what it has not."),
    ] = None,
) -> None:
    """Print one JSON Schema; its $defs are all messages."""
    from engine.cli.schemas import json_schema  # noqa: PLC0415

    print_json(json_schema(None if file is None else load_pipeline(file)))


@export_app.command("asyncapi")
def export_asyncapi(file: PipelineFile) -> None:
    """Print an AsyncAPI 3.0 document: topics, messages, keys, headers."""
    from engine.cli.asyncapi import asyncapi  # noqa: PLC0415

    print_json(asyncapi(load_pipeline(file)))
