"""`headrace backtest`: a pipeline over files.

Lives here: its options, what it writes, its report in words and tables, and what rows say of blocks of
evidence (`headrace check`).  Never here: the run (`engine/offline/backtest.py`), what a failed one is put
down to (`engine/offline/diagnosis.py`), comparisons (`questions.py`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.offline.questions import PastOptions, compare, past_told
from engine.cli.offline.runs import runs_in
from engine.cli.options import Json, PipelineFile, grouped, print_json, write_file
from engine.definition.file import load_pipeline
from topics.errors import SettingsError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from engine.machines.learner import Learner
    from engine.settings import Settings

__all__ = ["backtest_files", "premise_of", "print_diagnosis", "print_report"]

ALERTS_PRINTED_MAX = 20
"""Alerts that are printed; `--json` has more."""


@dataclass(frozen=True)
class OutputOptions:
    """What a backtest writes beside its report."""

    features_out: Annotated[Path | None, typer.Option(help="Write each event's features here.")] = None
    predictions_out: Annotated[Path | None, typer.Option(help="Write each prediction here.")] = None
    dead_letters_out: Annotated[
        Path | None, typer.Option(help="Write each refused record here, with the reason.")
    ] = None
    save: Annotated[
        Path | None, typer.Option(help="Save the learned models here, for `run --from-backtest`.")
    ] = None
    record: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write what a worker would have written to its topics here."),
    ] = None
    curves_out: Annotated[
        Path | None,
        typer.Option(help="Write loss over time here, by event and by label time: .csv or .json."),
    ] = None
    save_run: Annotated[
        bool, typer.Option("--save-run", help="Keep what was run and what came of it, for `headrace runs`.")
    ] = False
    runs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where --save-run keeps it; default STATE_DIR/runs.")
    ] = None


@grouped
def backtest_files(
    file: PipelineFile,
    origin: PastOptions,
    outputs: OutputOptions,
    warmup: Annotated[int, typer.Option(min=0, help="Leave the first N events out of the metrics.")] = 0,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHANGE",
            help="Compare with challenger=FILE.py:NAME, champion=, promotion=, serving=; repeatable.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run a pipeline over files: the same state machines, no broker.

    Exit code 1, and a diagnosis, where nothing was learned or most of the input came to nothing.
    """
    if what_if:
        if warmup or outputs != OutputOptions():
            raise SettingsError(
                "--what-if compares two races and writes nothing",
                hint="leave --warmup, --record, --save and --*-out out",
            )
        compare(load_pipeline(file), what_if, origin, json=json)
        return
    if origin.events is None or origin.recording is not None:
        raise SettingsError(
            "a backtest without --what-if reads events", hint="give --events FILE, and no --recording"
        )
    pipeline = load_pipeline(file)
    if pipeline.per is not None:
        _run_keyed(pipeline, origin, outputs, warmup, json=json)
        return
    report, learner = _run(pipeline, origin.events, origin, outputs, warmup)
    _keep(pipeline, report, learner, origin, outputs, warmup)
    if json:
        print_json(report)
    else:
        print_report(report)
    if report["diagnosis"] is not None:
        print_diagnosis(report["diagnosis"])
        raise typer.Exit(1)
    if outputs.save is not None:
        _save_models(pipeline, learner, outputs.save, origin.settings())
    if not json:
        begin = "" if outputs.save is None else f" --from-backtest {outputs.save}"
        typer.echo(f"\nnext: headrace topics create {file}   then   headrace run {file}{begin}")


def _run_keyed(
    pipeline: Pipeline, origin: PastOptions, outputs: OutputOptions, warmup: int, *, json: bool
) -> None:
    """Run a pipeline whose keys have races of their own, and print its report."""
    from engine.cli.report import progress  # noqa: PLC0415
    from engine.host.garbage import search_rarely  # noqa: PLC0415
    from engine.offline.json_lines import writing  # noqa: PLC0415
    from engine.offline.keyed.keyed_backtest import keyed_backtest  # noqa: PLC0415

    assert origin.events is not None
    others = outputs.record, outputs.save, outputs.curves_out, outputs.runs
    if warmup or outputs.save_run or any(one is not None for one in others):
        raise SettingsError(
            "--warmup, --record, --save, --save-run and --curves-out are not offered where each key has a"
            " race of its own",
            hint="leave them out, or run the pipeline without `per` over the events of one key",
        )
    search_rarely()
    with (
        writing(outputs.features_out) as features,
        writing(outputs.predictions_out) as predictions,
        writing(outputs.dead_letters_out) as dead_letters,
        progress(origin.bytes_to_read) as advance,
    ):
        report = keyed_backtest(
            pipeline,
            origin.events,
            origin.labels,
            static=origin.looked_up(),
            features_out=features,
            predictions_out=predictions,
            dead_letters_out=dead_letters,
            on_progress=advance,
        )
    if json:
        print_json(report)
    else:
        print_report(report)
    if report["diagnosis"] is not None:
        print_diagnosis(report["diagnosis"])
        raise typer.Exit(1)


def _run(
    pipeline: Pipeline, events: Path, origin: PastOptions, outputs: OutputOptions, warmup: int
) -> tuple[dict[str, Any], Learner]:
    """Return the report of a run, and the learner as it is at the end."""
    from engine.cli.report import progress  # noqa: PLC0415
    from engine.host.garbage import search_rarely  # noqa: PLC0415
    from engine.offline.backtest import backtest  # noqa: PLC0415
    from engine.offline.json_lines import writing  # noqa: PLC0415
    from engine.offline.recording import Recording  # noqa: PLC0415
    from engine.offline.rerun import model_factory_of  # noqa: PLC0415

    learners: list[Learner] = []
    search_rarely()
    with (
        writing(outputs.features_out) as features,
        writing(outputs.predictions_out) as predictions,
        writing(outputs.dead_letters_out) as dead_letters,
        (
            contextlib.nullcontext() if outputs.record is None else Recording(outputs.record, pipeline)
        ) as written,
        progress(origin.bytes_to_read) as advance,
    ):
        report = backtest(
            pipeline,
            events,
            origin.labels,
            warmup=warmup,
            static=origin.looked_up(),
            features_out=features,
            predictions_out=predictions,
            dead_letters_out=dead_letters,
            recording=written,
            source=model_factory_of(pipeline, origin.settings(), keep=outputs.record is not None),
            on_progress=advance,
            on_end=learners.append,
        )
    return report, learners[0]


def premise_of(pipeline: Pipeline, origin: PastOptions) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return whether blocks of evidence stand alone in a past; and, where files came to nothing, why."""
    from engine.offline.backtest import correlated  # noqa: PLC0415

    if origin.events is not None and origin.recording is None:
        report, learner = _run(pipeline, origin.events, origin, OutputOptions(), 0)
        too_short, diagnosis = report["correlated"], report["diagnosis"]
    else:
        past = past_told(pipeline, origin, origin.settings())
        learner, diagnosis = past.learner, None
        too_short = correlated(learner, past.decisions)
    premise = {
        "evidence_block": pipeline.promotion.evidence_block,
        "examples": learner.examples,
        "compared": [
            {
                "model": one.name,
                "champion": learner.roster.champion,
                "correlation": one.correlation,
                "blocks": one.blocks,
            }
            for one in learner.evidence.compared()
            if one.blocks > 1
        ],
        "correlated": too_short,
    }
    return premise, diagnosis


def _keep(
    pipeline: Pipeline,
    report: dict[str, Any],
    learner: Learner,
    origin: PastOptions,
    outputs: OutputOptions,
    warmup: int,
) -> None:
    """Write the curves and the record of a run, where they are asked for."""
    from engine.offline.runs.curves import curve_rows, written_curves  # noqa: PLC0415
    from engine.offline.runs.records import record_of  # noqa: PLC0415

    if outputs.curves_out is not None:
        curves = written_curves(learner.evaluation, report["judged_by"], outputs.curves_out)
        write_file(outputs.curves_out, curves)
    if outputs.save_run or outputs.runs is not None:
        inputs = {"events": origin.events, "labels": origin.labels, "static": origin.static}
        record = record_of(
            pipeline,
            report,
            curve_rows(learner.evaluation),
            files={name: path for name, path in inputs.items() if path is not None},
            started_ms=round((time.time() - report["seconds"]) * 1_000),
            warmup=warmup,
        )
        path = runs_in(outputs.runs, origin.config).add(record)
        typer.echo(f"kept as run {record.run_id} in {path.parent}", err=True)


def _save_models(pipeline: Pipeline, learner: Learner, folder: Path, settings: Settings) -> None:
    """Save the models of a backtest, signed as a worker of these settings signs, and say so."""
    from engine.stores.saved import save  # noqa: PLC0415
    from engine.worker.assembly import signing_keys  # noqa: PLC0415

    saved = save(pipeline, learner, folder, signing_keys(settings))
    typer.echo(f"saved {', '.join(saved.models)} in {folder}: {saved.examples:,} examples learned", err=True)


# -- the report ---------------------------------------------------------------------------------------


def print_report(report: dict[str, Any]) -> None:
    """Print a backtest's result as River users expect it: one row a model, one column a metric."""
    from engine.cli.report import out  # noqa: PLC0415
    from engine.watches import letter_lines  # noqa: PLC0415

    _print_scores(report)
    rate = report["events"] / report["seconds"] if report["seconds"] else 0.0
    out.print(
        f"\n{report['events']:,} events, {report['labels']['read']:,} labels, "
        f"{report['examples']:,} examples, "
        f"{report['dead_letters']:,} dead letters in {report['seconds']:.1f} s ({rate:,.0f} events/s)"
    )
    for line in letter_lines(report["dead_letters_by_stage"]):
        out.print(f"dead letters: {line}", markup=False)
    for what, counts in report["outcomes"].items():
        if counts:
            out.print(
                f"{what.replace('_', ' ')}: " + ", ".join(f"{name} {n:,}" for name, n in counts.items())
            )
    if report["labels_waiting"]:
        out.print(f"labels whose event had not come at the end: {report['labels_waiting']:,}")
    for alert in report["alerts"][:ALERTS_PRINTED_MAX]:
        out.print(f"alert {alert['state']}: {alert['says']}", markup=False)
    for what in ("rules", "function_failures"):
        if report[what]:
            out.print(
                f"{what.replace('_', ' ')}: " + ", ".join(f"{name} {n:,}" for name, n in report[what].items())
            )
    if "by_key" in report:
        _print_by_key(report)
    else:
        _print_race(report)


def _print_by_key(report: dict[str, Any]) -> None:
    """Print the races of the most examples, and what was decided in all."""
    from rich.text import Text  # noqa: PLC0415

    from engine.cli.report import figure_text, out, print_table, table_of  # noqa: PLC0415

    races, rows = report["races"], report["by_key"]
    out.print(
        f"\nraces, one per {report['per']}: {races['begun']:,} begun, {races['in_memory']:,} in memory at "
        f"the end, {races['evicted']:,} times one left memory, {races['restored']:,} times one came back",
        markup=False,
    )
    metrics = list(rows[0]["served"]) if rows else []
    table = table_of(report["per"], "champion", numbers=["examples", "swaps", *metrics])
    for row in rows:
        figures = [figure_text(row["served"].get(metric)) for metric in metrics]
        cells = (row["key"], row["champion"], f"{row['examples']:,}", f"{row['swaps']:,}", *figures)
        table.add_row(*map(Text, cells))
    print_table(table)
    if races["begun"] > len(rows):
        out.print(f"... the {len(rows)} races of the most examples")
    if report["decisions"]:
        out.print("decisions: " + ", ".join(f"{name} {n:,}" for name, n in report["decisions"].items()))


def _print_scores(report: dict[str, Any]) -> None:
    """Print what was served, every model and the baselines, on the same rows; first what decides."""
    from engine.cli.report import figure_text, out, print_table, table_of  # noqa: PLC0415

    metrics, rows = list(report["served"]), report["rows"]
    counted = len(set(rows.values())) > 1
    table = table_of("model", numbers=["loss", *metrics, *(["rows"] if counted else [])])
    table.add_column("seconds", justify="right", style="dim")

    def add(
        name: str, scores: Mapping[str, float], *, shown: str, seconds: str = "", style: str = ""
    ) -> None:
        numbers = [
            figure_text(report["losses"].get(name)),
            *(figure_text(scores.get(metric)) for metric in metrics),
        ]
        if counted:
            numbers.append(f"{rows[name]:,}" if name in rows else "")
        table.add_row(shown, *numbers, seconds, style=style)

    add("served", report["served"], shown="served", style="bold")
    for model, scores in report["models"].items():
        seconds = report["model_seconds"].get(model, 0.0)
        add(model, scores, shown=model + _mark(model, report), seconds=f"{seconds:.1f}")
    for name, scores in report["baselines"].items():
        add(name, scores, shown=name, style="dim")
    print_table(table)
    left_out = report["rows_left_out"]
    out.print(
        f"loss: {report['judged_by']}"
        + (f"; left out are examples on which a model had no opinion: {left_out:,}" if left_out else "")
    )


def _print_race(report: dict[str, Any]) -> None:
    """Print what happened to the candidates, and what the swaps rest on."""
    from rich.markup import escape  # noqa: PLC0415

    from engine.cli.report import (  # noqa: PLC0415
        out,
        print_correlated,
        swap_line,
        time_text,
        verdict_line,
    )

    for model, left in report["quarantined"].items():
        out.print(
            f"[bold red]{model} ({left['alias']}) was quarantined at example {left['examples']:,}:[/] "
            f"{escape(left['reason'])}"
        )
    for opening in report["openings"][-5:]:
        out.print(
            f"{time_text(opening['time'])}  opening.started  {opening['model']} ({opening['reason']}) serves "
            f"until something is proven better"
        )
    for start in report["starts"]:
        last = f"{start['model']} at {start['examples']:,} examples"
        out.print(
            f"{time_text(start['time'])}  challenger.started  "
            + (last if start["count"] == 1 else f"{start['count']:,} times, last {last}")
            + f" ({start['reason']})",
            markup=False,
        )
    for drift in report["drifts"][-5:]:
        out.print(f"{time_text(drift['time'])}  {drift['type']}  {drift['model']}  {drift['reason']}")
    if len(report["drifts"]) > 5:
        out.print(f"... {len(report['drifts'])} drift alarms in all")
    for verdict in report["verdicts"]:
        out.print(verdict_line(verdict), markup=False)
    for swap in report["swaps"]:
        out.print(swap_line(swap))
    print_correlated(report["correlated"])


def print_diagnosis(diagnosis: dict[str, Any]) -> None:
    """Print why a run failed, to the error output."""
    from engine.cli.report import err  # noqa: PLC0415

    err.print(f"\nerror: the run failed: {'; '.join(diagnosis['failures'])}", markup=False, soft_wrap=True)
    for cause in diagnosis["causes"]:
        err.print(f"  cause: {cause['what']}\n    fix: {cause['fix']}", markup=False, soft_wrap=True)


def _mark(model: str, report: dict[str, Any]) -> str:
    """Return the mark behind a model's name in the table."""
    if (quarantine := report.get("quarantined", {}).get(model)) is not None:
        return f" (quarantined at example {quarantine['examples']:,})"
    return " (champion)" if model == report.get("champion") else ""
