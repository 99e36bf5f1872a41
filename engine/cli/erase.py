"""`headrace erase`: a key's windows, waiting answers and served features go; what the logs hold is told.

Lives here: arguments, what is printed, exit codes.  Never here: the work (`engine/lineage/erasing.py`).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.deciding import AskOptions, user_name
from engine.cli.options import PipelineFile, grouped, print_json
from engine.definition.file import load_pipeline

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from engine.lineage.erasing import HeldRecords
    from engine.settings import Settings

__all__ = ["erase"]


@grouped
def erase(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key of the events topic.")],
    file: PipelineFile,
    options: AskOptions,
    logs: Annotated[
        bool, typer.Option("--logs/--no-logs", help="Search the topics for what still holds the key.")
    ] = True,
    rebuild: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Fold the examples without this key's, and keep the models here, signed."
        ),
    ] = None,
) -> None:
    """Erase a key: the owner of its partition forgets it at this place of the events; say where else it is.

    Exit code 1 where no owner has acted in time: the tombstone acts when one does.
    """
    from msgspec import to_builtins  # noqa: PLC0415

    from engine.lineage.commands import asking, fresh_command_id  # noqa: PLC0415
    from engine.lineage.erasing import ask_to_erase, held_in_logs  # noqa: PLC0415
    from topics.codec import encode  # noqa: PLC0415
    from topics.erasure import Erase  # noqa: PLC0415

    pipeline, settings = load_pipeline(file), options.settings()
    if rebuild is not None and pipeline.per is not None:
        raise typer.BadParameter("--rebuild is for one race over all keys: this pipeline has `per=`")
    actor = asking(settings, options.actor) or options.actor or user_name()
    asked = Erase(fresh_command_id(), key, time.time_ns() // 1_000_000, options.reason, actor)
    if options.dry_run:
        typer.echo(encode(asked).decode())
        return
    decision = asyncio.run(ask_to_erase(pipeline, settings, asked, deadline_s=options.timeout))
    held = asyncio.run(held_in_logs(pipeline, settings, key)) if logs else []
    digests = _rebuilt(pipeline, settings, key, rebuild) if rebuild is not None else {}
    if options.json:
        told = {"decision": to_builtins(decision), "logs": to_builtins(held), "rebuilt": digests}
        print_json(told)
        return
    windows, answers = decision.evidence.get("windows"), decision.evidence.get("answers")
    typer.echo(f"erased: {windows} keys of windows, {answers} answers and labels that waited")
    _print_held(held)
    for name, digest in digests.get("models", {}).items():
        typer.echo(f"rebuilt {name}: {digest}")


def _rebuilt(pipeline: Pipeline, settings: Settings, key: str, folder: Path) -> dict[str, Any]:
    """Fold the log without the key, keep the models; return their digests and what was left out."""
    from engine.cli.report import counting  # noqa: PLC0415
    from engine.lineage.erasing import rebuilt  # noqa: PLC0415
    from engine.lineage.sources import PipelineLogs  # noqa: PLC0415
    from engine.stores.saved import save  # noqa: PLC0415
    from engine.worker.assembly import signing_keys  # noqa: PLC0415

    source = PipelineLogs(pipeline, settings, None, counting("folded"))
    replay, left_out = asyncio.run(rebuilt(source, key))
    saved = save(pipeline, replay.learner, folder, signing_keys(settings))
    models = {name: model.digest for name, model in saved.models.items()}
    return {"folder": str(folder), "examples": saved.examples, "left_out": left_out, "models": models}


def _print_held(held: list[HeldRecords]) -> None:
    from engine.cli.report import print_table, table_of, time_text  # noqa: PLC0415

    if not held:
        return
    typer.echo("\nstill in the logs, which nobody can erase one record of:")
    table = table_of("topic:partition:offsets", "until", numbers=("records",))
    for one in held:
        until = one.until if one.until_ms is None else time_text(one.until_ms)
        table.add_row(f"{one.topic}:{one.partition}:{one.first}-{one.last}", until, f"{one.count:,}")
    print_table(table)
