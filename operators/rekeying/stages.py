"""Windows by several keys over several partitions: which are computed where.

Lives here: the groups of a plan shared out to stages, and the plan of each.  Never here: records on
their way between stages (`topics/rekeying.py`), values of windows.

    own key      windows whose keys hold the topic's key: all their events lie on one partition, so
                 they are computed where the events are read
    stage 1..n   windows by other keys: the event goes to the partition of that key and is computed
                 there; `by()` is one key for all, so one partition sees every event
    answer       the event's own partition again: expressions over what all stages gave

Strategy: a stage whose key is part of another group's keys serves that group too, so as few
stages as that allows.  Stages stand side by side: each sends its values straight back, none
waits for another.  Each one's plan is that of the pipeline, cut down to its groups, with every
aggregate as a feature under its number; the plan of the answer reads these numbers as if looked
up from a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from operators.language.fields import Aggregate, Lookup, rewritten, windows_of
from operators.language.plan import FeaturePlan
from topics.messages import FeatureValue

__all__ = ["Stage", "Stages", "looked_up", "plan_stages"]

_STORE: Final = "headrace.rekeyed"


@dataclass(frozen=True, slots=True)
class Stage:
    """One key other than the topic's, and the plan of its windows, on the partitions of that key."""

    number: int
    keys: tuple[str, ...]
    plan: FeaturePlan

    @property
    def name(self) -> str:
        """Return the key as it is printed."""
        return "+".join(self.keys) or "all events"


@dataclass(frozen=True, slots=True)
class Stages:
    """A pipeline's plan, split by where windows are computed."""

    own: FeaturePlan | None
    """Windows computed where events are read; None without any."""
    rekeyed: tuple[Stage, ...]
    """Stages 1, 2, ... by other keys; empty: no event needs to travel."""
    answer: FeaturePlan
    """Features over fields, look-ups and what the stages gave."""

    @property
    def parts(self) -> int:
        """Return how many sets of values an event waits for: its own partition's and each stage's."""
        return 1 + len(self.rekeyed)

    def describe(self, partitions: int) -> list[dict[str, Any]]:
        """Return the plan as `headrace check` prints it: one row a stage."""
        plans = [
            ("0", "the topic's key", self.own, partitions),
            *(
                (str(stage.number), stage.name, stage.plan, partitions if stage.keys else 1)
                for stage in self.rekeyed
            ),
        ]
        return [
            {
                "stage": number,
                "key": key,
                "partitions": count,
                "windows": [] if plan is None else [repr(aggregate) for _, aggregate in plan.features],
            }
            for number, key, plan, count in plans
        ]


def plan_stages(plan: FeaturePlan, key: str) -> Stages:
    """Return the stages of `plan` for a topic keyed by the field `key`.

    >>> import msgspec
    >>> from operators import by
    >>> from operators.language.plan import compile_features
    >>> class Ride(msgspec.Struct):
    ...     driver: str
    ...     city: str
    >>> features = {"a": by("driver").count("1h"), "b": by("city").count("1h"), "c": by().count("1h")}
    >>> plan = compile_features(features, Ride, grace_ms=0, max_events_per_key=9, task="binary")
    >>> [stage.name for stage in plan_stages(plan, "driver").rekeyed]
    ['city', 'all events']
    """
    aggregates = tuple(
        dict.fromkeys(window for _, expression in plan.features for window in windows_of(expression))
    )
    numbers = {aggregate: str(number) for number, aggregate in enumerate(aggregates)}
    keys = _stage_keys(plan.key_groups, key)
    shared: dict[tuple[str, ...], list[Aggregate]] = {}
    for aggregate in aggregates:
        shared.setdefault(keys[aggregate.keys], []).append(aggregate)

    def part(stage_keys: tuple[str, ...]) -> FeaturePlan:
        features = tuple((numbers[aggregate], aggregate) for aggregate in shared[stage_keys])
        groups = tuple(group for group in plan.groups if keys[group.keys] == stage_keys)
        return replace(plan, features=features, groups=groups, lookups=())

    def answered(part: Any) -> Any:
        return Lookup(_STORE, numbers[part]) if isinstance(part, Aggregate) else part

    others = [stage_keys for stage_keys in shared if stage_keys != (key,)]
    answer = tuple((name, rewritten(expression, answered)) for name, expression in plan.features)
    return Stages(
        part((key,)) if (key,) in shared else None,
        tuple(Stage(number, stage_keys, part(stage_keys)) for number, stage_keys in enumerate(others, 1)),
        replace(plan, features=answer, groups=()),
    )


def looked_up(values: Mapping[str, FeatureValue]) -> dict[str, object]:
    """Return a stage's values under the names that the plan of the answer looks up."""
    return {f"{_STORE}#{number}": value for number, value in values.items()}


def _stage_keys(groups: tuple[tuple[str, ...], ...], key: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the key of the stage that computes each group: the topic's, or the shortest part of its own."""
    chosen: list[tuple[str, ...]] = []
    stage_keys: dict[tuple[str, ...], tuple[str, ...]] = {}
    for group in sorted(groups, key=len):
        if key in group:
            stage_keys[group] = (key,)
            continue
        # `by()` is part of every key, but would send all of them to one partition.
        serving = next((keys for keys in chosen if keys and set(keys) <= set(group)), None)
        if serving is None:
            serving = group
            chosen.append(group)
        stage_keys[group] = serving
    return stage_keys
