"""Expressions compiled to a plan: which logs are kept, which values they need, what is refused.

Lives here: everything that can be known about features before the first event, how large a message gets
among it.  Never here: types of fields (`types.py`), values of events, memory, what topics take.

Strategy: (1) every expression is checked against the types of the event's fields, and refused
with its name and a fix; (2) aggregates with the same key, source, condition and way of
keeping share one group, which keeps one state per key; (3) the plan is a value that `Features` runs
and `headrace check` prints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from sys import intern
from typing import Any, Final, Literal, NamedTuple

import msgspec

from operators.language.conditions import Condition
from operators.language.expressions import Expression
from operators.language.fields import (
    Aggregate,
    Field,
    LabelTerm,
    Lookup,
    inputs,
    nodes,
    windows_of,
    without_descriptions,
)
from operators.language.position import constants_of
from operators.language.transforms import Cross
from operators.language.types import FieldTypes
from operators.language.window_kinds import Decay, Session, Tiled, Tumbling
from topics.codec import BYTES_MAX, TEXT_MAX
from topics.errors import DefinitionError
from topics.messages import FeatureValue, Task

__all__ = ["FeaturePlan", "FeatureRow", "Group", "StoreName", "compile_features", "text_digest"]

FEATURES_MAX: Final = 1_000
"""More is a table, not a definition; every one of them is in every prediction and example."""
EVENT_BYTES: Final = 9
"""One entry of a log: the time, with room to grow."""
VALUE_BYTES: Final = 34
"""One value of an entry: a place in a list and the number."""
SUM_BYTES: Final = 17
"""One value's exact running sum, two floats, on keys with many entries."""
SQUARES_BYTES: Final = 190
"""One value's exact running sum and sum of squares, two large integers."""

PART_BYTES: Final = 120
"""One aggregate of one tile, session or half-life."""
FIXED_BYTES: Final = 16_384
"""Ids, key, label, names, times, numbers of a message: each text of them has TEXT_MAX characters at most."""
NUMBER_BYTES: Final = 32
TEXT_BYTES: Final = 6 * TEXT_MAX
"""A character takes 6 bytes of JSON at most."""
DIGITS: Final = 12
"""48 bits: by chance two of 1,000 versions are equal once in 500 million catalogues."""

StoreName = Literal["log", "tiles", "sessions", "decay"]
"""The store of a group's entries: the file of `operators/windows` of that name."""
_TILED: Final = frozenset(
    ("count", "sum", "mean", "min", "max", "var", "std", "first", "last", "arg_max", "arg_min")
)
"""Aggregates of a tumbling window that are kept as a tile, without the entries."""
_ALL_READ: Final = frozenset(("arg_max", "arg_min"))
"""Functions of a log that read all entries of a window at each event."""


class FeatureRow(NamedTuple):
    """One line of `headrace check`."""

    name: str
    expression: str
    key: str
    source: str
    window_ms: int | None
    cost: str
    """What an event in order costs for it: constant, or as many entries or different values as there are."""


@dataclass(frozen=True, slots=True)
class Group:
    """One state per key: all aggregates over the same key fields, source and way of keeping."""

    keys: tuple[str, ...]
    source: Literal["events", "labels"]
    columns: tuple[str | None, ...]
    """Names of the values that are kept: fields, texts of what is calculated; None is the label's value."""
    aggregates: tuple[Aggregate, ...]
    keys_are_text: bool
    store: StoreName = "log"
    where: Condition | None = None
    """Events that do not meet it are shown the windows, and neither they nor their labels enter."""
    unit_ms: int = 0
    """The width of a tile, the gap of sessions, 0 elsewhere."""
    types: tuple[str, ...] = ()
    """Each field that is read, as `event_fields` has it: `amount:amount float|none = None`."""

    @property
    def name(self) -> str:
        """Return the name of the group's state: a digest of all that the bytes of one key depend on.

        Equal names mean that a state which was kept under one definition goes on under the other.  How far
        back a log reaches is not in it: a longer window finds what a shorter one has kept.
        """
        # Tiles, sessions and decayed sums are cells of their aggregates; a log is read by any.
        cells = [] if self.store == "log" else sorted(map(repr, self.aggregates))
        kept = (self.keys, self.source, self.store, self.unit_ms, cells, sorted(map(str, self.columns)))
        return text_digest(f"{kept} {sorted(self.types)} where {self.where!r}")

    @property
    def label_key(self) -> str:
        """Return, as text, the fields and types of the key under which a label waits; "" for `by()`."""
        read, where = set(self.keys), ""
        if self.where is not None:
            read |= {node.name for node in nodes(self.where) if isinstance(node, Field)}
            where = f"where {self.where!r}"
        types = sorted(text for text in self.types if text.partition(":")[0] in read)
        return " ".join([*self.keys, *types, where]).strip()

    @property
    def calculated(self) -> dict[str, Expression]:
        """Return the columns that are calculated, and the expression of each."""
        return {repr(of): of for aggregate in self.aggregates for of in aggregate.calculated}

    @property
    def window_max_ms(self) -> int:
        """Return how far back the longest window reaches, in ms."""
        return max(aggregate.reach_ms for aggregate in self.aggregates)

    @property
    def entry_bytes(self) -> int:
        """Return the bytes of memory of one entry, estimated; 0 where entries are not kept one by one."""
        if self.store != "log":
            return 0
        squared = {a.column for a in self.aggregates if a.function in ("var", "std")}
        summed = {a.column for a in self.aggregates if a.function in ("sum", "mean")} - squared
        running = SUM_BYTES * len(summed) + SQUARES_BYTES * len(squared)
        return EVENT_BYTES + VALUE_BYTES * len(self.columns) + running

    @property
    def key_bytes(self) -> int:
        """Return the bytes of memory of one key at most, estimated, where entries are not kept one by one.

        Besides, entries within the grace are kept for a while, and sketches as large as they get.
        """
        if self.store == "log":
            return 0
        tiles = [a.span.width_ms // a.span.step_ms + 1 for a in self.aggregates if isinstance(a.span, Tiled)]
        return max(tiles, default=1) * len(self.aggregates) * PART_BYTES


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """The compiled features of a pipeline: expressions, groups of windows, look-ups, limits."""

    features: tuple[tuple[str, Expression], ...]
    groups: tuple[Group, ...]
    lookups: tuple[Lookup, ...]
    """Look-ups, each `address` once."""
    grace_ms: int
    max_events_per_key: int
    task: Task

    @property
    def group_of(self) -> dict[Aggregate, Group]:
        """Return the group of each aggregate, computed at each call: take it once, before a loop."""
        return {aggregate: group for group in self.groups for aggregate in group.aggregates}

    @property
    def constants(self) -> dict[str, FeatureValue]:
        """Return what every score takes for a feature's value, by feature: of positions."""
        return constants_of(dict(self.features))

    @property
    def key_groups(self) -> tuple[tuple[str, ...], ...]:
        """Return the fields of each key, each once, in the order of the definition."""
        return tuple(dict.fromkeys(group.keys for group in self.groups))

    @property
    def label_key_groups(self) -> tuple[tuple[str, ...], ...]:
        """Return the key fields under which labels are kept, in the order of `JoinedLabel.keys`."""
        return tuple(group.keys for group in self.groups if group.source == "labels")

    @property
    def label_keys(self) -> tuple[str, ...]:
        """Return these keys as text: two plans with equal ones keep labels under the same keys."""
        return tuple(group.label_key for group in self.groups if group.source == "labels")

    @property
    def window_max_ms(self) -> int:
        """Return the reach of the longest window of all in ms, 0 without windows."""
        return max((group.window_max_ms for group in self.groups), default=0)

    @property
    def uses_labels(self) -> bool:
        """Return whether arrived labels enter windows."""
        return bool(self.label_key_groups)

    @property
    def bytes_per_event(self) -> int:
        """Return the bytes of memory of one event and its label while they are kept, estimated."""
        return sum(group.entry_bytes for group in self.groups)

    @property
    def bytes_per_key(self) -> int:
        """Return the bytes of memory of a key at most, besides its entries, estimated."""
        return sum(group.key_bytes for group in self.groups)

    def feature_types(self, event_type: type[msgspec.Struct]) -> dict[str, type]:
        """Return bool, int, float or str for every feature, by name; `event_type` is that of the plan.

        A bare look-up without a default counts as a float: a store may hold numbers, and models are tried
        with them.

        >>> from operators.language.by import by, field
        >>> class Payment(msgspec.Struct):
        ...     card: str
        ...     amount: float
        >>> features = {"card": field("card"), "n": by("card").count("1h"), "twice": field("amount") * 2}
        >>> plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=9, task="binary")
        >>> plan.feature_types(Payment)
        {'card': <class 'str'>, 'n': <class 'int'>, 'twice': <class 'float'>}
        """
        types = FieldTypes(event_type, self.task)
        return {
            name: float
            if isinstance(expression, Lookup) and expression.fallback is None
            else types.check(expression, f"feature {name!r}")
            for name, expression in self.features
        }

    def optional_features(self, event_type: type[msgspec.Struct]) -> frozenset[str]:
        """Return the features that some event may lack: by an empty window, look-up or field.

        >>> from operators.language.by import by, field, label
        >>> class Payment(msgspec.Struct):
        ...     card: str
        ...     amount: float
        ...     shop: str | None = None
        >>> card = by("card")
        >>> features = {
        ...     "shop": field("shop"),
        ...     "mean": card.mean("amount", "1h"),
        ...     "before": card.mean("amount", "1h", include_current=False),
        ...     "frauds": card.mean(label, "1d"),
        ...     "filled": card.mean(label, "1d").default(0.0),
        ... }
        >>> plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=9, task="binary")
        >>> sorted(plan.optional_features(Payment))
        ['before', 'frauds', 'shop']
        """
        types = FieldTypes(event_type, self.task)
        return frozenset(name for name, expression in self.features if types.may_be_missing(expression))

    def message_bytes_max(self, event_type: type[msgspec.Struct], names: Iterable[str]) -> int:
        """Return how many bytes a prediction or an example takes at most; `names` are of models and of rules.

        The text of a field is bounded by its event, and an event holds all of its fields together.  Not
        bounded are the classes of a label, and so a score of several classes.

        >>> from operators.language.by import by, field
        >>> class Payment(msgspec.Struct):
        ...     card: str
        ...     amount: float
        >>> def largest(**features):
        ...     plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=9, task="binary")
        ...     return plan.message_bytes_max(Payment, ["linear"])
        >>> largest(amount=field("amount"), n=by("card").count("1h")) - FIXED_BYTES
        174
        >>> largest(card=field("card")) - FIXED_BYTES - BYTES_MAX < 2_000
        True
        """
        size = FIXED_BYTES + sum(6 * len(name) + NUMBER_BYTES for name in names)
        copies: Counter[str] = Counter()
        expressions = dict(self.features)
        for name, feature_type in self.feature_types(event_type).items():
            size += 6 * len(name) + NUMBER_BYTES
            if feature_type is str:
                read = list(nodes(expressions[name]))
                size += TEXT_BYTES
                times = 2 if any(isinstance(node, Cross) for node in read) else 1
                for field in {node.name for node in read if isinstance(node, Field)}:
                    copies[field] += times
        return size + BYTES_MAX * max(copies.values(), default=0)

    def describe(self) -> list[FeatureRow]:
        """Return what each feature reads, in the order of the definition."""
        rows = []
        group_of = self.group_of
        for name, expression in self.features:
            windows = windows_of(expression)
            sources: list[str] = [window.source for window in windows]
            sources += ["lookup" for part in nodes(expression) if isinstance(part, Lookup)]
            rows.append(
                FeatureRow(
                    name,
                    repr(expression),
                    ", ".join(dict.fromkeys("+".join(window.keys) or "all" for window in windows)),
                    ", ".join(dict.fromkeys(sources)) or "event",
                    max((window.reach_ms for window in windows), default=None),
                    ", ".join(dict.fromkeys(_cost(window, group_of[window].store) for window in windows)),
                )
            )
        return rows


def _cost(aggregate: Aggregate, store: StoreName) -> str:
    """Return the cost of one event for an aggregate, as `headrace check` prints it."""
    if store == "tiles" and isinstance(aggregate.span, Tiled):
        return "constant, tiles once a step"
    if store != "log":
        return "constant"
    if aggregate.function in ("mode", "entropy"):
        return "different values"
    return "entries in the window" if aggregate.function in _ALL_READ else "constant"


def compile_features(
    features: Mapping[str, Expression],
    event_type: type[msgspec.Struct],
    *,
    grace_ms: int,
    max_events_per_key: int,
    task: Task,
) -> FeaturePlan:
    """Check `features` against the events' type and return the plan that computes them.

    >>> from operators.language.by import by, field
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    >>> features = {"amount": field("amount"), "mean_1h": by("card").mean("amount", "1h")}
    >>> plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=100, task="binary")
    >>> plan.describe()[1][1:]
    ('by("card").mean("amount", "1h")', 'card', 'events', 3600000, 'constant')

    Raises DefinitionError with the feature's name and the fix: an unknown field, a field of the
    wrong type, a key that is no text, a class label used as a number, a limit that cannot be.
    """
    if not features or len(features) > FEATURES_MAX:
        raise DefinitionError(
            f"{len(features)} features", hint=f"define at least one feature and at most {FEATURES_MAX}"
        )
    if grace_ms < 0 or max_events_per_key < 1:
        raise DefinitionError(
            f"grace {grace_ms} ms, max_events_per_key {max_events_per_key}",
            hint="give a grace of 0 or more and room for at least one event per key",
        )
    field_types = FieldTypes(event_type, task)
    grouped: dict[_GroupKey, dict[Aggregate, None]] = {}
    lookups: dict[str, Lookup] = {}
    compiled: dict[str, Expression] = {}
    for name, described in features.items():
        place = f"feature {name!r}"
        if not isinstance(described, Expression):
            raise DefinitionError(
                f"{place}: {described!r} is no expression",
                hint="write indicator(...) around the condition"
                if isinstance(described, Condition)
                else 'write field("...") or by("...").count("1h")',
            )
        # Interned, as constants of compiled code are: dicts of models then find the very object.
        expression = compiled[intern(name)] = without_descriptions(described)
        _refuse_bare_label(expression, place)
        field_types.check(expression, place)
        for part in nodes(expression):
            if isinstance(part, Aggregate):
                grouped.setdefault(_group_key(part), {})[part] = None
            elif isinstance(part, Lookup):
                lookups.setdefault(part.address, part)
    constants_of(compiled)  # refuses a position within something else
    return FeaturePlan(
        tuple(compiled.items()),
        tuple(_group(key, tuple(aggregates), field_types) for key, aggregates in grouped.items()),
        tuple(lookups.values()),
        grace_ms,
        max_events_per_key,
        task,
    )


def _refuse_bare_label(expression: Any, place: str) -> None:
    """Raise DefinitionError if the label is looked at outside a window: no feature may know it."""
    if isinstance(expression, LabelTerm):
        raise DefinitionError(
            f"{place}: the label of the event is not known yet",
            hint='take a window over labels: by("card").mean(indicator(label == "a"), "1h")',
        )
    if not isinstance(expression, Aggregate):
        for part in inputs(expression):
            _refuse_bare_label(part, place)


class _GroupKey(NamedTuple):
    """What the aggregates of one group have in common."""

    keys: tuple[str, ...]
    source: Literal["events", "labels"]
    store: StoreName
    where: Condition | None
    unit_ms: int
    """The width of a tile, the gap of sessions, 0 elsewhere."""


def _group_key(aggregate: Aggregate) -> _GroupKey:
    store, unit_ms = _store_of(aggregate)
    return _GroupKey(aggregate.keys, aggregate.source, store, aggregate.where, unit_ms)


def _store_of(aggregate: Aggregate) -> tuple[StoreName, int]:
    """Return the cheapest exact way to keep an aggregate."""
    match aggregate.span:
        case Tumbling(width_ms) if aggregate.function in _TILED:
            return "tiles", width_ms
        case Tiled(_, step_ms):
            return "tiles", step_ms
        case Session(gap_ms):
            return "sessions", gap_ms
        case Decay():
            return "decay", 0
        case _:
            return "log", 0


def _group(key: _GroupKey, aggregates: tuple[Aggregate, ...], field_types: FieldTypes) -> Group:
    columns: dict[str | None, None] = {}
    for aggregate in aggregates:
        if aggregate.is_valued:
            columns[aggregate.column] = None
        if aggregate.by_column is not None:
            columns[aggregate.by_column] = None
    are_text = all(map(field_types.is_text, key.keys))
    keys, source, store, where, unit_ms = key
    read = dict.fromkeys(keys)
    for part in aggregates:
        read |= dict.fromkeys(node.name for node in nodes(part) if isinstance(node, Field))
    for aggregate in aggregates:
        read |= dict.fromkeys(of for of in (aggregate.of, aggregate.argument) if isinstance(of, str))
    types = tuple(f"{name}:{field_types.field_text(name)}" for name in read)
    return Group(keys, source, tuple(columns), aggregates, are_text, store, where, unit_ms, types)


def text_digest(text: str, digits: int = DIGITS) -> str:
    """Return the first hexadecimal digits of a text's SHA-256: the version of a feature, the name of a state.

    >>> text_digest('by("card").count("1h")')
    '60daf87a9dc7'
    """
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
