"""`headrace explain PREDICTION_ID`: everything that is known of one answer.

Lives here: arguments and words.  Never here: the facts (`engine/lineage/explanation.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from engine.cli.models import logs_of_all
from engine.cli.options import Json, LogOptions, PipelineFile, grouped, print_json
from engine.definition.file import load_pipeline

if TYPE_CHECKING:
    from engine.lineage.sources import PipelineLogs

__all__ = ["explain"]

SHOWN_MAX = 20
"""Contributions that are printed; `--json` has all."""
LIKE_MAX = 100


@grouped
def explain(
    file: PipelineFile,
    prediction_id: Annotated[
        str,
        typer.Argument(metavar="PREDICTION_ID", help="As on the predictions topic, or the event's id."),
    ],
    source: LogOptions,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold/--no-fold", help="Fold the examples log for contributions and for what was learned."
        ),
    ] = True,
    like: Annotated[
        int,
        typer.Option(
            "--like",
            min=0,
            max=LIKE_MAX,
            help="Show so many labelled examples most like it.",
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Explain one prediction: features, who answered and why, its label, what was learned of it.

    Folding takes as long as learning all before it did; --no-fold says what the records say at once.
    """
    logs = logs_of_all(load_pipeline(file), source)
    told = asyncio.run(_explained(logs, prediction_id, fold=fold, like=like))
    if json:
        print_json(told)
    else:
        _print(told)


async def _explained(logs: PipelineLogs, prediction_id: str, *, fold: bool, like: int) -> dict[str, Any]:
    from engine.lineage.explanation import explained, liked, replayed  # noqa: PLC0415

    answer = await logs.prediction(prediction_id)
    logs = logs.race_of(answer)
    example = await logs.example(answer.message)
    told = explained(logs.pipeline, await logs.history(), answer, example)
    event = await logs.event(answer)
    if event is not None and event.value is not None:
        told["event"]["value"] = orjson.Fragment(event.value)
    if fold:
        told |= await replayed(await logs.replay(), answer.message, example)
    if like:
        told["like"] = await liked(await logs.replay(), answer.message, like)
    return told


def _print(told: Mapping[str, Any]) -> None:
    """Print an explanation, in the order in which things happened."""
    from rich.text import Text  # noqa: PLC0415

    from engine.cli.report import out, print_table, table_of, time_text  # noqa: PLC0415

    event, answer, served = told["event"], told["answer"], told["served"]
    out.print(f"[bold]{told['prediction_id']}[/]")
    late = ", late: in no window" if event["late"] else ""
    place = f"partition {event['partition']} offset {event['offset']}"
    out.print(f"event     {event['event_id']} at {time_text(event['time'])}, {place}{late}", markup=False)
    if "value" in event:
        out.print(f"          {orjson.dumps(event['value']).decode()}", markup=False)
    threshold = f", threshold {answer['threshold']}" if answer["threshold"] is not None else ""
    out.print(f"answer    {_score(answer['score'])} -> {answer['label']}{threshold}", markup=False)
    state = f"{served['version']}@{served['updates']}"
    out.print(f"served by {served['model']} ({state}): {served['why']}", markup=False)
    _print_reign(served)
    revision, propensity = served["policy_revision"], served["propensity"]
    followed = "its pick had no answer" if propensity is None else f"propensity {propensity:g}"
    out.print(f"policy    {served['policy']}, revision {revision}, {followed}")
    if served["weights"]:
        weights = sorted(served["weights"].items(), key=lambda one: -one[1])
        out.print(f"weights   {', '.join(f'{name} {weight:.3f}' for name, weight in weights)}", markup=False)
    table = table_of("feature", "value", "window", "key", "definition", "version")
    for one in told["features"]:
        value = "missing" if one["value"] is None else str(one["value"])
        if one["scored_as"] != one["value"]:
            value += f", scored as {one['scored_as']}"
        row = one["name"], value, one["window"], one["key"], one["definition"], one["version"]
        table.add_row(*map(Text, row))
    out.print()
    print_table(table)
    _print_contributions(told)
    _print_outcome(told)
    _print_like(told)


def _print_like(told: Mapping[str, Any]) -> None:
    from rich.text import Text  # noqa: PLC0415

    from engine.cli.report import out, print_table, table_of, time_text  # noqa: PLC0415

    if not told.get("like"):
        return
    out.print("\nlabelled examples most like it:")
    table = table_of("event", "time", "label", numbers=("distance", "served"))
    for one in told["like"]:
        row = one["event_id"], time_text(one["event_time"]), str(one["label"])
        table.add_row(*map(Text, row), f"{one['distance']:.3f}", _score(one["score"]))
    print_table(table)


def _print_reign(served: Mapping[str, Any]) -> None:
    from engine.cli.report import out, time_text  # noqa: PLC0415

    reign = served["champion_since"]
    if reign is None:
        return
    since = (
        "the start"
        if reign["from"] is None
        else f"{time_text(reign['from'])} (offset {reign['from_offset']:,})"
    )
    out.print(f"champion  since {since}: {reign['reason']}", markup=False)


def _print_contributions(told: Mapping[str, Any]) -> None:

    from engine.cli.report import out, print_table, table_of  # noqa: PLC0415

    for one in told.get("contributions", ()):
        label = f" of {one['label']}" if one["label"] else ""
        out.print(f"\nlinear predictor{label}: {one['total']:.4f}, intercept {one['intercept']:.4f}")
        table = table_of("input", numbers=("weight", "value", "contribution"))
        for part in one["features"][:SHOWN_MAX]:
            table.add_row(
                part["name"], *(f"{part[name]:.4f}" for name in ("weight", "value", "contribution"))
            )
        print_table(table)
        if len(one["features"]) > SHOWN_MAX:
            out.print(f"and {len(one['features']) - SHOWN_MAX} smaller ones: --json")
    if told.get("path"):
        out.print(f"\nway through the tree:\n{told['path']}", markup=False)


def _print_outcome(told: Mapping[str, Any]) -> None:
    from rich.text import Text  # noqa: PLC0415

    from engine.cli.report import out, print_table, table_of, time_text  # noqa: PLC0415

    label, learned = told["label"], told.get("learned") or {}
    out.print()
    if told["left_out"]:
        out.print("label     not to be learned: learn_share leaves this event out")
    elif label is None:
        out.print("label     none yet: nothing was learned of it")
    else:
        implicit = ", assumed: none came in time" if label["implicit"] else ""
        when = f"{time_text(label['time'])}, {label['delay']} after the event{implicit}"
        place = f"offset {label['example_offset']:,} of the examples log"
        out.print(f"label     {label['label']} at {when}; learned at {place}", markup=False)
    table = table_of("model", numbers=("served", "before the lesson", "after it"))
    for name, score in told["scores"].items():
        lesson = learned.get(name, {})
        table.add_row(Text(name), *map(_score, (score, lesson.get("before"), lesson.get("after"))))
    print_table(table)
    decision = told["next_decision"]
    if decision is not None:
        out.print(
            f"\nnext decision: {decision['type']} {decision['model']} at offset {decision['offset']:,}: "
            f"{decision['reason']}",
            markup=False,
        )


def _score(score: Any) -> str:
    if score is None:
        return ""
    if isinstance(score, dict):
        return " ".join(
            f"{name} {chance:.3f}" for name, chance in sorted(score.items(), key=lambda one: -one[1])[:3]
        )
    return f"{score:.4f}"
