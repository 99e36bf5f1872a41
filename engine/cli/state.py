"""`headrace state`: what is stored of a pipeline, whether it is whole, a copy of it, the copy put back.

Lives here: arguments, tables, exit codes.  Never here: the work (`engine/state`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Json, KafkaOptions, PipelineFile, grouped, print_json
from engine.definition.file import load_pipeline
from engine.settings import Settings

__all__ = ["state_app"]

state_app = typer.Typer(help="What is stored of a pipeline.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The snapshot's folder.")]


@dataclass(frozen=True)
class StoreOptions(KafkaOptions):
    """Which store, by which settings."""

    state_dir: Annotated[
        Path | None, typer.Option(help="Checkpoints live here, where HEADRACE_STORE_URL names no Redis.")
    ] = None
    json: Json = False

    def stored(self) -> Settings:
        """Return the settings.  Raises SettingsError."""
        return self.settings(state_dir=self.state_dir)


@state_app.command("inspect")
@grouped
def state_inspect(
    asked: Annotated[
        list[str],
        typer.Argument(metavar="[KEY] PIPELINE.py", help="A key of the events topic, and the file."),
    ],
    options: StoreOptions,
) -> None:
    """Show what each checkpoint holds, or, with KEY, all that is kept of one key; workers may run."""
    from engine.state.contents import working_directory  # noqa: PLC0415
    from engine.state.inspection import inspect, inspect_key  # noqa: PLC0415

    if len(asked) > 2:
        raise typer.BadParameter("give a key and the pipeline's file, or the file alone")
    pipeline, settings = load_pipeline(Path(asked[-1])), options.stored()
    key = asked[0] if len(asked) > 1 else None
    with working_directory(settings) as folder:
        if key is None:
            rows = asyncio.run(inspect(pipeline, settings, folder))
        else:
            rows = asyncio.run(inspect_key(pipeline, settings, folder, key))
    if options.json:
        print_json({"key": key, "kept": rows} if key is not None else {"checkpoints": rows})
    elif key is None:
        _print_checkpoints(rows)
    else:
        _print_kept(key, rows)


def _print_checkpoints(rows: list[dict[str, Any]]) -> None:
    from engine.cli.report import out, print_table, table_of  # noqa: PLC0415

    for row in rows:
        out.print(f"[bold]{row['name']}[/]  claim {row['claim']}  {row['place']}")
        if (header := row.get("header")) is not None:
            versions = ", ".join(f"{name} {version}" for name, version in sorted(header["versions"].items()))
            out.print(
                f"  format {header['format']}; {versions}; schema {header['schema']}, features "
                f"{header['features']}; {header['partitions']} partitions of {header['topics']['events']}"
            )
        if row["position"] is not None:
            out.print("  position: " + ", ".join(f"{name} {at}" for name, at in row["position"].items()))
        for log in row.get("logs", ()):
            out.print(
                f"  reads {log['target']} {log['partition']} from {log['position']}, claim {log['claim']}"
            )
        table = table_of("part", numbers=("entries", "bytes"))
        for part, sizes in row["parts"].items():
            table.add_row(part, f"{sizes['entries']:,}", f"{sizes['bytes']:,}")
        print_table(table)


def _print_kept(key: str, rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape  # noqa: PLC0415

    from engine.cli.report import out, print_table, table_of  # noqa: PLC0415

    if not rows:
        out.print(f"nothing is kept of {escape(key)}")
        return
    table = table_of("what", "where", "key", "values")
    for row in rows:
        by = f" by {', '.join(row['by'])} of {row['of']}" if "by" in row else ""
        values = ", ".join(f"{name}={value}" for name, value in row["values"].items())
        table.add_row(row["what"] + by, row.get("name", row["place"]), escape(row["key"]), escape(values))
    print_table(table)


@state_app.command("verify")
@grouped
def state_verify(file: PipelineFile, options: StoreOptions) -> None:
    """Check every checkpoint: header, checksums, content, and that the logs reach back to it.

    Exit code 1 where one would not be taken.  Workers may run; without a broker the logs are not looked at.
    """
    from msgspec import to_builtins  # noqa: PLC0415

    from engine.cli.report import print_table, table_of  # noqa: PLC0415
    from engine.state.contents import working_directory  # noqa: PLC0415
    from engine.state.verification import verify  # noqa: PLC0415

    pipeline, settings = load_pipeline(file), options.stored()
    with working_directory(settings) as folder:
        rows = asyncio.run(verify(pipeline, settings, folder))
    bad = [row for row in rows if row.problem]
    if options.json:
        print_json({"ok": not bad, "checkpoints": to_builtins(rows)})
    else:
        table = table_of("checkpoint", "logs", "problem", numbers=("claim", "entries", "bytes"))
        for row in rows:
            sizes = (f"{number:,}" for number in (row.claim, row.entries, row.bytes))
            table.add_row(row.name, row.logs, row.problem or "none", *sizes)
        print_table(table)
    if bad:
        raise typer.Exit(1)


@state_app.command("snapshot")
@grouped
def state_snapshot(folder: Folder, file: PipelineFile, options: StoreOptions) -> None:
    """Copy every checkpoint and stored model into a new folder, signed; workers may run."""
    from msgspec import to_builtins  # noqa: PLC0415

    from engine.state.snapshots import take  # noqa: PLC0415

    manifest = asyncio.run(take(load_pipeline(file), options.stored(), folder))
    if options.json:
        print_json(to_builtins(manifest))
    else:
        size = sum(one.bytes for one in manifest.files)
        typer.echo(
            f"{len(manifest.files)} files, {size:,} bytes\nnext: headrace state restore {folder} {file}"
        )


@state_app.command("restore")
@grouped
def state_restore(
    folder: Folder,
    file: PipelineFile,
    options: StoreOptions,
    over_newer: Annotated[
        bool, typer.Option("--over-newer", help="Also over a store that has handed out a newer claim.")
    ] = False,
) -> None:
    """Put a snapshot into the store of the settings, a directory or a Redis; stop the workers first.

    Everything is checked before anything is written.
    """
    from msgspec import to_builtins  # noqa: PLC0415

    from engine.state.contents import working_directory  # noqa: PLC0415
    from engine.state.snapshots import restore  # noqa: PLC0415

    pipeline, settings = load_pipeline(file), options.stored()
    with working_directory(settings) as copies:
        manifest = asyncio.run(restore(pipeline, settings, folder, copies, over_newer=over_newer))
    if options.json:
        print_json(to_builtins(manifest))
    else:
        count = sum(one.role is not None for one in manifest.files)
        typer.echo(f"{count} checkpoints restored\nnext: headrace run {file}")
