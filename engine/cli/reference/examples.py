"""One example of every command, for the end of its `--help` and its entry in docs/cli.md.

Lives here: the lines, and where typer takes them.  Never here: options (each command has its own).

A test holds each line against the command that it is of; a command without one is found by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import typer
from typer.models import CommandInfo

__all__ = ["COMMAND_EXAMPLES", "add_examples", "example_of"]

COMMAND_EXAMPLES: Mapping[str, str] = {
    "init": "bikes --from bikes.csv --label cnt",
    "dev": "pipeline.py --data events.jsonl --rate 200",
    "doctor": "pipeline.py --write",
    "status": "pipeline.py --decisions 10",
    "simulate": "orders --events 5000 --drift 0.5 --garbage 0.01 --seed 7",
    "check": "pipeline.py --events events.jsonl",
    "backtest": "pipeline.py --events events.jsonl --labels labels.jsonl --warmup 1000",
    "freshness": "pipeline.py --events events.jsonl --withhold 1d",
    "evaluate": "pipeline.py --off-policy challenger=1",
    "skew": "pipeline.py --once",
    "runs list": "--json",
    "runs diff": "-- -2 -1",
    "topics plan": "pipeline.py",
    "topics create": "pipeline.py --retention-ms -1",
    "run": "pipeline.py --state-dir /var/lib/headrace --web-port 6066",
    "demo": "--events 5000",
    "bench": "--pipeline pipeline.py --rate 1000",
    "bench compare": "before.json after.json",
    "send": "pipeline.py --events events.jsonl --labels labels.jsonl",
    "tail": "flights.predictions --from-beginning -n 3",
    "static load": "merchants.jsonl",
    "static get": "merchant:7",
    "features list": "pipeline.py",
    "features show": "pipeline.py hour",
    "features export": "pipeline.py",
    "export jsonschema": "pipeline.py",
    "export asyncapi": "pipeline.py",
    "export grafana": "--to grafana",
    "export alerts": "--to alerts",
    "export k8s": "--to chart",
    "models list": "pipeline.py",
    "models show": "pipeline.py champion",
    "models history": "pipeline.py",
    "models diff": "pipeline.py 1 2",
    "models card": "pipeline.py champion",
    "models reproduce": "pipeline.py 3@40000",
    "models export": "pipeline.py 3@40000 --out model.headrace",
    "models resign": "pipeline.py",
    "models promote": "pipeline.py tree --reason 'proven elsewhere'",
    "models pin": "pipeline.py linear",
    "models unpin": "pipeline.py",
    "models pause": "pipeline.py --reason 'labels are wrong'",
    "models resume": "pipeline.py",
    "models release": "pipeline.py tree",
    "models retire": "pipeline.py tree",
    "models approve": "pipeline.py PROPOSAL_ID",
    "models refuse": "pipeline.py PROPOSAL_ID",
    "models rollback": "pipeline.py",
    "models weights": "pipeline.py blend linear=1 tree=2",
    "labels release": "pipeline.py SOURCE",
    "explain": "pipeline.py PREDICTION_ID",
    "erase": "card-004217 pipeline.py",
    "alerts list": "pipeline.py",
    "alerts show": "pipeline.py ALERT_ID",
    "alerts ack": "pipeline.py ALERT_ID --false",
    "drift list": "pipeline.py",
    "config show": "--config headrace.toml",
    "dlq list": "pipeline.py --stage decode",
    "dlq show": "pipeline.py 0:17",
    "dlq replay": "pipeline.py --stage decode",
    "state inspect": "pipeline.py",
    "state verify": "pipeline.py",
    "state snapshot": "snapshot pipeline.py",
    "state restore": "snapshot pipeline.py",
}
"""Arguments by command."""


def example_of(command: str) -> str:
    """Return the line of a command that a user can type; empty where there is none."""
    return f"headrace {command} {COMMAND_EXAMPLES[command]}" if command in COMMAND_EXAMPLES else ""


def add_examples(app: typer.Typer, *above: str) -> None:
    """Put the example of each command at the end of its help; `above` are the words before those of `app`."""
    for words, command in _commands(app, above):
        if line := example_of(" ".join(words)):
            command.epilog = f"Example: {line}"
    if app.registered_callback is not None and (line := example_of(" ".join(above))):
        app.registered_callback.epilog = f"Example: {line}"


def _commands(app: typer.Typer, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], CommandInfo]]:
    """Yield every command that typer was told of, with its words."""
    for command in app.registered_commands:
        name = str(command.name or getattr(command.callback, "__name__", ""))
        yield (*above, name), command
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance, (*above, str(group.name)))
