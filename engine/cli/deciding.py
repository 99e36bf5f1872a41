"""`headrace models`, the part that decides: promote, roll back, pin, release, retire, approve, refuse.

Lives here: arguments, what is printed of the answer, exit codes.  Never here: what a command does
(`operators/race/arena.py`), sending and waiting (`engine/lineage/commands.py`).

Each sends one command with an id of its own and waits for the decisions that answer it: exit code 0 where it
was done, 1 where it was refused or nobody answered in time.
"""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.models import models_app
from engine.cli.options import Config, Json, PipelineFile, Servers, print_json, settings_of
from engine.definition.file import load_pipeline

if TYPE_CHECKING:
    from topics.messages import CommandWord, Decision

__all__ = ["models_app"]

TIMEOUT_S = 30.0
REFUSED = "command.refused"
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, as `models list` says it.")]
Proposal = Annotated[
    str, typer.Argument(metavar="PROPOSAL_ID", help="The id of the decision `proposal.opened`.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the decision.")]
Actor = Annotated[str | None, typer.Option("--actor", help="Who asks; default: the user.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the command and send nothing.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the decision.")]


def _about_model(word: CommandWord) -> Callable[..., None]:
    """Return the command that sends `word` about one model."""

    def command(
        file: PipelineFile,
        model: Model,
        reason: Reason = "",
        actor: Actor = None,
        timeout: Timeout = TIMEOUT_S,
        dry_run: DryRun = False,
        bootstrap_servers: Servers = None,
        config: Config = None,
        json: Json = False,
    ) -> None:
        order = _order(word, reason, actor, model_name=model)
        _send(file, order, timeout, dry_run=dry_run, servers=bootstrap_servers, config=config, json=json)

    return command


def _about_proposal(word: CommandWord) -> Callable[..., None]:
    """Return the command that sends `word` about a proposal."""

    def command(
        file: PipelineFile,
        proposal: Proposal,
        reason: Reason = "",
        actor: Actor = None,
        timeout: Timeout = TIMEOUT_S,
        dry_run: DryRun = False,
        bootstrap_servers: Servers = None,
        config: Config = None,
        json: Json = False,
    ) -> None:
        order = _order(word, reason, actor, proposal_id=proposal)
        _send(file, order, timeout, dry_run=dry_run, servers=bootstrap_servers, config=config, json=json)

    return command


def _about_champion(word: CommandWord) -> Callable[..., None]:
    """Return the command that sends `word`, which is about the champion."""

    def command(
        file: PipelineFile,
        reason: Reason = "",
        actor: Actor = None,
        timeout: Timeout = TIMEOUT_S,
        dry_run: DryRun = False,
        bootstrap_servers: Servers = None,
        config: Config = None,
        json: Json = False,
    ) -> None:
        order = _order(word, reason, actor)
        _send(file, order, timeout, dry_run=dry_run, servers=bootstrap_servers, config=config, json=json)

    return command


_COMMANDS: dict[CommandWord, tuple[Callable[[CommandWord], Callable[..., None]], str]] = {
    "promote": (_about_model, "Let a challenger serve; evidence may replace it again."),
    "pin": (_about_model, "Let a model serve, and keep it serving until `unpin`."),
    "unpin": (_about_champion, "Let evidence decide again."),
    "release": (_about_model, "Let a quarantined model race again, from its last good version."),
    "retire": (_about_model, "Take a challenger out of the race for good."),
    "approve": (_about_proposal, "Let a proposed swap happen."),
    "refuse": (_about_proposal, "Let a proposed swap not happen."),
}
for _word, (_shape, _told) in _COMMANDS.items():
    models_app.command(_word, help=_told)(_shape(_word))


@models_app.command("rollback")
def models_rollback(
    file: PipelineFile,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION@UPDATES", help="A good version to go back to.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --to: the model whose version it is.")
    ] = None,
    reason: Reason = "",
    actor: Actor = None,
    timeout: Timeout = TIMEOUT_S,
    dry_run: DryRun = False,
    bootstrap_servers: Servers = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Let the champion before this one serve, or a good version of any model."""
    if model is not None and to is None:
        raise typer.BadParameter("--model says whose version --to is: give both, or none")
    order = _order("rollback", reason, actor, model_name=model, to=to)
    _send(file, order, timeout, dry_run=dry_run, servers=bootstrap_servers, config=config, json=json)


@models_app.command("weights")
def models_weights(
    file: PipelineFile,
    model: Annotated[str, typer.Argument(metavar="BLEND", help="A blend of fixed weights.")],
    weights: Annotated[
        list[str], typer.Argument(metavar="MODEL=WEIGHT...", help="The weight of each of its models.")
    ],
    reason: Reason = "",
    actor: Actor = None,
    timeout: Timeout = TIMEOUT_S,
    dry_run: DryRun = False,
    bootstrap_servers: Servers = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Give the models of a blend other weights."""
    given: dict[str, float] = {}
    for one in weights:
        name, equals, number = one.rpartition("=")
        try:
            given[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise typer.BadParameter(f"{one!r} is no MODEL=WEIGHT, such as tree=0.7")
    order = _order("weights", reason, actor, model_name=model, weights=given)
    _send(file, order, timeout, dry_run=dry_run, servers=bootstrap_servers, config=config, json=json)


def _order(word: CommandWord, reason: str, actor: str | None, **about: Any) -> dict[str, Any]:
    """Return the fields of a command."""
    return {"command": word, "reason": reason, "actor": _user() if actor is None else actor, **about}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""


def _send(
    file: Path,
    order: dict[str, Any],
    timeout_s: float,
    *,
    dry_run: bool,
    servers: str | None,
    config: Path | None,
    json: bool,
) -> None:
    """Send a command, wait for its answer, print it; leave with exit code 1 where it was refused."""
    from engine.lineage.commands import answer_of, fresh_command_id  # noqa: PLC0415
    from topics.codec import encode  # noqa: PLC0415
    from topics.messages import Command  # noqa: PLC0415

    pipeline = load_pipeline(file)
    command = Command(command_id=fresh_command_id(), time=time.time_ns() // 1_000_000, **order)
    if dry_run:
        typer.echo(encode(command).decode())
        return
    kafka = settings_of(config, servers).kafka
    decisions = asyncio.run(answer_of(pipeline, kafka, command, deadline_s=timeout_s))
    refused = any(decision.type == REFUSED for decision in decisions)
    if json:
        from msgspec import to_builtins  # noqa: PLC0415

        answer = {"command_id": command.command_id, "refused": refused}
        print_json(answer | {"decisions": to_builtins(decisions)})
    else:
        for decision in decisions:
            typer.echo(_told_of(decision), err=decision.type == REFUSED)
        if not refused:
            typer.echo(f"next: headrace models history {file}")
    if refused:
        raise typer.Exit(1)


def _told_of(decision: Decision) -> str:
    """Return a decision in one line."""
    if decision.type == REFUSED:
        return f"refused: {decision.reason}"
    before = f", before {decision.from_model}" if decision.from_model else ""
    return (
        f"{decision.type}: {decision.model_name} (version {decision.model_version}{before}) "
        f"at offset {decision.offset:,}"
    )
