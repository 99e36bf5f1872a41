"""Events to feature dicts: the plan of `operators/language/plan.py`, run.

Lives here: the order of things for one event, and the stores of a plan.  Never here: what a store holds
(`log.py`, `tiles.py`, `sessions.py`, `decay.py`), expressions over values (`evaluate.py`), what a definition
may say, who predicts.

    event -> template copied -> windows of events: entered and read -> windows of labels: read
          -> expressions over fields and windows -> features, without what is missing

The template has every feature's name in the order of the definition, with its default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from operators.language.expressions import Default, Expression
from operators.language.fields import Aggregate, Field, LabelTerm, windows_of
from operators.language.plan import FeaturePlan, Group
from operators.state import StateDelta, StateEntries
from operators.windows.aggregates import Target
from operators.windows.decay import DecayFold
from operators.windows.evaluate import NOTHING, Counts, Decide, Out, calculation, predicate
from operators.windows.exact import VALUE_MAX, as_value
from operators.windows.keyed_state import LONG_AGO, Keyed, ReorderBuffer, Row
from operators.windows.log import Logs
from operators.windows.sessions import SessionFold
from operators.windows.tiles import Tiles
from topics.errors import CheckpointError
from topics.messages import Event, FeatureValue, LabelValue

__all__ = ["CarriedOver", "Features", "JoinedLabel", "key_reader", "label_entry"]

META: Final = "meta"
"""The entry that is no key's."""
_EVICTIONS: Final = ("max_events_per_key", "idle")


class JoinedLabel(NamedTuple):
    """A label that has met its event."""

    keys: tuple[str | None, ...]
    """The event's `Features.label_keys`; None, too, where the event was answered by another definition."""
    label_time: int
    value: float | str | None
    """As `label_entry` gives it; None is missing."""


def label_entry(label: LabelValue) -> float | str:
    """Return a label as windows take it: 1.0 or 0.0, the value of a regression, the name of a class."""
    return label if isinstance(label, str) else float(label)


class GroupMeta(msgspec.Struct, frozen=True, array_like=True):
    """The counts and the reach of one group, stored besides its entries."""

    evicted_events: int = 0
    """Entries that were removed to make room."""
    evicted_keys: int = 0
    """Idle keys that were forgotten."""
    reach_ms: int = 0
    """How far back its longest window looked, in ms."""


class CarriedOver(NamedTuple):
    """The part of another definition's state that is carried over."""

    entries: dict[str, bytes]
    """For `Features.restore`."""
    filling: tuple[str, ...]
    """Features that are not whole before they have been fed for as long as they look back."""
    keys: int
    """Keys of groups that go on."""
    keys_dropped: int
    label_keys: tuple[str, ...]
    """What keys of waiting labels were made of: `Meta.label_keys` of the other definition."""


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """The part of the state that is no key's."""

    watermark: int
    groups: dict[str, GroupMeta]
    """By the names of the groups."""
    label_keys: tuple[str, ...]
    """What the keys under which labels wait to enter are made of: `Group.label_key` of groups over labels."""


Store = Logs | Keyed[Any]
"""The store of one group's entries."""


Step = Callable[[str, Event, Row, dict[Any, Any]], None]
"""(key, event, its row, where the values go)."""


class _GroupReader(NamedTuple):
    """A store, and the functions that read key and row of an event for it."""

    store: Store
    key_of: Callable[[Any], str]
    row_of: Callable[[Any], Row]
    met: Callable[[Any], bool | None]
    """Whether an event enters, and its label after it."""


class Features:
    """Features of events in log order, with all their windows.

    >>> from operators import by
    >>> from operators.language.plan import compile_features
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    >>> definition = {"n": by("card").count("1h"), "mean": by("card").mean("amount", "1h")}
    >>> plan = compile_features(definition, Payment, grace_ms=0, max_events_per_key=100, task="binary")
    >>> features = Features(plan)
    >>> events = [
    ...     Event(str(n), n * 60_000, "a", Payment("a", amount), offset=n, watermark=n * 60_000)
    ...     for n, amount in enumerate([1.0, 4.0])
    ... ]
    >>> features.step_events(events)
    [{'n': 1, 'mean': 1.0}, {'n': 2, 'mean': 2.5}]
    """

    def __init__(self, plan: FeaturePlan, counts: Counts | None = None) -> None:
        """`counts` gets failures of the user's functions, and evictions; they are no part of the state."""
        self.plan = plan
        targets: dict[Aggregate, list[Target]] = {}
        self._template: Out = {}
        later: list[tuple[str, Expression]] = []
        for name, expression in plan.features:
            self._template[name] = default = expression.value if isinstance(expression, Default) else None
            of = expression.of if isinstance(expression, Default) else expression
            if isinstance(of, Aggregate):
                targets.setdefault(of, []).append(Target(name, of, default is not None))
            else:
                later.append((name, expression))
        # Aggregates inside other expressions go under numbers, which are taken out at the end.
        inner = dict.fromkeys(window for _, expression in later for window in windows_of(expression))
        numbers = {aggregate: number for number, aggregate in enumerate(inner)}
        for aggregate, number in numbers.items():
            targets.setdefault(aggregate, []).append(Target(number, aggregate))
        self._numbers = tuple(numbers.values())
        self._inner = tuple(map(repr, numbers))
        self._later = [(name, calculation(expression, numbers, counts)) for name, expression in later]
        self._stores: dict[str, Store] = {}
        """The store of each group, by the name of the group."""
        self._entering: list[tuple[Step, Callable[[Any], str], Callable[[Any], Row]]] = []
        """Per group that every event enters: its step, and how an event's key and row are read."""
        self._conditional: list[_GroupReader] = []
        self._labels: list[_GroupReader] = []
        for group in plan.groups:
            mine = [target for aggregate in group.aggregates for target in targets[aggregate]]
            store = self._stores[group.name] = _store(group, mine, plan.max_events_per_key)
            key_of, row_of, met = readers(group, counts)
            if group.source == "labels":
                self._labels.append(_GroupReader(store, key_of, row_of, met or _always))
            elif met is None:
                self._entering.append((store.step, key_of, row_of))
            else:
                self._conditional.append(_GroupReader(store, key_of, row_of, met))
        self._all_stores = tuple(self._stores.values())
        self._counts = counts
        self._evictions_counted = (0, 0)
        self._watermark = LONG_AGO
        self._meta_changed = True

    @property
    def evicted_events(self) -> int:
        """Return how many entries made room for newer ones of their key."""
        return sum(store.evicted_events for store in self._stores.values())

    @property
    def evicted_keys(self) -> int:
        """Return how many idle keys were forgotten."""
        return sum(store.evicted_keys for store in self._stores.values())

    def count_evictions(self) -> None:
        """Count what was evicted since the last call; of a restored state only what comes after it."""
        evicted = self.evicted_events, self.evicted_keys
        if self._counts is not None and evicted != self._evictions_counted:
            for reason, now, before in zip(_EVICTIONS, evicted, self._evictions_counted, strict=True):
                self._counts["window_evictions", reason] += now - before
        self._evictions_counted = evicted

    @property
    def key_count(self) -> int:
        """Return how many keys are kept, over all groups."""
        return sum(map(len, self._stores.values()))

    def step_events(  # noqa: PLR0912  the order of things for one event, and all of it
        self, events: Sequence[Event], lookups: Sequence[Mapping[str, object]] | None = None
    ) -> list[dict[str, FeatureValue]]:
        """Enter `events` one after the other and return each one's features, as of its own time.

        `lookups` has one mapping per event, from `Lookup.address` to the stored value.
        """
        rows: list[dict[str, FeatureValue]] = []
        copy, newest = self._template.copy, self._watermark
        for event in events:
            value, watermark, out = event.value, event.watermark, copy()
            if watermark > newest:
                newest = watermark
                for store in self._all_stores:
                    if watermark >= store.idle.due_ms:
                        store.forget(watermark)
            for step, key_of, row_of in self._entering:
                step(key_of(value), event, row_of(value), out)
            for store, key_of, row_of, met in self._conditional:
                if met(value):
                    store.step(key_of(value), event, row_of(value), out)
                else:
                    store.read(key_of(value), event, out)
            for store, key_of, _, _ in self._labels:
                store.read(key_of(value), event, out)
            if self._later:
                looked_up = NOTHING if lookups is None else lookups[len(rows)]
                for name, evaluate in self._later:
                    if (found := evaluate(value, out, looked_up)) is None:
                        del out[name]
                    else:
                        out[name] = found
                for number in self._numbers:
                    out.pop(number, None)
            rows.append(out)
        if newest > self._watermark:
            self._watermark, self._meta_changed = newest, True
        return rows

    def step_labels(self, labels: Sequence[JoinedLabel]) -> None:
        """Enter labels that have joined their events."""
        for keys, label_time, value in labels:
            for (store, _, row_of, _), key in zip(self._labels, keys, strict=True):
                if key is not None:
                    store.enter(key, label_time, self._watermark, row_of(value))

    def label_keys(self, event: Event) -> tuple[str | None, ...]:
        """Return the keys under which the label of `event` will be kept, to be stored with its prediction.

        None where the event does not meet the group's condition.
        """
        value = event.value
        return tuple(key_of(value) if met(value) else None for _, key_of, _, met in self._labels)

    # -- all of one key of the topic ---------------------------------------------------------------------

    def kept_of(self, field: str, value: str) -> Iterator[tuple[Group, Store, str]]:
        """Yield every key that holds `value` of the field `field`, with its group and store.

        Where a group's keys have other fields too, all of them are looked at.
        """
        for group, store in zip(self.plan.groups, self._all_stores, strict=True):
            if group.keys == (field,):
                if value in store:
                    yield group, store, value
            elif field in group.keys:
                at = group.keys.index(field)
                for key in [key for key in store if key_parts(key, len(group.keys))[at] == value]:
                    yield group, store, key

    def values_of(
        self, field: str, value: str, time: int
    ) -> Iterator[tuple[Group, str, dict[str, FeatureValue]]]:
        """Yield the windows that end at `time`, by group and key, of every key with this value of a field.

        A window inside another expression stands under its own text.
        """
        texts = dict(zip(self._numbers, self._inner, strict=True))
        for group, store, key in self.kept_of(field, value):
            out: dict[Any, Any] = {}
            store.read(key, Event("", time, key, None, offset=-1, watermark=self._watermark), out)
            yield group, key, {texts.get(name, name): found for name, found in out.items()}

    def erase(self, field: str, value: str) -> int:
        """Remove the windows of `value` of the field `field`; return how many keys of groups are gone.

        What other keys have of its events (a merchant's sum, of a customer's amounts) stays.
        """
        gone = list(self.kept_of(field, value))
        for _, store, key in gone:
            store.erase(key)
        return len(gone)

    # -- checkpoints ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: one entry per group and key, and one for all."""
        entries = {META: self._encode_meta()}
        for name, store in self._stores.items():
            entries.update((f"{name}/{key}", data) for key, data in store.entries())
        return entries

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        changes: StateDelta = {}
        if self._meta_changed or any(store.changed for store in self._stores.values()):
            changes[META] = self._encode_meta()
            self._meta_changed = False
        for name, store in self._stores.items():
            changes.update((f"{name}/{key}", data) for key, data in store.changes())
        return changes

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state.  Raises CheckpointError if `entries` are not of this plan."""
        found: dict[str, dict[str, bytes]] = {name: {} for name in self._stores}
        try:
            for name, data in entries.items():
                group, slash, key = name.partition("/")
                if slash:
                    found[group][key] = data
            meta = msgspec.msgpack.decode(entries[META], type=Meta)
            for name, store in self._stores.items():
                store.load(found[name].items())
                group_meta = meta.groups[name]
                store.evicted_events, store.evicted_keys = group_meta.evicted_events, group_meta.evicted_keys
        except (KeyError, ValueError, IndexError) as error:
            raise _unreadable(error) from error
        self._watermark = meta.watermark
        self._evictions_counted = self.evicted_events, self.evicted_keys
        self._meta_changed = False

    def _encode_meta(self) -> bytes:
        groups = {
            group.name: GroupMeta(store.evicted_events, store.evicted_keys, group.window_max_ms)
            for group, store in zip(self.plan.groups, self._stores.values(), strict=True)
        }
        return msgspec.msgpack.encode(Meta(self._watermark, groups, self.plan.label_keys))

    def carried_over(self, entries: StateEntries) -> CarriedOver:
        """Return the part of `entries`, the state of a definition with other features, that is carried over.

        A group goes on if its name is the same: nothing that its bytes depend on has changed.  Any other
        begins empty.  Raises CheckpointError for what is no such state.
        """
        try:
            before = msgspec.msgpack.decode(entries[META], type=Meta)
        except (KeyError, ValueError) as error:
            raise _unreadable(error) from error
        groups = {name: before.groups.get(name, GroupMeta()) for name in self._stores}
        group_of = self.plan.group_of
        filling = tuple(
            name
            for name, expression in self.plan.features
            if any(groups[group_of[one].name].reach_ms < one.reach_ms for one in windows_of(expression))
        )
        kept = {name: data for name, data in entries.items() if name.partition("/")[0] in groups}
        meta = Meta(before.watermark, groups, self.plan.label_keys)
        return CarriedOver(
            kept | {META: msgspec.msgpack.encode(meta)},
            filling,
            keys=len(kept),
            keys_dropped=len(entries) - 1 - len(kept),
            label_keys=before.label_keys,
        )


def _unreadable(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"feature state cannot be read: {error}",
        hint="restore it with the definition, and the release, that wrote it",
    )


def _always(_: Any) -> bool:
    return True


def _store(group: Group, targets: Sequence[Target], event_max: int) -> Store:
    """Return the store of a group's entries; its state does not depend on the order of the definition."""
    columns = columns_of(group)
    targets = sorted(targets, key=lambda target: repr(target.aggregate))
    match group.store:
        case "log":
            return Logs(columns, targets, event_max)
        case "tiles":
            return Keyed(Tiles(columns, targets, step_ms=group.unit_ms, event_max=event_max))
        case "sessions":
            return Keyed(ReorderBuffer(SessionFold(columns, targets, gap_ms=group.unit_ms), event_max))
        case "decay":
            return Keyed(ReorderBuffer(DecayFold(columns, targets), event_max))


# -- what of an event enters a store ----------------------------------------------------------------------


def readers(
    group: Group, counts: Counts | None = None
) -> tuple[Callable[[Any], str], Callable[[Any], tuple[Any, ...]], Decide | None]:
    """Return how an event's key and row are read for a group, and whether it enters; None: every one does.

    `counts` gets the failures of the user's functions.
    """
    met = None if group.where is None else predicate(group.where)
    row_of = _calculated_row(group, counts) if group.calculated else _row_of(group)
    return key_reader(group.keys, are_text=group.keys_are_text), row_of, met


def columns_of(group: Group) -> tuple[str | None, ...]:
    """Return the columns of a group in the order in which rows have them: by name."""
    return tuple(sorted(group.columns, key=str))


def key_reader(keys: Sequence[str], *, are_text: bool = False) -> Callable[[Any], str]:
    """Return the function that reads an event's key.

    One field is its own text.  Several are joined with the length of each but the last, so that
    different values never make the same key.

    >>> from types import SimpleNamespace
    >>> key_reader(["a", "b"])(SimpleNamespace(a="xy", b=3)), key_reader([])(None)
    ('2:xy,3', '')
    """
    if not keys:
        return lambda _: ""
    get: Callable[[Any], Any] = attrgetter(*keys)
    if len(keys) == 1:
        return get if are_text else lambda value: str(get(value))

    def joined(value: Any) -> str:
        *head, last = map(str, get(value))
        return "".join([f"{len(part)}:{part}," for part in head]) + last

    return joined


def key_parts(key: str, count: int) -> list[str]:
    """Return the values of the `count` fields that `key_reader` made a key of.

    >>> key_parts("2:xy,3", 2), key_parts("a:b", 1), key_parts("1:,,0:,,", 3)
    (['xy', '3'], ['a:b'], [',', '', ','])
    """
    parts: list[str] = []
    for _ in range(count - 1):
        length, _, rest = key.partition(":")
        parts.append(rest[: int(length)])
        key = rest[int(length) + 1 :]
    return [*parts, key]


def _row_of(group: Group) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function that reads a group's columns from an event (or the value of a label)."""
    columns = columns_of(group)
    if not columns:
        return lambda _: ()
    if group.source == "labels":
        return lambda value: (as_value(value),)
    get: Callable[[Any], Any] = attrgetter(*(name or "" for name in columns))
    if len(columns) > 1:
        return lambda value: tuple(map(as_value, get(value)))

    # The usual number first: a call of `as_value` costs as much as all else here.
    return lambda value: (
        (number,) if type(number := get(value)) is float and 1 <= number <= VALUE_MAX else (as_value(number),)
    )


def _calculated_row(group: Group, counts: Counts | None) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function that makes a row where columns are calculated from an event's fields."""
    calculated = group.calculated
    of = [LabelTerm() if name is None else calculated.get(name, Field(name)) for name in columns_of(group)]
    found = [calculation(one, {}, counts) for one in of]
    return lambda value: tuple([as_value(evaluate(value, NOTHING, NOTHING)) for evaluate in found])
