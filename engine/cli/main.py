"""The `headrace` command: arguments in, exit codes out.

Lives here: what a user types, how an error is printed.  Never here: the work itself; every
command imports what it needs when it runs, so that `--help` starts at once.

Exit codes: 0 done, 1 failed (a backtest that learned nothing too), 2 wrong usage, 3 unhealthy, 4 skew, or a
shift that lasts (`drift list`), or a load test that got worse (`bench compare`), 5 a rate that was not
sustained (`bench`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.config import config_app
from engine.cli.deciding import labels_app, models_app
from engine.cli.dlq import dlq_app
from engine.cli.erase import erase
from engine.cli.explain import explain
from engine.cli.export import export_app
from engine.cli.features import features_app
from engine.cli.offline.backtest import backtest_files, premise_of, print_diagnosis
from engine.cli.offline.evaluate import evaluate
from engine.cli.offline.questions import PastOptions, freshness
from engine.cli.offline.runs import runs_app
from engine.cli.offline.skew import skew
from engine.cli.options import Json, KafkaOptions, PipelineFile, grouped, print_json
from engine.cli.project.deployment import export_alerts, export_grafana, export_k8s
from engine.cli.project.dev import dev
from engine.cli.project.doctor import doctor
from engine.cli.project.init import init
from engine.cli.project.simulate import simulate
from engine.cli.records import send, tail
from engine.cli.reference.examples import add_examples, example_of
from engine.cli.state import state_app
from engine.cli.static import static_app
from engine.cli.watching.alerts import alerts_app
from engine.cli.watching.drift import drift_app
from engine.cli.watching.status import status
from engine.definition.file import load_pipeline
from engine.settings import Accepted
from topics.errors import DefinitionError, HeadraceError, SettingsError

__all__ = ["app", "main"]

app = typer.Typer(
    name="headrace",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
ELSEWHERE: Any = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
}
"""Of a command whose options are read where it lives."""
topics_app = typer.Typer(help="The topics of a pipeline.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(static_app, name="static")
app.add_typer(features_app, name="features")
app.add_typer(export_app, name="export")
app.add_typer(models_app, name="models")
app.add_typer(labels_app, name="labels")
app.add_typer(alerts_app, name="alerts")
app.add_typer(drift_app, name="drift")
app.add_typer(config_app, name="config")
app.add_typer(dlq_app, name="dlq")
app.add_typer(state_app, name="state")
app.add_typer(runs_app, name="runs")
export_app.command("grafana")(export_grafana)
export_app.command("alerts")(export_alerts)
export_app.command("k8s")(export_k8s)
app.command()(init)
app.command()(dev)
app.command()(doctor)
app.command()(status)
app.command()(simulate)
app.command("backtest")(backtest_files)
app.command()(explain)
app.command()(erase)
app.command()(skew)
app.command()(freshness)
app.command()(evaluate)
app.command()(send)
app.command()(tail)


def main() -> None:
    """Run the command; a Headrace error is one message with a fix, never a traceback."""
    try:
        app()
    except HeadraceError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2 if isinstance(error, DefinitionError | SettingsError) else 1) from None


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def command(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Streaming inference and continual learning: Kafka in, River learning, Kafka out."""


@app.command()
@grouped
def check(file: PipelineFile, origin: PastOptions, json: Json = False) -> None:
    """Validate a pipeline and try its models; list its features, windows and state size.

    With files, a recording or a broker: also whether errors come in bursts longer than blocks of evidence.
    Exit code 1, and a diagnosis, where files come to nothing.
    """
    from engine.cli.report import describe, print_description, print_premise  # noqa: PLC0415
    from engine.worker.assembly import known_keys  # noqa: PLC0415
    from engine.worker.model_factory import ModelFactory, probe_models  # noqa: PLC0415

    pipeline = load_pipeline(file)
    described = describe(pipeline, probe_models(pipeline))
    if pipeline.per is not None:
        from engine.worker.keyed.race_size import race_size  # noqa: PLC0415

        size = race_size(pipeline)._asdict()
        described["races"] = {"per": pipeline.per, "per_max": pipeline.per_max} | size
    ModelFactory(pipeline, keys=known_keys(origin.settings())).brought(pipeline.field, pipeline.candidates)
    diagnosis = None
    if origin.given:
        described["premise"], diagnosis = premise_of(pipeline, origin)
    if json:
        print_json(described)
    else:
        print_description(described)
        if "premise" in described:
            print_premise(described["premise"])
    if diagnosis is not None:
        print_diagnosis(diagnosis)
        raise typer.Exit(1)
    if not json:
        typer.echo(f"\nnext: headrace backtest {file} --events E.jsonl   or   headrace topics create {file}")


@app.command()
@grouped
def run(
    file: PipelineFile,
    kafka: KafkaOptions,
    state_dir: Annotated[Path | None, typer.Option(help="Checkpoints live here.")] = None,
    web_port: Annotated[
        int | None, typer.Option(help="Port of the page, /metrics, /livez and /readyz.")
    ] = None,
    accept_lost_records: Annotated[
        bool, typer.Option(help="Go on although the logs have lost records that were not read yet.")
    ] = False,
    accept_changed_features: Annotated[
        bool,
        typer.Option(help="Go on although features have changed; see `headrace features list PIPELINE.py`."),
    ] = False,
    from_backtest: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Start with what `backtest --save` has learned.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC:PARTITION:OFFSET", help="Make this record a dead letter; repeatable."),
    ] = None,
) -> None:
    """Run a worker: consume events and labels, predict, learn, decide."""
    from engine.host.app import run_worker  # noqa: PLC0415
    from engine.worker.partition import places  # noqa: PLC0415

    settings = kafka.settings(state_dir=state_dir)
    if web_port is not None:
        web = settings.web.model_copy(update={"port": web_port})
        settings = settings.model_copy(update={"web": web})
    pipeline = load_pipeline(file)
    if from_backtest is not None:
        from engine.stores.saved import started_from  # noqa: PLC0415

        pipeline = started_from(pipeline, from_backtest)
    run_worker(
        pipeline,
        settings,
        Accepted(accept_changed_features, accept_lost_records),
        places(skip or (), pipeline),
        file=file,
    )


@topics_app.command("plan")
def topics_plan(file: PipelineFile, json: Json = False) -> None:
    """Show the topics a pipeline needs; touches nothing."""
    from engine.cli.report import print_plan  # noqa: PLC0415

    pipeline = load_pipeline(file)
    plan = pipeline.catalog.plan(events=pipeline.events.partitions)
    if json:
        print_json([entry._asdict() for entry in plan])
    else:
        print_plan(plan)
        typer.echo(f"\nnext: headrace topics create {file}")


@topics_app.command("create")
@grouped
def topics_create(
    file: PipelineFile,
    kafka: KafkaOptions,
    retention_ms: Annotated[
        int | None,
        typer.Option(
            min=-1, help="retention.ms where the broker's default would hold; -1, for ever, to send old data."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Create the topics that are missing, after printing the plan; change none that exist."""
    from engine.cli.report import print_plan  # noqa: PLC0415
    from engine.kafka.topic_admin import ensure_topics  # noqa: PLC0415

    pipeline = load_pipeline(file)
    settings = kafka.settings()
    plan = [
        entry._replace(
            create=True,
            retention_ms=retention_ms
            if entry.retention_ms is None and entry.cleanup == "delete"
            else entry.retention_ms,
        )
        for entry in pipeline.catalog.plan(events=pipeline.events.partitions)
    ]
    if not json:
        print_plan(plan)
    created = asyncio.run(ensure_topics(settings.kafka, plan))
    if json:
        print_json({"created": list(created), "plan": [entry._asdict() for entry in plan]})
        return
    typer.echo(f"\ncreated: {', '.join(created) or 'nothing, all there'}\nnext: headrace run {file}")


@app.command(**ELSEWHERE)
def demo(context: typer.Context) -> None:
    """Race three models on real flights: embedded broker, one worker, a live table."""
    _run_registered("demo", context.args)


@app.command(**ELSEWHERE)
def bench(context: typer.Context) -> None:
    """Load a copy of a pipeline at a fixed rate, match and time every prediction, judge."""
    _run_registered("bench", context.args)


def _run_registered(name: str, arguments: list[str]) -> None:
    """Run a command (or a group of them) from outside the engine, by its entry point; options are its own.

    Raises SettingsError where this installation has none of that name.
    """
    from importlib.metadata import entry_points  # noqa: PLC0415

    registered = next(iter(entry_points(group="headrace.commands", name=name)), None)
    if registered is None:
        raise SettingsError(
            f"this installation of headrace knows no command `{name}`",
            hint=f"install it anew: pip install 'headrace[{name}]'",
        )
    command = registered.load()
    if not isinstance(command, typer.Typer):
        alone = command
        command = typer.Typer(
            add_completion=False,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        command.command(name=name, epilog=f"Example: {example_of(name)}")(alone)
    add_examples(command, name)
    command(args=arguments, prog_name=f"headrace {name}")


add_examples(app)  # all commands are registered by now

if __name__ == "__main__":
    main()
