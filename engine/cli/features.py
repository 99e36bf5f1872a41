"""`headrace features`: the catalogue of a pipeline's features.

Lives here: arguments, and the catalogue as a table, as lines, as Markdown, as JSON.  Never here: what an
entry says (`operators/language/catalogue.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import Json, PipelineFile, print_json
from engine.definition.file import load_pipeline
from topics.errors import DefinitionError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from operators.language.catalogue import CatalogueEntry

__all__ = ["catalogue", "features_app", "markdown"]

features_app = typer.Typer(help="The features of a pipeline, with their versions.", no_args_is_help=True)

COLUMNS = ("feature", "version", "type", "key", "window", "definition", "owner", "description")
HEADINGS = (
    *("feature", "version", "type", "definition", "fields"),
    *("looks back", "kept per key", "owner", "description"),
)
CODE = ("feature", "version", "definition")
"""Columns of a page that are set as code."""


@features_app.command("list")
def features_list(file: PipelineFile, json: Json = False) -> None:
    """List every feature: a table on a terminal, else one line each with tabs between."""
    from rich.text import Text  # noqa: PLC0415

    from engine.cli.report import out, table_of  # noqa: PLC0415

    pipeline = load_pipeline(file)
    if json:
        print_json(catalogue(pipeline))
        return
    if not out.is_terminal:
        for row in [COLUMNS, *(_row(entry, COLUMNS) for entry in pipeline.book)]:
            typer.echo("\t".join(row))
        return
    table = table_of(*COLUMNS)
    for entry in pipeline.book:
        table.add_row(*map(Text, _row(entry, COLUMNS)))
    out.print(table)
    out.print(f"\n{len(pipeline.book)} features, version {pipeline.features_version}")


@features_app.command("show")
def features_show(
    file: PipelineFile, name: Annotated[str, typer.Argument(help="A feature.")], json: Json = False
) -> None:
    """Show all that is known of one feature."""
    pipeline = load_pipeline(file)
    entry = next((entry for entry in pipeline.book if entry.name == name), None)
    if entry is None:
        names = [entry.name for entry in pipeline.book]
        near = get_close_matches(name, names, n=3) or names[:3]
        raise DefinitionError(
            f"{pipeline.name} has no feature {name!r}", hint=f"it has {', '.join(near)}; `features list`"
        )
    if json:
        print_json(entry._asdict())
        return
    for label, text in _texts(entry).items():
        if label != "window":  # `looks back` says it too
            typer.echo(f"{label:<14} {text}".rstrip())


@features_app.command("export")
def features_export(
    file: PipelineFile,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="A page with a table.")] = False,
    json: Json = False,
) -> None:
    """Print the catalogue for other tools and for your documentation: --markdown or --json."""
    if as_markdown == json:
        raise typer.BadParameter("give either --markdown or --json")
    pipeline = load_pipeline(file)
    if json:
        print_json(catalogue(pipeline))
    else:
        typer.echo(markdown(pipeline), nl=False)


def catalogue(pipeline: Pipeline) -> dict[str, Any]:
    """Return the catalogue as plain values."""
    return {
        "pipeline": pipeline.name,
        "features_version": pipeline.features_version,
        "features": [entry._asdict() for entry in pipeline.book],
    }


def markdown(pipeline: Pipeline) -> str:
    """Return the catalogue as a page."""
    lines = [
        f"# Features of {pipeline.name}",
        "",
        f"{len(pipeline.book)} features, together version `{pipeline.features_version}`. Made by",
        "`headrace features export PIPELINE.py --markdown`.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---" * len(HEADINGS) + "|",
    ]
    for entry in pipeline.book:
        row = [cell.replace("|", r"\|") for cell in _row(entry, HEADINGS)]
        cells = (
            f"`{cell}`" if heading in CODE else cell for heading, cell in zip(HEADINGS, row, strict=True)
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _texts(entry: CatalogueEntry) -> dict[str, str]:
    """Return all that is known of a feature, by what a column of it is called."""
    default = "none: left out where it is missing" if entry.default is None else repr(entry.default)
    return {
        "feature": entry.name,
        "version": entry.version,
        "description": entry.description,
        "owner": entry.owner,
        "definition": entry.expression,
        "type": entry.type,
        "kind": entry.kind,
        "source": entry.source,
        "fields": ", ".join(entry.source_fields),
        "key": entry.key,
        "window": entry.window,
        "looks back": _back(entry),
        "kept per key": entry.bound,
        "default": default,
    }


def _row(entry: CatalogueEntry, columns: Sequence[str]) -> tuple[str, ...]:
    """Return one line of a table; words may hold line breaks and tabs, a line may not."""
    texts = _texts(entry)
    return tuple(" ".join(texts[column].split()) for column in columns)


def _back(entry: CatalogueEntry) -> str:
    """Return its windows, and how far back they reach at most where one alone does not say so."""
    from topics.durations import duration_text  # noqa: PLC0415

    if entry.window_ms is None:
        return ""
    reach = duration_text(entry.window_ms)
    return entry.window if entry.window == reach else f"{entry.window} ({reach})"
