"""`--skip TOPIC:PARTITION:OFFSET`: records that a person leaves out.

Lives here: what may be named, and how it reads.  Never here: leaving them out (`Intake`).
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.definition.pipeline import Pipeline
from topics.errors import SettingsError

__all__ = ["Place", "places"]

Place = tuple[str, int, int]
"""Topic, partition and offset of one record."""
PLACES_MAX = 1_000
"""Skips are for single records; beyond, something else is wrong."""


def places(given: Iterable[str], pipeline: Pipeline) -> frozenset[Place]:
    """Return the records that `given` names.

    Raises SettingsError for what is no place in the pipeline's events or labels.
    """
    catalog = pipeline.catalog
    topics = [catalog[role] for role in ("events", "labels") if role in catalog]
    found: set[Place] = set()
    for text in given:
        topic, _, place = text.partition(":")
        partition, _, offset = place.partition(":")
        if topic not in topics or not (partition.isdecimal() and offset.isdecimal()):
            raise SettingsError(
                f"{text!r} is no record of {' or '.join(topics)}",
                hint=f"name a record as TOPIC:PARTITION:OFFSET, such as {topics[0]}:0:1234",
            )
        if int(partition) >= pipeline.events.partitions:
            raise SettingsError(
                f"{text!r}: {topic} has the partitions 0 to {pipeline.events.partitions - 1}",
                hint="take the place from the worker's message or from a dead letter's headers",
            )
        found.add((topic, int(partition), int(offset)))
    if len(found) > PLACES_MAX:
        raise SettingsError(
            f"{len(found)} records to skip are more than {PLACES_MAX}",
            hint="more than single records are bad: what do they have in common?",
        )
    return frozenset(found)
