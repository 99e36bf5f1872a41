"""`headrace models`, the part that reads: versions, history, cards, reproduction, export.

Lives here: arguments, tables, exit codes.  Never here: the facts (`engine/lineage/history.py`), the card
(`engine/lineage/card.py`), what a person decides (`deciding.py`).

Commands that read take a recording in place of a broker (`--recording`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import (
    Json,
    KafkaOptions,
    LogOptions,
    PipelineFile,
    RaceLogOptions,
    grouped,
    print_json,
    race_key,
    write_file,
)
from engine.definition.file import load_pipeline

if TYPE_CHECKING:
    from rich.table import Table

    from engine.definition.pipeline import Pipeline
    from engine.lineage.history import History, Version
    from engine.lineage.sources import PipelineLogs
    from topics.messages import Decision

__all__ = ["logs_from", "logs_of_all", "models_app"]

models_app = typer.Typer(help="The versions of a pipeline's models.", no_args_is_help=True)

Fold = Annotated[
    bool,
    typer.Option("--fold", help="Fold the examples log too: what each version has learned and scored now."),
]
VersionArgument = Annotated[
    str,
    typer.Argument(metavar="VERSION", help="A number, a name (its newest version) or `champion`."),
]
StateArgument = Annotated[
    str,
    typer.Argument(metavar="VERSION[@UPDATES]", help="A version, or one state of it: 3@40000."),
]


def logs_from(file: Path, source: RaceLogOptions) -> tuple[Pipeline, PipelineLogs]:
    """Return a pipeline and its logs, of a recording or of a broker, as asked about one race."""
    pipeline = load_pipeline(file)
    return pipeline, logs_of_all(pipeline, source, key=race_key(pipeline, source.key))


def logs_of_all(pipeline: Pipeline, source: LogOptions, *, key: str = "") -> PipelineLogs:
    """Return the logs of a pipeline, of a recording or of a broker; `key`: as asked about its race."""
    from engine.cli.report import counting  # noqa: PLC0415
    from engine.lineage.sources import PipelineLogs  # noqa: PLC0415

    return PipelineLogs(pipeline, source.settings(), source.recording, counting("read, folded"), key=key)


def _history(file: Path, source: RaceLogOptions, *, fold: bool = False) -> History:
    return asyncio.run(logs_from(file, source)[1].history(fold=fold))


# -- what is read -----------------------------------------------------------------------------------


@models_app.command("list")
@grouped
def models_list(
    file: PipelineFile,
    source: RaceLogOptions,
    fold: Fold = False,
    json: Json = False,
) -> None:
    """List every version: who it is, whether it serves, what it has learned and scored."""
    from engine.cli.report import figure_text, out, print_table, table_of, time_text  # noqa: PLC0415

    history = _history(file, source, fold=fold)
    versions = list(history.versions.values())
    if json:
        print_json([version.plain() for version in versions])
        return
    names = list(
        dict.fromkeys(name for one in versions for last in one.measured[-1:] for name in last.metrics)
    )
    table = table_of("version", "model", "state", "class", "since", numbers=("learned", *names))
    for version in versions:
        last = version.measured[-1] if version.measured else None
        started = version.started
        _row(
            table,
            str(version.version),
            version.name,
            version.state,
            version.kind,
            "the start" if started is None else time_text(started.time),
            f"{version.learned:,}" if version.learned else "",
            *(figure_text(last.metrics.get(name)) if last else "" for name in names),
        )
    print_table(table)
    out.print(
        f"\nlearned and metrics: {'at the end of the log' if fold else 'as last recorded; --fold: now'}"
        f"\nnext: headrace models history {file}   or   headrace models show {file} champion",
        markup=False,
    )


@models_app.command("show")
@grouped
def models_show(
    file: PipelineFile,
    source: RaceLogOptions,
    version: VersionArgument = "champion",
    fold: Fold = False,
    json: Json = False,
) -> None:
    """Show all that is recorded of one version: parameters, metrics, states, decisions."""
    history = _history(file, source, fold=fold)
    shown = history.version(version)
    good = history.good.get(shown.name, [])
    if json:
        print_json(shown.plain() | ({"good_versions": good} if fold else {}))
        return
    _print_version(shown)
    if good:
        typer.echo(f"\ngood versions, for `models rollback --to`: {', '.join(good)}")
    typer.echo(f"\nnext: headrace models card {file} {shown.version}")


@models_app.command("history")
@grouped
def models_history(
    file: PipelineFile,
    source: RaceLogOptions,
    json: Json = False,
) -> None:
    """Show who was champion when and why, and every decision."""
    from engine.cli.report import out, print_table, table_of, time_text  # noqa: PLC0415
    from engine.lineage.history import why  # noqa: PLC0415

    history = _history(file, source)
    if json:
        print_json(
            {
                "pipeline": history.pipeline,
                "reigns": [reign.plain() for reign in history.reigns],
                "decisions": [_plain(decision) for decision in history.decisions],
                "open_proposals": [one.decision_id for one in history.open_proposals],
            }
        )
        return
    table = table_of("champion", "version", "from", "to", "why", "who", numbers=("examples",))
    for reign in history.reigns:
        began, ended = reign.began, reign.ended
        _row(
            table,
            reign.model_name,
            str(reign.version),
            "the start" if began is None else time_text(began.time),
            "now" if ended is None else time_text(ended.time),
            reign.reason,
            "" if began is None else began.actor,
            f"{0 if began is None else began.examples:,}",
        )
    print_table(table)
    table = table_of("label time", "decision", "model", "why", "who", numbers=("offset",))
    for one in history.decisions:
        _row(table, time_text(one.time), one.type, one.model_name, why(one), one.actor, f"{one.offset:,}")
    out.print(f"\n{len(history.decisions)} decisions")
    if history.decisions:
        print_table(table)
    for one in history.open_proposals:
        typer.echo(f"\n{one.model_name} is proposed: headrace models approve {file} {one.decision_id}")


@models_app.command("diff")
@grouped
def models_diff(
    file: PipelineFile,
    before: Annotated[str, typer.Argument(metavar="A", help="A version, as for `show`.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    source: RaceLogOptions,
    json: Json = False,
) -> None:
    """Show in what two versions differ: parameters, features, libraries, metrics."""
    from engine.cli.report import figure_text, out, print_table, table_of  # noqa: PLC0415
    from engine.lineage.history import version_difference  # noqa: PLC0415

    history = _history(file, source)
    one, other = history.version(before), history.version(after)
    apart = version_difference(one, other)
    if json:
        print_json(apart)
        return
    table = table_of("", f"{one.version} {one.name}", f"{other.version} {other.name}")
    for name, (left, right) in apart["parameters"].items():
        _row(table, name, left or "", right or "")
    known = [version for version in apart["features_version"] if version]
    if len(set(known)) == 2:
        _row(table, "features", *known)
    for name, (left, right) in (*apart["libraries"].items(), *apart["metrics"].items()):
        _row(table, name, *(text if isinstance(text, str) else figure_text(text) for text in (left, right)))
    if not table.row_count:
        out.print("nothing that is recorded differs")
        return
    print_table(table)
    if apart["metrics"]:
        shared = apart["metrics_of_one_decision"]
        out.print(
            f"\nmetrics: both as of decision {shared}"
            if shared
            else "\nmetrics: each as last recorded, not at one time"
        )


@models_app.command("card")
@grouped
def models_card(
    file: PipelineFile,
    source: RaceLogOptions,
    version: VersionArgument = "champion",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it here; a name that ends in .html gives a page.")
    ] = None,
    as_html: Annotated[bool, typer.Option("--html", help="HTML instead of Markdown.")] = False,
    fold: Fold = False,
) -> None:
    """Print a model card of one version, made of recorded facts: Markdown, or HTML for print."""
    from engine.lineage.card import card, card_html, card_markdown  # noqa: PLC0415

    pipeline, logs = logs_from(file, source)
    history = asyncio.run(logs.history(fold=fold))
    sections = card(pipeline, history, history.version(version))
    is_page = as_html or (out is not None and out.suffix in {".html", ".htm"})
    text = card_html(sections) if is_page else card_markdown(sections)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_file(out, text.encode())
    typer.echo(f"wrote {out}")


@models_app.command("reproduce")
@grouped
def models_reproduce(
    file: PipelineFile,
    version: StateArgument,
    source: RaceLogOptions,
    json: Json = False,
) -> None:
    """Fold the examples log to the recorded states of a version and compare structural digests.

    Exit code 0 where all are equal, 1 where one is not, or no record names a state.
    """
    from engine.cli.report import out, print_table, table_of  # noqa: PLC0415
    from engine.lineage.reproduction import reproduce  # noqa: PLC0415

    _, logs = logs_from(file, source)
    result = asyncio.run(reproduce(logs, version))
    if json:
        print_json(result)
    else:
        table = table_of("state", "recorded digest", "folded digest", "", numbers=("offset",))
        for row in result["states"]:
            verdict = {True: "equal", False: "DIFFERENT", None: "not recorded"}[row["equal"]]
            _row(table, row["state"], row["recorded"], row["folded"], verdict, f"{row['position']:,}")
        print_table(table)
        if result["decisions_differ"]:
            out.print(f"decisions that the log does not give: {', '.join(result['decisions_differ'])}")
        out.print(f"computed by {_libraries(result['libraries'])}")
        for line in result["notes"]:
            out.print(line, markup=False)
    if not result["reproduced"]:
        raise typer.Exit(1)


@models_app.command("export")
@grouped
def models_export(
    file: PipelineFile,
    version: StateArgument,
    out: Annotated[Path, typer.Option("--out", help="Where the artefact is written.")],
    source: RaceLogOptions,
    plain: Annotated[
        bool, typer.Option("--plain", help="Without Headrace's guards: for where only River is installed.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the model of a version as a signed file, for `Artefact(...)` and for plain Python.

    The examples log is folded to it: to the state that is named, or else to its end.
    """
    from engine.lineage.reproduction import exported  # noqa: PLC0415
    from engine.worker.assembly import signing_keys  # noqa: PLC0415

    _, logs = logs_from(file, source)
    data, meta = asyncio.run(exported(logs, version, signing_keys(source.settings()), plain=plain))
    write_file(out, data)
    if json:
        print_json(meta | {"file": str(out), "bytes": len(data)})
    else:
        state = f"{meta['name']} {meta['version']}@{meta['updates']}"
        typer.echo(f"wrote {out}: {state}, digest {meta['digest']}, {len(data):,} bytes")
        if not plain:
            typer.echo(f'next: Candidate(model, start=Artefact("{out}")) in a pipeline file')


@models_app.command("resign")
@grouped
def models_resign(file: PipelineFile, source: KafkaOptions, json: Json = False) -> None:
    """Sign all stored models and fields by the first of the signing keys, before an old key is taken out.

    A worker signs its checkpoints anew by itself, when it starts with the new key first.
    """
    from engine.stores.artefacts import resign  # noqa: PLC0415
    from engine.stores.places import artefact_store  # noqa: PLC0415
    from engine.worker.assembly import signing_keys  # noqa: PLC0415

    settings = source.settings()
    keys = signing_keys(settings)
    stored = artefact_store(settings, load_pipeline(file).name)
    try:
        there, changed = resign(stored, keys)
    finally:
        stored.close()
    if json:
        print_json({"artefacts": there, "signed_anew": changed, "keys": keys.names})
    else:
        typer.echo(f"{there} artefacts, {changed} signed anew; keys: {keys!r}")


# -- words and numbers --------------------------------------------------------------------------------


def _print_version(version: Version) -> None:
    from engine.cli.report import figure_text, out, print_table, table_of, time_text  # noqa: PLC0415
    from engine.lineage.history import why  # noqa: PLC0415

    out.print(f"[bold]version {version.version}[/]  {version.name}  {version.state}")
    if version.libraries:
        out.print(f"computed by {_libraries(version.libraries)}")
    if version.features_version:
        out.print(f"{len(version.features)} features, version {version.features_version}")
    table = table_of("part", "class or value")
    for name, value in version.parameters.items():
        _row(table, name, value)
    print_table(table)
    names = list(dict.fromkeys(name for one in version.measured for name in one.metrics))
    table = table_of("measured", numbers=("examples", "learned", *names))
    measured = [
        (
            time_text(one.time),
            f"{one.examples:,}",
            f"{one.updates:,}",
            *(figure_text(one.metrics.get(name)) for name in names),
        )
        for one in version.measured
    ]
    for row in dict.fromkeys(measured):  # several decisions at one place measured the same
        _row(table, *row)
    if version.measured:
        out.print()
        print_table(table)
    table = table_of("state", "digest", "record", numbers=("offset",))
    for state in version.states:
        label = f"{version.version}@{state.updates}"
        _row(table, label, state.digest, state.record, f"{state.position:,}")
    if version.states:
        out.print()
        print_table(table)
    table = table_of("label time", "decision", "why", "who", numbers=("offset",))
    for decision in version.decisions:
        _row(
            table,
            time_text(decision.time),
            decision.type,
            why(decision),
            decision.actor,
            f"{decision.offset:,}",
        )
    if version.decisions:
        out.print()
        print_table(table)


def _row(table: Table, *cells: str) -> None:
    """Add a row of plain texts: what a user wrote is no markup."""
    from rich.text import Text  # noqa: PLC0415

    table.add_row(*map(Text, cells))


def _libraries(libraries: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in libraries.items())


def _plain(decision: Decision) -> dict[str, Any]:
    from msgspec import to_builtins  # noqa: PLC0415

    plain: dict[str, Any] = to_builtins(decision)
    return plain
