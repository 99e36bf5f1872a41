"""The feature catalogue: what each feature is, who owns it, and which version of it this is.

Lives here: the entries, what a person says of a feature, and the digest that is its version.  Never here: how
the catalogue is printed (`engine/cli/report.py`), the memory of windows.

A version is the first 12 hex digits of SHA-256 over everything that decides a feature's value for an
accepted event, written out as text:

    expression      canonical: "60m" and "1h" are one
    fields          that it reads: name on the wire, types, default
    windows         field of time, grace, bound of entries per key
    labels          how long they are waited for and what is assumed then, where it looks at labels
    rules           that clip or null what it reads, or the feature itself

So equal versions mean equal values, and words, names and the features beside it change nothing.
Which events are accepted at all (rules that refuse, limits of the event's type) is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from operators.language.expressions import (
    Arithmetic,
    Constant,
    Default,
    Described,
    Expression,
    Math,
    Negative,
)
from operators.language.fields import Aggregate, Feature, Field, Lookup, TimePart, nodes, windows_of
from operators.language.plan import FeaturePlan, StoreName, text_digest
from operators.language.position import Positional
from operators.language.rules import Rule
from operators.language.types import event_fields
from operators.language.window_kinds import LastN, Tiled
from topics.durations import duration_text
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = ["CatalogueEntry", "FeatureContext", "feature_book", "features_version", "fields_read"]

SEMANTICS: Final = 1
"""Raised when Headrace computes another value from the same definition: every version changes then."""
CHANGING: Final = ("clip", "null")
"""Actions of rules that change values."""


DESCRIPTION_MAX: Final = 1_000
"""Characters of a description: it is one cell of a table."""
OWNER_MAX: Final = 200
"""Characters of an owner: a team, or an address."""


class Description(NamedTuple):
    """The words of `.describe(...)` about a feature; empty without any."""

    text: str = ""
    owner: str = ""


class CatalogueEntry(NamedTuple):
    """One feature in the catalogue."""

    name: str
    expression: str
    type: str
    """`bool`, `int`, `float` or `str`."""
    kind: str
    """What it is outermost: `field`, `hour`, `lookup`, `calculation`, `hashed`, or the aggregate: `mean`."""
    source: str
    """`event`, `events` and `labels` of windows, `lookup`."""
    source_fields: tuple[str, ...]
    """Fields of the event that it reads, keys included."""
    key: str
    """What its windows are grouped by; empty without windows."""
    window: str
    window_ms: int | None
    """How far back it looks."""
    bound: str
    """What it keeps per key at most."""
    default: FeatureValue | None
    owner: str
    description: str
    version: str


@dataclass(frozen=True, slots=True)
class FeatureContext:
    """The parts of a definition, besides expressions, that decide the values of features."""

    time: str
    """The event's field of its time."""
    labels: str
    """Where labels come from and how long they are waited for, as text."""
    rules: Sequence[Rule] = ()
    """In the order in which they are applied."""


def feature_book(
    features: Mapping[str, Expression],
    plan: FeaturePlan,
    event_type: type[msgspec.Struct],
    context: FeatureContext,
) -> tuple[CatalogueEntry, ...]:
    """Return the catalogue of `features`, which `plan` was compiled from, in the order of the definition.

    >>> from operators.language.by import by
    >>> from operators.language.plan import compile_features
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    >>> features = {"spent": by("card").sum("amount", "60m").describe("spent in an hour", owner="risk")}
    >>> plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=100, task="binary")
    >>> (entry,) = feature_book(features, plan, Payment, FeatureContext(time="time", labels=""))
    >>> entry.kind, entry.source_fields, entry.window, entry.owner, entry.version
    ('sum', ('card', 'amount'), '1h', 'risk', '185f6819dc83')

    Raises DefinitionError for descriptions and owners that are no text or too long.
    """
    types = plan.feature_types(event_type)
    versions = _Versions(plan, event_type, context)
    group_of = plan.group_of
    entries = []
    for name, expression in plan.features:
        windows = windows_of(expression)
        sources: list[str] = [window.source for window in windows]
        sources += ["lookup" for part in nodes(expression) if isinstance(part, Lookup)]
        description = _description_of(features[name], f"feature {name!r}")
        entries.append(
            CatalogueEntry(
                name,
                repr(expression),
                types[name].__name__,
                _outermost(expression),
                _listed(sources) or "event",
                fields_read(expression),
                _listed("+".join(window.keys) or "all" for window in windows),
                _listed(_window(window) for window in windows),
                max((window.reach_ms for window in windows), default=None),
                _listed(
                    _bound(window, group_of[window].store, plan.max_events_per_key) for window in windows
                ),
                expression.value if isinstance(expression, Default) else None,
                description.owner,
                description.text,
                versions.of(name),
            )
        )
    return tuple(entries)


def features_version(entries: Iterable[CatalogueEntry]) -> str:
    """Return the version of a whole set of features: of their names and versions, in any order."""
    return text_digest("\n".join(sorted(f"{entry.name} {entry.version}" for entry in entries)))


def fields_read(expression: Any) -> tuple[str, ...]:
    """Return the fields of the event that an expression or a condition reads, each once.

    >>> from operators.language.by import by, field
    >>> fields_read(by("card").mean("amount", "1h", where=field("kind") == "sale") / field("limit"))
    ('card', 'amount', 'kind', 'limit')
    """
    return tuple(dict.fromkeys(name for part in nodes(expression) for name in _named_by(part)))


def _named_by(part: object) -> Iterator[str]:
    match part:
        case Field(name) | Positional(name):
            yield name
        case Aggregate():
            yield from part.keys
            yield from (name for name in (part.of, part.argument) if isinstance(name, str))
        case Lookup():
            yield from part.key_fields


class _Versions:
    """The versions of one definition's features."""

    def __init__(self, plan: FeaturePlan, event_type: type[msgspec.Struct], context: FeatureContext) -> None:
        self._expressions = dict(plan.features)
        self._fields = event_fields(event_type)
        self._rules = [rule for rule in context.rules if rule.action in CHANGING]
        self._windows = (
            f"time {context.time} {self._fields.get(context.time, '')}",
            f"grace_ms {plan.grace_ms}",
            f"max_events_per_key {plan.max_events_per_key}",
        )
        self._labels = f"labels {context.labels}"

    def of(self, name: str) -> str:
        """Return the version of one feature."""
        rules, others = self._changing(name)
        expressions = [self._expressions[name], *(self._expressions[other] for other in others)]
        parts_read = [part for expression in expressions for part in nodes(expression)]
        windows = [part for part in parts_read if isinstance(part, Aggregate)]
        read = {
            field
            for part in [*parts_read, *(part for rule in rules for part in rule.parts())]
            for field in _named_by(part)
        }
        lines = (
            f"feature {SEMANTICS}",
            repr(self._expressions[name]),
            *(f"feature {other} {self._expressions[other]!r}" for other in others),
            *(f"field {field} {self._fields[field]}" for field in sorted(read)),
            *(self._windows if windows else ()),
            *((self._labels,) if any(window.source == "labels" for window in windows) else ()),
            *(f"rule {rule.demand} {rule.action}" for rule in rules),
        )
        return text_digest("\n".join(lines))

    def _changing(self, name: str) -> tuple[list[Rule], list[str]]:
        """Return the rules that may change a feature's value, and the other features that they read."""
        wanted: set[Expression] = {Feature(name)}
        rules: list[Rule] = []
        while True:
            for part in list(wanted):
                if isinstance(part, Feature):
                    wanted |= {Field(field) for field in fields_read(self._expressions[part.name])}
            more = [rule for rule in self._rules if rule.target in wanted and rule not in rules]
            if not more:
                break
            rules += more
            wanted |= {part for rule in more for part in rule.parts() if isinstance(part, Field | Feature)}
        in_order = [rule for rule in self._rules if rule in rules]
        others = {part.name for part in wanted if isinstance(part, Feature)} - {name}
        return in_order, sorted(others)


def _description_of(expression: Expression, place: str) -> Description:
    """Return the outermost description of a feature, before or after its default; `place` names it."""
    of = expression
    while isinstance(of, Default):
        of = of.of
    if not isinstance(of, Described):
        return Description()
    given: tuple[tuple[str, object, int], ...] = (
        ("description", of.text, DESCRIPTION_MAX),
        ("owner", of.owner, OWNER_MAX),
    )
    for name, said, most in given:
        if not isinstance(said, str) or len(said) > most:
            raise DefinitionError(
                f"{place}: {name} {str(said)[:40]!r}", hint=f"give text of at most {most:,} characters"
            )
    return Description(of.text, of.owner)


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _outermost(expression: Expression) -> str:
    match expression:
        case Default(of):
            return _outermost(of)
        case Aggregate():
            return expression.function
        case TimePart():
            return expression.part
        case Math():
            return expression.function
        case Arithmetic() | Negative() | Constant():
            return "calculation"
        case _:
            return type(expression).__name__.lower()


def _window(aggregate: Aggregate) -> str:
    """Return the window as it stands in a definition, with its end where that is not the event."""
    text = aggregate.window_text.strip('"')
    return f"{text}, {duration_text(aggregate.shift_ms)} before" if aggregate.shift_ms else text


def _bound(aggregate: Aggregate, store: StoreName, entries: int) -> str:
    """Return what an aggregate keeps per key at most, as text; `entries` is the bound of a log."""
    match store, aggregate.span:
        case "tiles", Tiled(width_ms, step_ms):
            return f"{width_ms // step_ms + 1:,} tiles"
        case "tiles", _:
            return "1 tile"
        case "sessions", _:
            return "1 session"
        case "decay", _:
            return "1 decayed sum"
        case _, LastN(count):
            return f"{min(count, entries):,} entries"
    return f"{entries:,} entries"
