"""`headrace runs`: backtests that were kept, listed and compared.

Lives here: arguments and tables.  Never here: the records (`engine/offline/runs`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import Config, Json, print_json, settings_of
from topics.errors import SettingsError

if TYPE_CHECKING:
    from engine.offline.runs.records import Runs

__all__ = ["RUNS_FOLDER", "runs_app", "runs_in"]

RUNS_FOLDER = "runs"
"""Of the state directory."""
TEXT_CHARS_MAX = 60

runs_app = typer.Typer(help="Backtests that were kept (`backtest --save-run`).", no_args_is_help=True)
Folder = Annotated[
    Path | None, typer.Option("--runs", metavar="DIR", help="Records; default STATE_DIR/runs.")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Its id, the end of it, or -1 for the last.")]


def runs_in(folder: Path | None, config: Path | None = None) -> Runs:
    """Return the records of a folder, of the settings' own where none is given."""
    from engine.offline.runs.records import Runs  # noqa: PLC0415

    return Runs(folder if folder is not None else settings_of(config, None).state_dir / RUNS_FOLDER)


@runs_app.command("list")
def list_runs(folder: Folder = None, config: Config = None, json: Json = False) -> None:
    """List the runs that were kept, the oldest first."""
    from engine.cli.report import figure_text, print_table, table_of, time_text  # noqa: PLC0415

    records = runs_in(folder, config).all()
    if json:
        told = [
            {
                "run_id": one.run_id,
                "pipeline": one.pipeline,
                "started_ms": one.started_ms,
                "seconds": one.seconds,
                "examples": one.examples,
                "champion": one.champion,
                "metrics": one.metrics,
            }
            for one in records
        ]
        print_json({"runs": told})
        return
    table = table_of("run", "pipeline", "started", "champion", numbers=["examples", "seconds", "loss"])
    for one in records:
        loss = figure_text(one.metrics.get("served", {}).get("loss"))
        figures = f"{one.examples:,}", f"{one.seconds:.1f}", loss
        table.add_row(one.run_id, one.pipeline, time_text(one.started_ms), one.champion, *figures)
    print_table(table)


@runs_app.command("diff", context_settings={"ignore_unknown_options": True})
def diff_runs(
    before: Run, after: Run, folder: Folder = None, config: Config = None, json: Json = False
) -> None:
    """Show what differs between two runs: the definition, the data, the versions, and what came of it."""
    from engine.cli.report import out  # noqa: PLC0415
    from engine.offline.runs.records import differences  # noqa: PLC0415

    runs = runs_in(folder, config)
    first, second = runs.get(before), runs.get(after)
    if first.pipeline != second.pipeline:
        raise SettingsError(
            f"{first.run_id} is of `{first.pipeline}` and {second.run_id} of `{second.pipeline}`",
            hint="compare runs of one pipeline",
        )
    told = differences(first, second)
    if json:
        print_json(told)
        return
    for what in ("parameters", "files", "versions"):
        for name, texts in told[what].items():
            out.print(f"{name}: {_short(texts['before'])} -> {_short(texts['after'])}", markup=False)
    if not any(told[what] for what in ("parameters", "files", "versions")):
        out.print("same definition, data and versions")
    _print_metrics(told)


def _short(text: str | None) -> str:
    if text is None:
        return "none"
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[:TEXT_CHARS_MAX]}..."


def _print_metrics(told: dict[str, Any]) -> None:
    from engine.cli.report import figure_text, print_table, table_of  # noqa: PLC0415

    table = table_of("model", "metric", numbers=["before", "after", "change"])
    for model, by_metric in told["metrics"].items():
        for metric, one in by_metric.items():
            change = "" if one["change"] is None else f"{one['change']:+.4f}"
            table.add_row(model, metric, figure_text(one["before"]), figure_text(one["after"]), change)
    table.add_row("", "seconds", *(f"{told['seconds'][when]:.1f}" for when in ("before", "after")), "")
    print_table(table)
