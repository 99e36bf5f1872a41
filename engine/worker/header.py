"""What every checkpoint says of who wrote it, and what of that must be as it is here.

Lives here: the header of a scorer's and a learner's checkpoint, the meta of both, and the comparison at a
takeover.  Never here: the definition's parts (`engine/definition`), whether a log is the same one
(`claim.py`), seals and checksums (`engine/stores`).

    refused   another number of partitions: keys lie in other partitions then; other topics: positions are
              places in those
    told      other versions of code, Python or libraries, another schema of events
"""

from __future__ import annotations

import msgspec
import structlog

from engine.definition.pipeline import Pipeline
from engine.worker.assembly import libraries
from operators.claims.rule import LogPosition
from operators.language.plan import text_digest
from operators.language.types import event_fields
from topics.catalog import Role
from topics.errors import CheckpointError

__all__ = ["Fingerprint", "Header", "LearnerMeta", "ScorerMeta", "check_header", "decode_learner_meta",
           "decode_meta", "header_of", "tell_header"]  # fmt: skip

FORMAT = 1
"""Of the meta; fields that come later have defaults."""
LOGS: tuple[Role, ...] = ("events", "labels", "predictions", "examples")
"""Roles of the topics in which a checkpoint has positions."""
DIGITS = 16
log = structlog.get_logger("headrace")


class Header(msgspec.Struct, frozen=True):
    """Who wrote a checkpoint, of what."""

    format: int
    versions: dict[str, str]
    """Of Headrace, Python and the libraries by which models compute."""
    schema: str
    """Digest of the event's fields: names, types, defaults."""
    features: str
    """Version of all features."""
    partitions: int
    """Of the events topic."""
    topics: dict[str, str]
    """Names of the logs in which positions are, by role."""


class Fingerprint(msgspec.Struct, frozen=True):
    """The timestamp and checksum that tell a record from one of another log at the same offset."""

    offset: int
    timestamp_ms: int | None
    crc: int
    """CRC-32 of its key and value."""


class ScorerMeta(msgspec.Struct, frozen=True):
    """The part of a scorer's checkpoint that is not its state: definition, log positions, last records."""

    definition: dict[str, str]
    logs: tuple[LogPosition, ...]
    read: dict[str, Fingerprint] = {}
    """The last record taken of each topic it reads."""
    header: Header | None = None
    """None in one of an earlier version."""


class LearnerMeta(msgspec.Struct, frozen=True):
    """The part of the learner's checkpoint that is not its state."""

    definition: dict[str, str]
    header: Header | None = None
    """None in one of an earlier version."""


decode_meta = msgspec.json.Decoder(ScorerMeta).decode


def decode_learner_meta(data: bytes) -> LearnerMeta:
    """Return the meta of a learner's checkpoint; one of an earlier version is its definition alone."""
    found = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    if "definition" in found:
        return msgspec.json.decode(data, type=LearnerMeta)
    return LearnerMeta(msgspec.json.decode(data, type=dict[str, str]))


def header_of(pipeline: Pipeline, partitions: int) -> Header:
    """Return the header of what is written here; `partitions` are those of the events topic."""
    schema = text_digest(str(sorted(event_fields(pipeline.events.type).items())), DIGITS)
    topics: dict[str, str] = {role: pipeline.catalog[role] for role in LOGS if role in pipeline.catalog}
    return Header(FORMAT, libraries(), schema, pipeline.features_version, partitions, topics)


def check_header(found: Header | None, own: Header, place: str) -> None:
    """Raise CheckpointError, with both values, where a checkpoint of `found` cannot go on here."""
    if found is None:
        return
    if found.partitions != own.partitions:
        events = own.topics["events"]
        raise CheckpointError(
            f"{place} was written when {events} had {found.partitions} partitions, it has {own.partitions}",
            hint="state is kept by partition, and most keys lie in another one now: bring back a topic of"
            f" {found.partitions} partitions, or give the pipeline a new name, which reads {events} from its"
            " first record",
        )
    for role, name in found.topics.items():
        if own.topics.get(role, name) != name:
            raise CheckpointError(
                f"{place} has its place in {name}, the pipeline's topic of {role} is {own.topics[role]}",
                hint="name the topic as before, or give the pipeline a new name",
            )


def tell_header(found: Header | None, own: Header, place: str) -> None:
    """Log what is another one here than in a checkpoint that goes on all the same."""
    if found is None:
        log.info("checkpoint of an earlier version, without a header", place=place)
        return
    was, now = ({**one.versions, "schema": one.schema} for one in (found, own))
    if names := sorted(name for name in {*was, *now} if was.get(name) != now.get(name)):
        log.warning(
            "checkpoint of another version",
            place=place,
            was={name: was.get(name) for name in names},
            now={name: now.get(name) for name in names},
        )
