"""`headrace dlq`: what was refused, one of it with all that is known, and back to its topic.

Lives here: arguments, tables, words.  Never here: letters (`engine/lineage/letters.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import Json, KafkaOptions, PipelineFile, grouped, print_json
from engine.cli.records import text_of_bytes, value_shown
from engine.definition.file import load_pipeline
from topics.errors import SettingsError

if TYPE_CHECKING:
    from engine.lineage.letters import Chosen, LetterReplay
    from topics.letters import Letter

__all__ = ["dlq_app"]

dlq_app = typer.Typer(help="The dead letters of a pipeline.", no_args_is_help=True)
COUNTED = ("letters", "cut", "replayed")
Moment = Annotated[
    str | None, typer.Option(metavar="TIME", help="RFC 3339, as 2026-11-30T12:00:00Z, or ms since 1970.")
]


@dataclass(frozen=True)
class LetterOptions(KafkaOptions):
    """Which letters are meant."""

    stage: Annotated[
        str | None, typer.Option(help="Refused by this step: decode, label, time, join, ...")
    ] = None
    exception: Annotated[str | None, typer.Option(help="With this type of error.")] = None
    reason: Annotated[str | None, typer.Option(help="With this text in the message.")] = None
    since: Moment = None
    until: Moment = None

    def chosen(self) -> Chosen:
        """Return which letters these options mean.  Raises SettingsError for what is no time."""
        from engine.lineage.letters import Chosen  # noqa: PLC0415

        return Chosen(self.stage, self.exception, self.reason, _ms(self.since), _ms(self.until))


def _ms(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        if text.isdigit():
            return int(text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{text!r} is no time", hint="2026-11-30T12:00:00Z, or milliseconds") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


@dlq_app.command("list")
@grouped
def dlq_list(file: PipelineFile, letters: LetterOptions, json: Json = False) -> None:
    """Count dead letters by topic, step and error, each with its first message and place."""
    from engine.cli.report import out, print_table, table_of, time_text  # noqa: PLC0415
    from engine.lineage.letters import groups  # noqa: PLC0415

    settings = letters.settings()
    found = asyncio.run(groups(load_pipeline(file), settings.kafka, letters.chosen()))
    ranked = sorted(found.items(), key=lambda item: -item[1].letters)
    if json:
        print_json(
            [
                {
                    "topic": topic,
                    "stage": stage,
                    "exception": exception,
                    "letters": group.letters,
                    "cut": group.cut,
                    "replayed_before": group.replayed,
                    "first": group.first.place,
                    "last": group.last.place,
                    "message": group.first.refusal.message,
                }
                for (topic, stage, exception), group in ranked
            ]
        )
        return
    table = table_of("topic", "stage", "exception", "letters", "cut", "replayed", "last", numbers=COUNTED)
    for (topic, stage, exception), group in ranked:
        written = time_text(group.last.letter.timestamp_ms or 0)
        counts = f"{group.letters:,}", f"{group.cut:,}", f"{group.replayed:,}"
        table.add_row(topic or "(others)", stage, exception, *counts, written)
    print_table(table)
    for _, group in ranked:
        out.print(f"{group.first.place}  {group.first.refusal.message}", markup=False)
    if ranked:
        typer.echo(f"\nnext: headrace dlq show {file} {ranked[0][1].first.place}")


@dlq_app.command("show")
@grouped
def dlq_show(
    file: PipelineFile,
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="Where the letter lies.")],
    source: KafkaOptions,
) -> None:
    """Print one dead letter as one JSON object: why, where from, and the record as it came."""
    from engine.lineage.letters import letter_at  # noqa: PLC0415

    partition, _, offset = place.partition(":")
    if not (partition.isdigit() and offset.isdigit()):
        raise SettingsError(f"{place!r} is no place of a letter", hint="PARTITION:OFFSET, as `0:17`")
    pipeline = load_pipeline(file)
    try:
        letter = asyncio.run(letter_at(pipeline, source.settings().kafka, int(partition), int(offset)))
    except ValueError as reason:
        raise SettingsError(f"the record at {place} is no dead letter: {reason}") from None
    if letter is None:
        raise SettingsError(f"there is no letter at {place}", hint=f"headrace dlq list {file}")
    print_json(_shown(letter))


def _shown(letter: Letter) -> Mapping[str, Any]:
    why = letter.refusal
    return {
        "letter": letter.place,
        "written": letter.letter.timestamp_ms,
        **why._asdict(),
        "timestamp": letter.timestamp_ms,
        "replayed": letter.replays,
        "missing": list(letter.missing),
        "key": text_of_bytes(letter.letter.key),
        "headers": {name: text_of_bytes(value) for name, value in letter.came},
        "value": value_shown(letter.letter.value),
    }


@dlq_app.command("replay")
@grouped
def dlq_replay(
    file: PipelineFile,
    letters: LetterOptions,
    records_max: Annotated[int, typer.Option("--max", min=1, help="Send no more records than this.")] = 1_000,
    rate: Annotated[int, typer.Option(min=1, help="Records a second.")] = 100,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    json: Json = False,
) -> None:
    """Send refused records to their own topics again, as they came.

    An event keeps its id, so one that was answered meanwhile changes nothing.  Exit code 1 if some of the
    letters cannot be replayed.
    """
    from engine.lineage.letters import LetterReplay  # noqa: PLC0415

    pipeline, settings = load_pipeline(file), letters.settings()
    replay = LetterReplay(pipeline, settings.kafka, letters.chosen(), records_max=records_max)
    asyncio.run(_looked_at(replay) if dry_run else replay.send(rate))
    if json:
        print_json(
            {
                "records": replay.records,
                "sent": not dry_run,
                "repeats": replay.repeats,
                "refused": dict(replay.refused),
                "more": replay.left,
            }
        )
    else:
        typer.echo(f"{'would send' if dry_run else 'sent'} {replay.records:,} records")
        if replay.repeats:
            typer.echo(f"{replay.repeats:,} letters are of records that have a later one")
        for reason, count in replay.refused.most_common():
            typer.echo(f"not replayed: {count:,} letters: {reason}")
        if replay.left:
            typer.echo("there are more: --max bounds what one replay sends")
    if replay.refused:
        raise typer.Exit(1)


async def _looked_at(replay: LetterReplay) -> None:
    async for _ in replay.chosen():
        pass
