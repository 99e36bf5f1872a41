"""`headrace bench`: the command and its exit code.

Lives here: options in, what is sent.  Never here: the run itself (`openloop.py`), the report and its verdict
(`report.py`), the pipeline that is loaded instead of yours (`sandbox.py`), `bench compare`
(`compare_command.py`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.offline.json_lines import read_lines
from engine.settings import KafkaSettings, load_settings
from loadtest.bench.compare_command import compare_files
from loadtest.bench.feed import Feed, made_up_rows, parsed_rows
from loadtest.bench.ledger import EVENTS_MAX, histogram_class
from loadtest.bench.openloop import Load
from loadtest.bench.page import load_page
from loadtest.bench.report import print_load, report
from loadtest.bench.runs import CopyRuns, RateSearch, found_rate, run_load
from loadtest.bench.sandbox import sandbox
from loadtest.bench.schedule import LOAD_SCENARIOS
from loadtest.bench.search_report import print_search, search_report, tell_step
from loadtest.bench.slo import STEPS_MAX, SloBound, parsed_bounds
from loadtest.signals import interrupted_by_signals
from topics.codec import encode_json
from topics.durations import duration_ms
from topics.errors import SettingsError

__all__ = ["NOT_SUSTAINED", "command"]

NOT_SUSTAINED = 5
"""The exit code of a run whose rate was not sustained."""
MADE_UP = 10_000
"""Distinct made-up events; they are sent round and round."""
LABEL_DELAY_MS = 1_000
"""Labels follow their events after this, or after half of `wait` where that is shorter."""
LIVE = (
    "--live: events with the time of now go to {events}, for good. The pipeline that reads it takes them for "
    "real: they fill its windows, move its watermark, so that older events are late, and wait for labels "
    "that never come. No labels are sent."
)
command = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
"""`headrace bench` itself is a load test; what compares its reports stands below it."""


@command.callback()
def load(
    context: typer.Context,
    *,
    pipeline: Annotated[Path | None, typer.Option(help="The pipeline file; it is needed.")] = None,
    bootstrap_servers: Annotated[str | None, typer.Option(help="Kafka; default as for `run`.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file; default headrace.toml.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Events per second, whatever comes back.")] = 1_000.0,
    scenario: Annotated[str, typer.Option(help=f"What is sent: {', '.join(LOAD_SCENARIOS)}.")] = "steady",
    duration: Annotated[str, typer.Option(help="How long events are sent.")] = "30s",
    warmup: Annotated[str, typer.Option(help="First part that is matched but not timed.")] = "2s",
    patience: Annotated[
        str, typer.Option(help="Without a new answer for so long, what is missing is lost.")
    ] = "15s",
    events: Annotated[
        Path | None, typer.Option(help="Events to send round and round, JSON lines (.gz too).")
    ] = None,
    label_delay: Annotated[
        str | None, typer.Option(help="From an event to its made-up label; default 1s.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of what is made up.")] = 0,
    slo: Annotated[
        list[str] | None,
        typer.Option(
            help="Search the highest rate that keeps this, from --rate on: 'p99<50ms', 'lost=0'; several."
        ),
    ] = None,
    slo_steps: Annotated[
        int, typer.Option(min=1, max=STEPS_MAX, help="Runs of a search at most.")
    ] = STEPS_MAX,
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Load the pipeline's own topics and running worker. It keeps the events."
        ),
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write the run as one page with plots.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Load a copy of a pipeline, with topics and a worker of its own, at a fixed rate; judge what comes back.

    Exit code 0: the rate was sustained (with --slo: the promise was kept at --rate); 5: it was not;
    1: answers were lost or wrong.
    """
    if context.invoked_subcommand is not None:
        return
    if pipeline is None:
        raise typer.BadParameter("give the pipeline file", param_hint="--pipeline")
    kafka = load_settings(
        config, **({"kafka": {"bootstrap_servers": bootstrap_servers}} if bootstrap_servers else {})
    ).kafka
    plan = _plan(scenario, rate, duration, warmup, patience, seed)
    histogram_class()  # if it is missing, that is said before anything starts
    definition = load_pipeline(pipeline)
    bounds = parsed_bounds(slo) if slo else ()
    _check_loadable(definition, plan, live=live, searches=bool(bounds))
    _check_writable(html, searches=bool(bounds))
    rows = _rows(definition, events, seed)
    Feed(definition.events, rows, run="")  # events that are none are told before anything starts
    with interrupted_by_signals():
        if live:
            typer.echo(LIVE.format(events=definition.catalog["events"]), err=True)
            feed = Feed(definition.events, rows, run=f"bench-{time.time_ns():x}")
            found = report(plan, definition, run_load(kafka, plan, definition, feed), learned=None)
        else:
            delay_ms = _label_delay_ms(definition, label_delay)
            with _copy(pipeline, kafka, definition, rows, delay_ms, seed) as runs:
                if bounds:
                    search = found_rate(runs.run, plan, bounds, tell_step, steps_max=slo_steps)
                else:
                    found = runs.run(plan)
    if bounds:
        raise typer.Exit(_conclude_search(definition.name, search, plan, bounds, json=json))
    raise typer.Exit(_conclude(definition.name, found, html, json=json))


command.command("compare")(compare_files)


def _plan(scenario: str, rate: float, duration: str, warmup: str, patience: str, seed: int) -> Load:
    """Return the load.  Raises SettingsError where it cannot be measured."""
    known = next((name for name in LOAD_SCENARIOS if name == scenario), None)
    if known is None:
        raise SettingsError(f"there is no scenario {scenario!r}", hint=f"one of {', '.join(LOAD_SCENARIOS)}")
    sent_s, warmup_s, patience_s = (duration_ms(text) / 1_000 for text in (duration, warmup, patience))
    plan = Load(rate, sent_s, warmup_s, patience_s, known, seed)
    if plan.events > EVENTS_MAX or plan.warmup_s >= plan.duration_s:
        raise SettingsError(
            f"{plan.events} events with a warm-up of {warmup} in {duration} cannot be measured",
            hint=f"send at most {EVENTS_MAX} events and warm up for less than the duration",
        )
    return plan


def _check_loadable(pipeline: Pipeline, plan: Load, *, live: bool, searches: bool) -> None:
    """Raise BadParameter where this load cannot be sent to this pipeline."""
    if live and searches:
        raise typer.BadParameter("a search loads a copy only: leave out --live", param_hint="--slo")
    if live and plan.scenario not in {"steady", "ramp", "burst"}:
        raise typer.BadParameter("this scenario loads a copy only: leave out --live", param_hint="--scenario")
    if pipeline.labels.topic is None and plan.scenario in {"label-flood", "drift"}:
        told = "the events carry their labels: there is no topic to send others to"
        raise typer.BadParameter(told, param_hint="--scenario")


def _check_writable(html: Path | None, *, searches: bool) -> None:
    """Raise BadParameter where no page can come of this, before anything starts."""
    if html is None:
        return
    if searches:
        raise typer.BadParameter("a search has many runs: take --json", param_hint="--html")
    if not html.resolve().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {html.resolve().parent}", param_hint="--html")


@contextlib.contextmanager
def _copy(
    file: Path,
    kafka: KafkaSettings,
    definition: Pipeline,
    rows: list[dict[str, Any]],
    delay_ms: int,
    seed: int,
) -> Iterator[CopyRuns]:
    """Hold a copy of the pipeline and its worker while the block runs loads on it.  Raises BrokerError."""
    with sandbox(file, kafka) as own:
        typer.echo(f"loading {own.pipeline.name}, a copy with topics and a worker of its own", err=True)
        own.wait_until_ready()
        yield CopyRuns(kafka, own, definition, rows=rows, label_delay_ms=delay_ms, seed=seed)


def _conclude(name: str, found: dict[str, Any], html: Path | None, *, json: bool) -> int:
    """Tell a run; return the exit code."""
    if html is not None:
        html.write_text(load_page(name, found), encoding="utf-8")
        typer.echo(f"the page of this run: {html}", err=True)
    if json:
        typer.echo(encode_json(found).decode())
    else:
        print_load(name, found)
    if found["lost"] or found["mismatched"]:
        return 1
    return 0 if found["verdict"]["sustained"] else NOT_SUSTAINED


def _conclude_search(
    name: str, search: RateSearch, plan: Load, bounds: Sequence[SloBound], *, json: bool
) -> int:
    """Tell a search; return the exit code."""
    if json:
        typer.echo(encode_json(search_report(name, search, plan, bounds)).decode())
    else:
        print_search(name, search, bounds)
    if any(one["lost"] or one["mismatched"] for one in search.reports):
        return 1
    return 0 if search.rate is not None and search.rate >= plan.rate else NOT_SUSTAINED


def _rows(pipeline: Pipeline, events: Path | None, seed: int) -> list[dict[str, Any]]:
    if events is None:
        return made_up_rows(pipeline.events, count=MADE_UP, seed=seed)
    chunks = read_lines(events, pipeline.events.name)
    return parsed_rows(record.value or b"" for chunk in chunks for record in chunk)


def _label_delay_ms(pipeline: Pipeline, given: str | None) -> int:
    """Return how long after its event a label is sent.  Raises SettingsError where it would never join."""
    wait_ms = pipeline.labels.wait_ms
    delay_ms = min(LABEL_DELAY_MS, wait_ms // 2) if given is None else duration_ms(given)
    if pipeline.labels.topic is not None and delay_ms >= wait_ms:
        raise SettingsError(
            f"labels {delay_ms} ms after their events come too late: the pipeline's `wait` is {wait_ms} ms",
            hint="make --label-delay shorter than `wait`",
        )
    return delay_ms
