"""Text output of commands: what several of them print with, the description of a pipeline, a topic plan.

Lives here: tables for people, built from plain values that `--json` prints as they are, times and figures as
text, progress, and what answers take while they wait for labels.  Never here: where the values come from,
what one command alone prints.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine.definition.candidates import scoring_models
from operators.join.pending import RESIDENT_MAX, WaitingAnswer, encode_entry
from operators.models.parameters import model_text
from operators.models.weighted import takes_weight
from operators.race.candidates import start_text
from operators.race.correlation import correlation_told
from operators.race.evaluation import default_metrics, is_correctable
from operators.race.evidence import AUTO
from topics.durations import duration_text
from topics.messages import FeatureValues, Prediction

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from operators.models.probe import ProbeReport
    from topics.catalog import TopicPlan

__all__ = [
    "bytes_per_answer",
    "counting",
    "describe",
    "err",
    "figure_text",
    "out",
    "print_correlated",
    "print_description",
    "print_plan",
    "print_premise",
    "print_table",
    "progress",
    "swap_line",
    "table_of",
    "time_text",
    "verdict_line",
    "waiting_at",
    "waiting_text",
]

RATES_PER_S = (1, 10, 100, 1_000)
"""Events per second of one partition."""
ROW_BYTES = 310
"""Bytes that names, index and half-filled pages of a checkpoint file add to an answer: measured."""
CHECKPOINTS_KEPT = 2
"""The last one and the one before, each in a file of its own."""
MEMORY_FACTOR = 2
"""An answer in memory, as objects, beside its bytes on disk: measured with 13 features."""

COUNT_EVERY_S = 0.5
"""Between two looks at how far a reading is."""
WIDE = 10_000
"""Columns where nobody looks at a terminal: no row is as long."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)


def table_of(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return a table for people, empty; columns of numbers stand to the right of the others."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def print_table(table: Table) -> None:
    """Print a table: as wide as a terminal, or else each row on one line, to be searched."""
    console = out if out.is_terminal else Console(width=WIDE, highlight=False)
    console.print(table)


def describe(pipeline: Pipeline, probed: Mapping[str, ProbeReport]) -> dict[str, Any]:
    """Return the output of `headrace check`: every feature with source and window, models, topics, state.

    `probed` tells of each model what scoring does to it.
    """
    plan = pipeline.plan
    return {
        "name": pipeline.name,
        "task": pipeline.task,
        "events": pipeline.events.name,
        "labels": pipeline.labels.topic or f"field `{pipeline.labels.field}` of the event",
        "wait_ms": pipeline.labels.wait_ms,
        "keep_the_first_label": metrics_that_keep(pipeline),
        "champion": pipeline.field.first_champion,
        "models": {name: type(model).__name__ for name, model in pipeline.estimators.items()},
        "starts": {
            name: start_text(candidate.start)
            for name, candidate in pipeline.candidates.items()
            if candidate.start != "fresh"
        },
        "serving": model_text(pipeline.serving),
        "scoring": {name: str(report) for name, report in probed.items() if report.guards},
        "lessons": _lessons_of(pipeline) if pipeline.labels.weighs else {},
        "rules": [
            {"rule": rule.name, "must_hold": rule.demand, "action": rule.action} for rule in pipeline.rules
        ],
        "alerts": [
            {"alert": one.name, "when": repr(one.when), "for": one.for_, "severity": one.severity}
            for one in pipeline.policies
        ],
        "features": [row._asdict() for row in plan.describe()],
        "state": {
            "key_groups": [", ".join(group) or "all events" for group in plan.key_groups],
            "window_max_ms": plan.window_max_ms,
            "bytes_per_event_kept": plan.bytes_per_event,
            "bytes_per_key_max": plan.bytes_per_key,
            "events_per_key_max": pipeline.max_events_per_key,
        },
        "waiting": waiting_at(pipeline),
        "stages": [] if pipeline.stages is None else pipeline.stages.describe(pipeline.events.partitions),
        "topics": {role: name for name, role in pipeline.catalog.roles.items()},
        "topic_plan": [one._asdict() for one in pipeline.catalog.plan(events=pipeline.events.partitions)],
    }


def _lessons_of(pipeline: Pipeline) -> dict[str, str]:
    """Return how the weight of a label reaches each model."""
    most = f"{pipeline.labels.weight_max:g}"
    return {
        name: "weighted, by River's `w`" if takes_weight(model) else f"repeated, up to {most} times a label"
        for name, model in scoring_models(pipeline.estimators).items()
    }


def metrics_that_keep(pipeline: Pipeline) -> list[str]:
    """Return the metrics that labels cannot be corrected in, where they are corrected."""
    if pipeline.labels.correct is None:
        return []
    chosen = default_metrics(pipeline.task) if pipeline.metrics is None else pipeline.metrics
    return [type(one).__name__ for one in chosen if not is_correctable(one, pipeline.task)]


def bytes_per_answer(pipeline: Pipeline) -> int:
    """Return the bytes of a checkpoint file that an answer takes while it waits, estimated."""
    features: FeatureValues = {name: 0.123456789 for name, _ in pipeline.plan.features}
    event_id, time_ms = "x" * 32, 1_700_000_000_000
    answer = Prediction(
        prediction_id=f"{pipeline.name}:{event_id}",
        event_id=event_id,
        event_time=time_ms,
        prediction_time=time_ms,
        model_name="model",
        model_version=1,
        model_updates=1_000,
        model_alias="champion",
        prediction_score=0.123456789,
        prediction_label=True,
        served_by="champion",
        features=features,
        event_offset=1_000_000,
        claim=1,
        sequence=1_000_000,
    )
    waiting = WaitingAnswer.of(answer, "x" * 12, (), 1 << 31, dict.fromkeys(pipeline.models, 0.123456789))
    return len(encode_entry(waiting)) + ROW_BYTES


def waiting_at(pipeline: Pipeline) -> dict[str, Any]:
    """Return what waits in one partition, at several rates, and the bounds."""
    labels, each = pipeline.labels, bytes_per_answer(pipeline)
    rows = []
    for rate in RATES_PER_S:
        count = rate * labels.wait_ms // 1_000
        held = min(count, labels.pending_max)
        rows.append(
            {
                "events_per_s": rate,
                "waiting": count,
                "given_up": count > labels.pending_max,
                "disk_bytes": held * each * CHECKPOINTS_KEPT,
                "memory_bytes": min(held, RESIDENT_MAX) * each * MEMORY_FACTOR,
            }
        )
    return {
        "pending_max": labels.pending_max,
        "early_max": labels.early_max,
        "bytes_per_answer": each,
        "at_rate": rows,
    }


def print_description(described: dict[str, Any]) -> None:
    """Print what `describe` returned."""
    out.print(f"[bold]{described['name']}[/]  {described['task']}, champion {described['champion']}")
    out.print(f"events {described['events']}   labels {described['labels']}")
    table = table_of("feature", "definition", "key", "source", "looks back", "cost of an event")
    for row in described["features"]:
        window = duration_text(row["window_ms"]) if row["window_ms"] else ""
        table.add_row(row["name"], escape(row["expression"]), row["key"], row["source"], window, row["cost"])
    print_table(table)
    state = described["state"]
    out.print(
        f"\nstate: {len(state['key_groups'])} key groups ({'; '.join(state['key_groups'])}), "
        f"longest window {duration_text(state['window_max_ms'])}, "
        f"about {state['bytes_per_event_kept']} bytes per event kept, "
        f"at most {state['events_per_key_max']:,} events per key"
        + (
            f"; {state['bytes_per_key_max']:,} bytes per key in tiles and sums"
            if state["bytes_per_key_max"]
            else ""
        )
    )
    for line in waiting_text(described["waiting"], duration_text(described["wait_ms"])):
        out.print(line)
    if "races" in described:
        out.print(races_text(described["races"]), markup=False)
    models = ", ".join(f"{name} ({class_name})" for name, class_name in described["models"].items())
    out.print(f"models: {models}")
    for name, told in described["scoring"].items():
        out.print(f"  {name}: {told}")
    for name, told in described["lessons"].items():
        out.print(f"  {name}: lessons are {told}", markup=False)
    for name, start in described["starts"].items():
        out.print(f"  {name}: enters a race that runs with start={start}", markup=False)
    if described["keep_the_first_label"]:
        out.print(f"not corrected by later labels: {', '.join(described['keep_the_first_label'])}")
    out.print(f"serving: {described['serving']}", markup=False)
    if described["rules"]:
        _print_rules(described["rules"])
    if described["alerts"]:
        _print_alerts(described["alerts"], described["topics"]["alerts"])
        if "races" in described:
            out.print("none is about a race: each key has its own, and no alert can be about all of them")
    if described["stages"]:
        _print_stages(described)


def _print_alerts(alerts: Sequence[Mapping[str, str]], topic: str) -> None:
    """Print who is told what, and when."""
    out.print(f"\nalerts, on {topic}:", markup=False)
    table = table_of("alert", "when", "for", "severity")
    for one in alerts:
        table.add_row(*(escape(str(cell)) for cell in one.values()))
    print_table(table)


def races_text(races: Mapping[str, Any]) -> str:
    """Return a line that says how many races there are, and how large."""
    memory, stored = races["memory_bytes"] / 1e3, races["stored_bytes"] / 1e3
    return (
        f"races: one per {races['per']}, each about {memory:,.0f} KB in memory and {stored:,.0f} KB in a "
        f"checkpoint once it has learned {races['rows']:,} rows; in memory at most {races['per_max']:,} in "
        f"each partition (per_max), {races['per_max'] * memory / 1e3:,.0f} MB"
    )


def waiting_text(waiting: Mapping[str, Any], wait: str) -> Iterator[str]:
    """Yield lines that say what `waiting_at` returned; `wait` is how long an answer waits."""
    bound = waiting["pending_max"]
    yield (
        f"waiting for labels, in each partition: at most {bound:,} answers (pending_max), about "
        f"{waiting['bytes_per_answer']:,} bytes each in a checkpoint, and {waiting['early_max']:,} labels "
        f"that came before their events (early_max)"
    )
    for row in waiting["at_rate"]:
        count, rate = row["waiting"], f"{row['events_per_s']:,} events/s are"
        if row["given_up"]:
            yield f"  wait {wait}: {rate} {count:,} waiting answers, more than pending_max"
        else:
            disk, memory = (f"{row[column] / 1e6:,.0f} MB" for column in ("disk_bytes", "memory_bytes"))
            yield f"  wait {wait}: {rate} {count:,} waiting answers, {disk} on disk, {memory} in memory"


def _print_rules(rules: Sequence[dict[str, str]]) -> None:
    """Print what must hold, in the order in which it is checked."""
    table = table_of("rule", "must hold", "action")
    for row in rules:
        table.add_row(row["rule"], escape(row["must_hold"]), row["action"])
    out.print()
    print_table(table)


def _print_stages(described: dict[str, Any]) -> None:
    """Print which windows are computed where; an event visits every stage that has some."""
    topics = described["topics"]
    out.print(
        f"\nre-keying: {described['events']} -> {topics['rekey']} -> {topics['rekeyed']}, co-partitioned; an "
        f"event is answered once every partition's watermark has passed it"
    )
    table = table_of("stage", "key", "partitions", "windows")
    for row in described["stages"]:
        table.add_row(row["stage"], row["key"], str(row["partitions"]), "; ".join(row["windows"]))
    print_table(table)


def print_plan(plan: Sequence[TopicPlan]) -> None:
    """Print the topics a pipeline needs."""
    table = table_of("topic", "role", "partitions", "cleanup", "retention")
    for entry in plan:
        kept = {None: "broker's default", -1: "forever"}.get(entry.retention_ms, f"{entry.retention_ms} ms")
        table.add_row(entry.name, entry.role, str(entry.partitions), entry.cleanup, kept)
    print_table(table)


@contextlib.contextmanager
def progress(bytes_total: int) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a callback that shows progress, rate and time left on a terminal; None where there is no
    terminal.

    The function takes the number of records since the last call, and the bytes read so far of `bytes_total`.
    """
    if not err.is_terminal:
        yield None
        return
    counter = TextColumn("{task.fields[records]:,} records  {task.fields[rate]:,.0f}/s")
    with Progress(BarColumn(), TaskProgressColumn(), counter, TimeRemainingColumn(), console=err) as bar:
        task = bar.add_task("records", total=bytes_total, records=0, rate=0.0)
        started_s, records = time.perf_counter(), 0

        def advance(count: int, bytes_read: int) -> None:
            nonlocal records
            records += count
            rate = records / max(time.perf_counter() - started_s, 1e-9)
            bar.update(task, completed=bytes_read, records=records, rate=rate)

        yield advance


def counting(what: str) -> Callable[[int], None] | None:
    """Return a function that shows how many records have been read, on a terminal; None where there is none.

    It takes the number of records since the last call.
    """
    if not err.is_terminal:
        return None
    records, shown_s = 0, time.perf_counter()

    def count(more: int) -> None:
        nonlocal records, shown_s
        records += more
        if time.perf_counter() - shown_s > COUNT_EVERY_S:
            shown_s = time.perf_counter()
            err.print(f"{what}: {records:,} records", end="\r", markup=False)

    return count


def print_correlated(correlated: Sequence[Mapping[str, Any]]) -> None:
    """Warn of the worst of the comparisons whose blocks are too short, if there are any."""
    if not correlated:
        return
    worst = max(correlated, key=lambda one: one["correlation"])
    out.print(
        f"[bold yellow]warning:[/] losses of {worst['model']} and {worst['champion']} are correlated "
        f"from block to block ({worst['correlation']:.2f} over {worst['blocks']:,} blocks), so that "
        f"swaps come more often than promised\n"
        f"  fix: Promotion(evidence_block={worst['evidence_block']!r}, ...)"
    )


def print_premise(premise: Mapping[str, Any]) -> None:
    """Print whether blocks of evidence stand alone on the rows that `check` was given."""
    block, compared = premise["evidence_block"], premise["compared"]
    out.print(f"\nevidence over {premise['examples']:,} examples, evidence_block={block!r}", markup=False)
    print_correlated(premise["correlated"])
    if not compared:
        out.print("  no two models were compared over two blocks: whether blocks stand alone is unknown")
    elif not premise["correlated"]:
        worst = max(compared, key=lambda one: one["correlation"] / correlation_told(one["blocks"]))
        least = correlation_told(worst["blocks"])
        if block == AUTO:
            told = "bets answer to it"
        elif least < 1.0:
            told = f"above {least:.2f} it would tell of blocks that are too short"
        else:
            told = "too few to tell of blocks that are too short"
        out.print(
            f"  correlation from block to block is at most {worst['correlation']:.2f} ({worst['model']} and "
            f"{worst['champion']}, {worst['blocks']:,} blocks); {told}"
        )


def swap_line(swap: Mapping[str, Any]) -> str:
    """Return a swap of a report as one line."""
    return (
        f"{time_text(swap['time'])}  {swap['type']}  {swap['from']} -> {swap['to']} "
        f"after {swap['examples']:,} examples ({swap['reason']})"
    )


def verdict_line(verdict: Mapping[str, Any]) -> str:
    """Return a verdict on shift of a report as one line."""
    until = "lasts" if verdict["until"] is None else f"until {time_text(verdict['until'])}"
    losses = [
        f"{name.replace('_', ' ')} {figure_text(verdict[name])}"
        for name in ("reference_loss", "estimated_loss", "true_loss")
        if verdict[name] is not None
    ]
    return (
        f"{time_text(verdict['since'])}  {verdict['verdict']}  {until}, {verdict['pace']}: "
        f"{', '.join([*verdict['features'], *losses])}; {verdict['act']}"
    )


def figure_text(value: float | None) -> str:
    """Return a loss or a metric as text; empty where there is none."""
    return "" if value is None or not math.isfinite(value) else f"{value:.4f}"


def time_text(time_ms: int) -> str:
    """Return a time as text, to the second, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
