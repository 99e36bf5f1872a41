"""`headrace freshness` and `headrace backtest --what-if`: questions to a past.

Lives here: where the past comes from, tables, the picture's file.  Never here: the answers
(`engine/offline/what_if.py`, `engine/offline/freshness.py`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import Json, LogOptions, PipelineFile, grouped, print_json, write_file
from engine.definition.file import load_pipeline
from topics.durations import duration_ms
from topics.errors import SettingsError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from engine.offline.rerun import Past
    from engine.settings import Settings
    from engine.worker.model_factory import ModelFactory
    from operators.windows.asof import AsOf

__all__ = ["PastOptions", "compare", "freshness", "past_told"]

FIGURES_SHOWN = 3
"""Loss and metrics in a table of a terminal's width; `--json` has all."""
SAME_SHARE = 0.999
"""Below this share of scores that come out as recorded, the answer is said to be approximate."""


@dataclass(frozen=True)
class PastOptions(LogOptions):
    """Where a past comes from: files, or a log."""

    events: Annotated[Path | None, typer.Option(help="Event messages, one JSON object a line (.gz too).")] = (
        None
    )
    labels: Annotated[Path | None, typer.Option(help="Label messages, one JSON object a line (.gz too).")] = (
        None
    )
    static: Annotated[
        Path | None,
        typer.Option(
            help='What lookups find as of each event: lines of {"key", "time", "fields"} (.gz too).'
        ),
    ] = None

    @property
    def given(self) -> bool:
        """Return whether any past is named; settings alone name none."""
        return any((self.events, self.labels, self.static, self.recording, self.bootstrap_servers))

    @property
    def bytes_to_read(self) -> int:
        """Return the size of both files, compressed where they are."""
        return sum(
            path.stat().st_size for path in (self.events, self.labels) if path is not None and path.is_file()
        )

    def looked_up(self) -> AsOf | None:
        """Return what lookups find, where there is a file of it."""
        from engine.offline.json_lines import read_static  # noqa: PLC0415
        from operators.windows.asof import AsOf  # noqa: PLC0415

        return None if self.static is None else AsOf(read_static(self.static))


@grouped
def freshness(
    file: PipelineFile,
    origin: PastOptions,
    withhold: Annotated[
        list[str] | None,
        typer.Option(metavar="SPAN", help="Withhold updates for so long: 1h, 1d, 7d; repeatable."),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw loss against what is withheld here.")] = None,
    json: Json = False,
) -> None:
    """Show what later updates cost: the race with everything learned withheld for an hour, a day, a week."""
    from engine.offline.freshness import SPANS, freshness_report, picture  # noqa: PLC0415
    from engine.offline.rerun import model_factory_of  # noqa: PLC0415

    pipeline = load_pipeline(file)
    spans = {span: duration_ms(span) for span in withhold or SPANS}
    settings = origin.settings()
    source = model_factory_of(pipeline, settings)
    past = past_told(pipeline, origin, settings, source)
    told = None if json else lambda span: typer.echo(f"withheld {span} ...", err=True)
    report = freshness_report(pipeline, past, spans, on_run=told, source=source)
    if svg is not None:
        write_file(svg, picture(report, f"{pipeline.name}: loss against freshness").encode())
    if json:
        print_json(report)
    else:
        _print_freshness(report)


def compare(pipeline: Pipeline, changes: list[str], origin: PastOptions, *, json: bool) -> None:
    """Print what a past came to, and what it would have come to with changes."""
    from engine.offline.what_if import asked_of, what_if_report  # noqa: PLC0415

    settings = origin.settings()
    asked = asked_of(pipeline, changes, settings)
    if origin.events is not None:  # a log names the states that it began with
        asked.source.brought(asked.pipeline.field, asked.pipeline.candidates)
    past = past_told(pipeline, origin, settings)
    report = what_if_report(pipeline, asked, past)
    if json:
        print_json(report)
    else:
        _print_what_if(report)


def past_told(
    pipeline: Pipeline, origin: PastOptions, settings: Settings, source: ModelFactory | None = None
) -> Past:
    """Return the past that is asked about: of files, of a recording, or of the pipeline's own topic."""
    from engine.cli.report import progress  # noqa: PLC0415
    from engine.host.garbage import search_rarely  # noqa: PLC0415
    from engine.offline.rerun import (  # noqa: PLC0415
        logged_records,
        model_factory_of,
        past_of,
        past_of_files,
    )

    search_rarely()
    source = source or model_factory_of(pipeline, settings)
    if origin.events is None:
        if origin.labels is not None or origin.static is not None:
            raise SettingsError("there are no events", hint="give --events FILE too, or neither of the files")
        kafka = settings.kafka if origin.recording is None else None
        records = asyncio.run(logged_records(pipeline, origin.recording, kafka))
        return past_of(pipeline, records, source)
    if origin.recording is not None:
        raise SettingsError("there are two pasts", hint="give --events FILE or --recording FOLDER")
    with progress(origin.bytes_to_read) as advance:
        return past_of_files(
            pipeline,
            origin.events,
            origin.labels,
            static=origin.looked_up(),
            source=source,
            on_progress=advance,
        )


def _print_what_if(report: dict[str, Any]) -> None:
    """Print both runs side by side: loss and metrics, then the swaps of each."""
    from engine.cli.report import out, print_table, swap_line, table_of  # noqa: PLC0415

    before, after = report["recorded"], report["what_if"]
    figures = _figures(before)[:FIGURES_SHOWN]
    table = table_of("", numbers=[head for figure in figures for head in (figure, "what if")])
    for name in dict.fromkeys([*before["series"], *after["series"]]):
        cells = [_cell(run, name, figure) for figure in figures for run in (before, after)]
        table.add_row(name, *cells, style="bold" if name == "served" else None)
    out.print(
        f"what if: {', '.join(report['changes'])}\n{report['rows']:,} of {report['examples']:,} examples: "
        "those that both answered with something learned\n",
        markup=False,
    )
    print_table(table)
    if report["field_changes_left_out"]:
        out.print(
            f"\nnote: {report['field_changes_left_out']} changes of the field are in the log; what if, its "
            "field races from the first record on",
            markup=False,
        )
    for title, run in (("recorded", before), ("what if", after)):
        out.print(f"\n{title}: {len(run['swaps'])} swaps, {run['champion']} at the end", markup=False)
        for swap in run["swaps"]:
            out.print(f"  {swap_line(swap)}", markup=False)
    _print_sameness(report)


def _print_freshness(report: dict[str, Any]) -> None:
    from engine.cli.report import out, print_table, table_of  # noqa: PLC0415

    runs = report["runs"]
    figures = _figures(runs[0])[:FIGURES_SHOWN]
    names = report["candidates"]
    table = table_of("withheld", numbers=(*figures, *names, "swaps"))
    for run in runs:
        cells = [_cell(run, "served", figure) for figure in figures]
        cells += [_cell(run, name, "loss") for name in names]
        table.add_row(run["withheld"], *cells, str(len(run["swaps"])))
    out.print(f"served: {', '.join(figures)}; by candidate: loss\n", markup=False)
    print_table(table)
    fresh, latest = (run["series"]["served"]["loss"] for run in (runs[0], runs[-1]))
    out.print(
        f"\nupdates withheld for {runs[-1]['withheld']} cost {latest - fresh:+.4f} of served loss, over "
        f"{report['rows']:,} of {report['examples']:,} examples: those that all runs answered with something "
        "learned"
    )
    _print_sameness(report)


def _print_sameness(report: dict[str, Any]) -> None:
    """Warn where the past could not be told to the bit: some scores came out otherwise than recorded."""
    from engine.cli.report import out  # noqa: PLC0415

    compared, same = report["scores_compared"], report["scores_same"]
    if same < compared * SAME_SHARE:
        out.print(
            f"\nwarning: {compared - same:,} of {compared:,} recorded scores come out otherwise, so this is "
            "an approximation: the log does not say what was known when each event was answered",
            markup=False,
        )


def _figures(run: dict[str, Any]) -> list[str]:
    """Return the figures that a run has: its loss and its metrics."""
    return ["loss", *run["series"]["served"]["metrics"]]


def _cell(run: dict[str, Any], name: str, figure: str) -> str:
    series = run["series"].get(name)
    if series is None:
        return ""
    value = series["loss"] if figure == "loss" else series["metrics"].get(figure)
    return "" if value is None else f"{value:.4f}"
