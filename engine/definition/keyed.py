"""A definition in which each key has a race of its own: what cannot stand beside `per=`.

Lives here: the refusals.  Never here: what a race per key does (`engine/machines/keyed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from operators.race.candidates import Artefact
from operators.race.routing import Canary, LatencyGuard
from topics.errors import DefinitionError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from engine.definition.streams import Labels

__all__ = ["check_per"]


_OF_ONE_RACE = {
    "slices": "leave slices out: each key is a slice of its own",
    "worst": "leave worst out: it looks at one race",
    "watch": "leave it out; drift=[Drift(...)] watches the race of each key",
} | {name: f"leave {name} out: it looks at one race" for name in ("tests", "importance", "feedback", "fair")}
"""Arguments about one race, and what to do without."""


def check_per(pipeline: Pipeline) -> None:
    """Raise DefinitionError for what is not offered where each key has a race of its own."""
    per, key = pipeline.per, pipeline.events.key
    if per is None:
        return
    if pipeline.per_max < 1:
        raise DefinitionError(f"per_max is {pipeline.per_max}", hint="give a number of 1 or more")
    if per != key:
        raise DefinitionError(
            f"per is {per!r} and the events' key {key!r}: one {per!r} may have several partitions",
            hint=f"per={key!r}, or key the events topic by {per!r}",
        )
    for what, fix in _refused(pipeline):
        raise DefinitionError(f"{what} is not offered with per={per!r}", hint=fix)


def _refused_labels(labels: Labels) -> Iterator[tuple[str, str]]:
    if labels.field is not None:
        yield "a label inside the event", "send labels to a topic of their own"
    if labels.source_rules is not None:
        yield (
            "a rule about sources",
            "leave per_source_max and trust out: a key's race sees few labels of each",
        )


def _refused_monitors(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    for name, fix in _OF_ONE_RACE.items():
        if getattr(pipeline, name):
            yield name, fix


def _refused(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Yield what a definition asks for that a race per key does not do, and what to write instead."""
    if pipeline.stages is not None:
        fields = ", ".join(one.name for one in pipeline.stages.rekeyed)
        yield (
            f"a window by another key ({fields}) on several partitions",
            "leave the window out, or let its key hold the topic's key",
        )
    yield from _refused_labels(pipeline.labels)
    if pipeline.follow_ms is not None:
        yield "follow", "leave follow out: a key's models are learned where its events are"
    yield from _refused_monitors(pipeline)
    if pipeline.deadline is not None:
        yield "a deadline", "leave deadline out"
    for name, candidate in pipeline.candidates.items():
        if candidate.warms:
            yield f"a start from the log (`{name}`)", 'start it "fresh" or as a copy of the "champion"'
        if isinstance(candidate.start, Artefact):
            yield f"a start from a file (`{name}`)", 'start it "fresh" or as a copy of the "champion"'
        if candidate.budget_ms is not None:
            yield f"budget_ms (`{name}`)", "leave budget_ms out: time is measured over all races together"
    if any(drift.then == "pause" for drift in pipeline.field.drift):
        yield 'then="pause" of a drift', "leave it out: a pause is of all races, and a person's to ask for"
    if isinstance(pipeline.serving, Canary) and any(
        isinstance(guard, LatencyGuard) for guard in pipeline.serving.guards
    ):
        yield "a LatencyGuard", "leave it out: time is measured over all races together"
