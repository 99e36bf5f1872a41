"""`headrace models`, the part that decides: promote, roll back, pin, pause, release, retire, approve, refuse.

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.models import models_app
from engine.cli.options import ForKey, Json, KafkaOptions, PipelineFile, grouped, print_json, race_key
from engine.definition.file import load_pipeline
from topics.errors import SettingsError

if TYPE_CHECKING:
    from topics.messages import CommandWord, Decision

__all__ = ["AskOptions", "labels_app", "models_app", "send_command", "user_name"]

labels_app = typer.Typer(help="The labels of a pipeline, and whose they are.", no_args_is_help=True)

TIMEOUT_S = 30.0
REFUSED = "command.refused"
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, as `models list` says it.")]
ModelOrChampion = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="A model's name; without one, the champion.")
]
Proposal = Annotated[
    str, typer.Argument(metavar="PROPOSAL_ID", help="The id of the decision `proposal.opened`.")
]


@dataclass(frozen=True)
class AskOptions(KafkaOptions):
    """What who asks for something says beside what it is."""

    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the decision.")] = ""
    actor: Annotated[
        str | None, typer.Option("--actor", help="Who asks; default: the key's name, or the user.")
    ] = None
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the decision.")
    ] = TIMEOUT_S
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command and send nothing.")] = False
    json: Json = False


@dataclass(frozen=True)
class CommandOptions(AskOptions):
    """What every command about models takes beside what it is about."""

    key: ForKey = None


def _about_model(word: CommandWord) -> Callable[..., None]:
    """Return the command that sends `word` about one model."""

    def command(file: PipelineFile, model: Model, options: CommandOptions) -> None:
        send_command(file, word, options, model_name=model)

    return grouped(command)


def _about_who_serves(word: CommandWord) -> Callable[..., None]:
    """Return the command that sends `word` about one model, or about the champion, whoever it is."""

    def command(file: PipelineFile, options: CommandOptions, model: ModelOrChampion = None) -> None:
        send_command(file, word, options, model_name=model)

    return grouped(command)


def _about_proposal(word: CommandWord) -> Callable[..., None]:
    """Return the command that sends `word` about a proposal."""

    def command(file: PipelineFile, proposal: Proposal, options: CommandOptions) -> None:
        send_command(file, word, options, proposal_id=proposal)

    return grouped(command)


def _about_champion(word: CommandWord) -> Callable[..., None]:
    """Return the command that sends `word`, which is about the champion."""

    def command(file: PipelineFile, options: CommandOptions) -> None:
        send_command(file, word, options)

    return grouped(command)


_COMMANDS: dict[CommandWord, tuple[Callable[[CommandWord], Callable[..., None]], str]] = {
    "promote": (_about_model, "Let a challenger serve; evidence may replace it again."),
    "pin": (_about_who_serves, "Let a model serve, and keep it serving until `unpin`."),
    "unpin": (_about_champion, "Let evidence decide again."),
    "pause": (_about_champion, "Stop learning and deciding; answers go on, and nothing is skipped."),
    "resume": (_about_champion, "Take learning up where it stopped."),
    "release": (_about_model, "Let a quarantined model race again, from its last good version."),
    "retire": (_about_model, "Take a challenger out of the race for good."),
    "approve": (_about_proposal, "Let a proposed swap happen."),
    "refuse": (_about_proposal, "Let a proposed swap not happen."),
}
for _word, (_shape, _told) in _COMMANDS.items():
    models_app.command(_word, help=_told)(_shape(_word))


@models_app.command("rollback")
@grouped
def models_rollback(
    file: PipelineFile,
    options: CommandOptions,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION@UPDATES", help="A good version to go back to.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --to: the model whose version it is.")
    ] = None,
) -> None:
    """Let the champion before this one serve, or a good version of any model."""
    if model is not None and to is None:
        raise typer.BadParameter("--model says whose version --to is: give both, or none")
    send_command(file, "rollback", options, model_name=model, to=to)


@models_app.command("weights")
@grouped
def models_weights(
    file: PipelineFile,
    model: Annotated[str, typer.Argument(metavar="BLEND", help="A blend of fixed weights.")],
    weights: Annotated[
        list[str], typer.Argument(metavar="MODEL=WEIGHT...", help="The weight of each of its models.")
    ],
    options: CommandOptions,
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
    send_command(file, "weights", options, model_name=model, weights=given)


@labels_app.command("release")
@grouped
def labels_release(
    file: PipelineFile,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Whose labels, as the decision names it.")],
    options: AskOptions,
) -> None:
    """Learn the labels of a quarantined source again, as if it were new."""
    send_command(file, "release", options, source=source)


def user_name() -> str:
    """Return the name of who types."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""


def send_command(file: Path, word: CommandWord, options: AskOptions, *, then: str = "", **about: Any) -> None:
    """Send a command, wait for its answer, print it; leave with exit code 1 where it was refused.

    `then` is the command that shows what has come of it; `models history` where it is left out.
    """
    from engine.lineage.commands import answer_of, asking, fresh_command_id  # noqa: PLC0415
    from operators.race.commands import OF_ALL_RACES  # noqa: PLC0415
    from topics.codec import encode  # noqa: PLC0415
    from topics.messages import Command  # noqa: PLC0415

    pipeline, settings = load_pipeline(file), options.settings()
    asked = options.key if isinstance(options, CommandOptions) else None
    key = "" if asked is None and word in OF_ALL_RACES else race_key(pipeline, asked)
    if key and word in OF_ALL_RACES:
        raise SettingsError(
            f"`{word}` is of all races, not of one",
            hint="leave --for out; `pin` keeps the champion of a key",
        )
    signing = asking(settings, options.actor)
    command = Command(
        fresh_command_id(),
        word,
        time.time_ns() // 1_000_000,
        reason=options.reason,
        actor=signing or options.actor or user_name(),
        key=key,
        **about,
    )
    if options.dry_run:
        typer.echo(encode(command).decode())
        return
    decisions = asyncio.run(answer_of(pipeline, settings, command, deadline_s=options.timeout))
    refused = any(decision.type == REFUSED for decision in decisions)
    if options.json:
        from msgspec import to_builtins  # noqa: PLC0415

        answer = {"command_id": command.command_id, "refused": refused}
        print_json(answer | {"decisions": to_builtins(decisions)})
    else:
        for decision in decisions:
            typer.echo(_told_of(decision), err=decision.type == REFUSED)
        if not refused:
            history = f"headrace models history {file}" + (f" --for {key}" if key else "")
            typer.echo(f"next: {then or history}")
    if refused:
        raise typer.Exit(1)


def _told_of(decision: Decision) -> str:
    """Return a decision in one line."""
    if decision.type == REFUSED:
        fix = decision.evidence.get("fix")
        return f"refused: {decision.reason}" + (f"\n  fix: {fix}" if fix else "")
    before = ""
    if decision.from_model == decision.model_name:
        before = f", before version {decision.from_version}"
    elif decision.from_model:
        before = f", before {decision.from_model}"
    version = f" {decision.model_name} (version {decision.model_version}{before})"
    who = version if decision.model_name else " all races of a partition,"
    return f"{decision.type}:{who} at offset {decision.offset:,}"
