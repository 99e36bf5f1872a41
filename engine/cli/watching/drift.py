"""`headrace drift`: the verdict on shift that lasts, those before it, and what detectors have said.

Lives here: arguments, lines, the exit code.  Never here: what a verdict is (`operators/drift`), which of them
a log holds (`engine/offline/backtest.py` says the same of a report).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.models import logs_from
from engine.cli.options import Json, PipelineFile, RaceLogOptions, grouped, print_json
from topics.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["drift_app"]

drift_app = typer.Typer(help="What has shifted: verdicts, and alarms of detectors.", no_args_is_help=True)
LASTS_EXIT = 4
"""As of skew: what is served is not what was learned.  1 is kept for what failed, such as a broker away."""
SHOWN = 20


@drift_app.command("list")
@grouped
def drift_list(
    file: PipelineFile,
    source: RaceLogOptions,
    every: Annotated[bool, typer.Option("--all", help=f"All of them, not only the newest {SHOWN}.")] = False,
    json: Json = False,
) -> None:
    """Show the verdict on shift that lasts, and those before it; exit code 4 while one lasts.

    With `drift=[...]`, what detectors said too.
    """
    from engine.offline.backtest import race_report  # noqa: PLC0415

    pipeline, logs = logs_from(file, source)
    if pipeline.watch is None and not pipeline.field.drift:
        raise SettingsError(
            f"{pipeline.name} watches for no shift",
            hint="give the pipeline watch=Watch() or drift=[Drift(...)]",
        )
    report = race_report(pipeline.name, asyncio.run(logs.decisions()))
    verdicts, alarms = report["verdicts"], report["drifts"]
    lasts = next((one for one in verdicts[-1:] if one["until"] is None), None)
    if json:
        shown = slice(None) if every else slice(-SHOWN, None)
        print_json({"lasts": lasts, "verdicts": verdicts[shown], "drifts": alarms[shown]})
    else:
        _print(file, lasts, verdicts, alarms, every=every)
    if lasts is not None:
        raise typer.Exit(LASTS_EXIT)


def _print(
    file: Path,
    lasts: Mapping[str, Any] | None,
    verdicts: Sequence[Mapping[str, Any]],
    alarms: Sequence[Mapping[str, Any]],
    *,
    every: bool,
) -> None:
    from engine.cli.report import out, time_text, verdict_line  # noqa: PLC0415

    out.print("no shift lasts" if lasts is None else f"lasts: {verdict_line(lasts)}", markup=False)
    before = [verdict_line(one) for one in verdicts if one is not lasts]
    said = [f"{time_text(one['time'])}  {one['type']}  {one['model']}  {one['reason']}" for one in alarms]
    for title, lines in (("before", before), ("detectors", said)):
        if lines:
            out.print(f"{title}:", markup=False)
        for line in lines if every else lines[-SHOWN:]:
            out.print(f"  {line}", markup=False)
        if not every and len(lines) > SHOWN:
            out.print(f"  ... {len(lines) - SHOWN:,} more: --all", markup=False)
    out.print(
        f"\nnext: headrace models history {file}   or   headrace alerts list {file}",
        markup=False,
    )
