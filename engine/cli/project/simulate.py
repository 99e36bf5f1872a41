"""`headrace simulate`: made-up events and labels with something planted in them.

Lives here: its options and words.  Never here: what is made (`engine/simulation`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json, KafkaOptions, grouped, print_json
from topics.durations import duration_ms
from topics.errors import SettingsError

__all__ = ["simulate"]

EVENTS_MAX = 1_000_000


@dataclass(frozen=True)
class PlantOptions:
    """What is planted."""

    drift: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="The weights turn around here: 0.5 is half way."),
    ] = None
    label_delay: Annotated[str, typer.Option(metavar="SPAN", help="Median delay of a label.")] = "10m"
    unlabelled: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Orders whose label never comes.")
    ] = 0.0
    hot: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="Orders of one hot shop.")] = 0.0
    disorder: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Events that come late, by up to --late.")
    ] = 0.0
    late: Annotated[str, typer.Option(metavar="SPAN", help="How late at most.")] = "30s"
    duplicates: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Events that come twice.")
    ] = 0.0
    garbage: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Lines that are no events.")
    ] = 0.0


@grouped
def simulate(
    name: Annotated[
        Path, typer.Argument(metavar="NAME", help="The folder to make, and the pipeline's name.")
    ],
    plant: PlantOptions,
    kafka: KafkaOptions,
    events: Annotated[int, typer.Option(min=1, max=EVENTS_MAX, help="How many orders.")] = 5_000,
    seed: Annotated[int, typer.Option(help="The same seed and options give the same bytes.")] = 0,
    shops: Annotated[int, typer.Option(min=1, max=100_000, help="How many keys.")] = 20,
    per_second: Annotated[
        float, typer.Option("--per-second", min=0.001, max=1e6, help="Orders per second of event time.")
    ] = 1.0,
    send: Annotated[
        bool, typer.Option("--send", help="Make the topics and publish it all to the broker too.")
    ] = False,
    json: Json = False,
) -> None:
    """Make orders and their returns by a seed, with what you plant in them, and say the truth of it.

    Writes NAME/ with events.jsonl, labels.jsonl, a pipeline that takes them, and truth.json: what was
    planted, by ids and line numbers.  Overwrites nothing.
    """
    from engine.simulation.orders import SimulationPlan  # noqa: PLC0415
    from engine.simulation.plant import simulated  # noqa: PLC0415
    from engine.simulation.writing import write_simulation  # noqa: PLC0415
    from topics.catalog import check_name  # noqa: PLC0415

    check_name(name.name)
    plan = SimulationPlan(
        events=events,
        seed=seed,
        rate_per_s=per_second,
        shops=shops,
        drift_at=plant.drift,
        label_delay_ms=_span_ms("--label-delay", plant.label_delay),
        unlabelled=plant.unlabelled,
        hot=plant.hot,
        disorder=plant.disorder,
        late_ms=_span_ms("--late", plant.late),
        duplicates=plant.duplicates,
        garbage=plant.garbage,
    )
    made = simulated(plan)
    files = write_simulation(name, plan, made)
    sent = _send(name, kafka) if send else None
    truth = made.truth
    counts = {
        "events": len(made.events),
        "labels": len(made.labels),
        "late": len(truth["late"]),
        "repeated": len(truth["repeated"]),
        "garbage": len(truth["garbage"]),
    }
    if json:
        print_json({"folder": str(name), "files": list(files), "sent": sent, **counts})
        return
    typer.echo(", ".join(f"{what} {count:,}" for what, count in counts.items()))
    if truth["drift"] is not None:
        typer.echo(f"drift: {truth['drift']['what']} with order {truth['drift']['first_order']}")
    typer.echo(f"wrote {name}/: {', '.join(files)}" + (f"; sent {sent:,} records" if sent else ""))
    pipeline = name / "pipeline.py"
    where = f"--events {name / 'events.jsonl'} --labels {name / 'labels.jsonl'}"
    after = f"headrace run {pipeline}" if send else f"headrace backtest {pipeline} {where}"
    typer.echo(f"next: {after}")


def _span_ms(option: str, text: str) -> int:
    span = duration_ms(text)
    if span < 1:
        raise SettingsError(f"{option} is {text!r}", hint="give a span such as 30s, 10m or 1d")
    return span


def _send(folder: Path, kafka: KafkaOptions) -> int:
    """Publish the files of a simulation, and return how many records there were."""
    from engine.definition.file import load_pipeline  # noqa: PLC0415
    from engine.kafka.topic_admin import ensure_topics  # noqa: PLC0415
    from engine.offline.publish import send_files  # noqa: PLC0415

    pipeline, settings = load_pipeline(folder / "pipeline.py"), kafka.settings()

    async def publish() -> int:
        plan = [one._replace(create=True) for one in pipeline.catalog.plan(events=1)]
        await ensure_topics(settings.kafka, plan)
        files = folder / "events.jsonl", folder / "labels.jsonl"
        done = await send_files(settings.kafka, pipeline, events=files[0], labels=files[1])
        return done.events + done.labels

    return asyncio.run(publish())
