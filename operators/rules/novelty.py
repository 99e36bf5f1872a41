"""Novelty: categories of text fields and keys of the events' JSON that have never been seen before.

Lives here: the memory of what was there while learning, and when something is told.  Never here: topics,
the message that is sent (`engine/machines/checks.py`), rules about values (`apply.py`).

    events      1 ... learning         later
    carrier     UA AA DL               UA  ZZ     UA  ZZ
    told                                   ^ once, then ZZ is known

Keys are looked for in the bytes of every event while learning, then in one of `SAMPLED_EVERY`, chosen by
the event's own checksum: so a replay and a backtest look at the same ones.  A change that stays is told
after some `SAMPLED_EVERY` events; one odd event may pass unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from operators.language.alerts import NoveltyPlan
from operators.state import StateDelta, StateEntries
from topics.codec import TEXT_MAX
from topics.errors import CheckpointError
from topics.messages import Event, NoveltyKind

__all__ = ["SAMPLED_EVERY", "Novelty", "Told"]

SAMPLED_EVERY: Final = 64
"""Reading an event's keys costs about a microsecond."""
KEYS_KNOWN_MAX: Final = 1_000
"""Keys of events that are remembered; who sends more has put values into keys."""

_META: Final = "meta"
_KEYS: Final = ""
"""Stands for keys among the fields that are given up."""


class Told(NamedTuple):
    """A novelty, reported once."""

    kind: NoveltyKind
    field: str
    value: str
    """The category; empty for fields."""
    event_index: int
    """Of the event, in its run, that showed it."""


class _NoveltyMeta(msgspec.Struct, array_like=True):
    seen: int
    """Events so far, no more than `learning`."""
    always: list[str] | None
    """Keys that every event had while learning, sorted; None before the first."""
    full: list[str]
    """Fields with too many categories, sorted, or `_KEYS`."""


class Novelty:
    """The categories and keys that one partition's events have shown so far.

    >>> class Flight(msgspec.Struct):
    ...     carrier: str
    >>> novelty = Novelty(NoveltyPlan(("carrier",), False, 2, 100, {}), Flight)
    >>> events = [Event(str(n), n, "k", Flight(c), n, 0) for n, c in enumerate(["UA", "AA", "ZZ", "ZZ"])]
    >>> novelty.step(events, [0, 0, 0, 0], {})
    [Told(kind='new_category', field='carrier', value='ZZ', event_index=2)]
    """

    def __init__(self, plan: NoveltyPlan, event_type: type[msgspec.Struct]) -> None:
        self._learning = plan.learning
        self._categories_max = plan.categories_max
        self._schema = plan.schema
        config = event_type.__struct_config__
        tag = {config.tag_field} if config.tag_field else set()
        self._declared = frozenset(event_type.__struct_encode_fields__) | tag
        self._fields: list[tuple[str, Callable[[Any], str | None]]] = [
            (name, attrgetter(name)) for name in plan.categories
        ]
        self._decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        self._clear()

    def _clear(self) -> None:
        self._seen = 0
        self._categories: dict[str, set[str | None]] = {name: {None} for name, _ in self._fields}
        """Values that were seen, by field; None, for missing ones, is always among them."""
        self._keys: set[str] = set(self._declared)
        self._always: set[str] | None = None
        self._full: set[str] = set()
        self._changed: set[str] = {_META}
        """Entries that changed since the last delta; none is ever taken away."""

    def step(
        self, events: Sequence[Event], crcs: Sequence[int], payloads: Mapping[int, bytes | None]
    ) -> list[Told]:
        """Take admitted events; return what is new in them, in their order.

        `crcs` are checksums of their bytes, which `payloads` holds by offset; it may be empty where
        `schema` is off.
        """
        told: list[Told] = []
        learn = min(self._learning - self._seen, len(events))
        if learn:
            self._look(events[:learn], 0, told)
            for index, event in enumerate(events[:learn] if self._schema else ()):
                self._learn_keys(payloads[event.offset] or b"", index, told)
            self._seen += learn
            self._changed.add(_META)
        if learn < len(events):
            self._look(events[learn:], learn, told)
            if self._schema:
                sampled = [not crc % SAMPLED_EVERY for crc in crcs]
                sampled[:learn] = [False] * learn
                for index in compress(range(len(events)), sampled):
                    self._compare_keys(payloads[events[index].offset] or b"", index, told)
        if len(told) > 1:
            told.sort(key=lambda news: news.event_index)
        return told

    def _look(self, events: Sequence[Event], first: int, told: list[Told]) -> None:
        """Report categories that no event has shown before."""
        values = [event.value for event in events]
        for name, get in self._fields:
            seen = self._categories[name]
            if seen.issuperset(map(get, values)) or name in self._full:
                continue
            for index, value in enumerate(values, first):
                text = (get(value) or "")[:TEXT_MAX]
                if text in seen or get(value) is None:
                    continue
                if len(seen) > self._categories_max:
                    self._give_up(name, "too_many_categories", index, told)
                    break
                seen.add(text)
                self._changed.add(f"category/{name}/{text}")
                if self._seen == self._learning:
                    told.append(Told("new_category", name, text, index))

    def _learn_keys(self, payload: bytes, index: int, told: list[Told]) -> None:
        keys = self._keys_in(payload)
        self._new_keys(keys, index, told)
        self._always = keys if self._always is None else self._always & keys

    def _compare_keys(self, payload: bytes, index: int, told: list[Told]) -> None:
        keys = self._keys_in(payload)
        self._new_keys(keys, index, told)
        for key in sorted((self._always or set()) - keys):
            assert self._always is not None
            self._always.discard(key)
            self._changed.add(_META)
            told.append(Told("missing_field", key, "", index))

    def _keys_in(self, payload: bytes) -> set[str]:
        return {key[:TEXT_MAX] for key in self._decode_keys(payload)}

    def _new_keys(self, keys: set[str], index: int, told: list[Told]) -> None:
        """Remember keys that no event has had before; report them once learning is over."""
        if self._keys.issuperset(keys) or _KEYS in self._full:
            return
        for key in sorted(keys - self._keys):
            if len(self._keys) - len(self._declared) >= KEYS_KNOWN_MAX:
                self._give_up(_KEYS, "too_many_fields", index, told)
                return
            self._keys.add(key)
            self._changed.add(f"key/{key}")
            if self._seen == self._learning:
                told.append(Told("new_field", key, "", index))

    def _give_up(self, name: str, kind: NoveltyKind, index: int, told: list[Told]) -> None:
        self._full.add(name)
        self._changed.add(_META)
        told.append(Told(kind, name, "", index))

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: one entry per category and key, and one for all."""
        entries = {_META: self._encode_meta()}
        entries.update((f"key/{key}", b"") for key in self._keys - self._declared)
        for name, categories in self._categories.items():
            entries.update((f"category/{name}/{text}", b"") for text in categories if text is not None)
        return entries

    def delta(self) -> StateDelta:
        """Return the entries since the last call; none is ever removed."""
        changes: StateDelta = dict.fromkeys(self._changed, b"")
        if _META in changes:
            changes[_META] = self._encode_meta()
        self._changed.clear()
        return changes

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state.  Raises CheckpointError if `entries` are not of these alerts."""
        self._clear()
        try:
            meta = msgspec.msgpack.decode(entries[_META], type=_NoveltyMeta)
            for entry in entries:
                part, _, rest = entry.partition("/")
                if part == "key":
                    self._keys.add(rest)
                elif part == "category":
                    name, _, text = rest.partition("/")
                    self._categories[name].add(text)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"the state of alerts cannot be read: {error}",
                hint="restore it with the definition that wrote it",
            ) from error
        self._seen, self._full = meta.seen, set(meta.full)
        self._always = None if meta.always is None else set(meta.always)
        self._changed.clear()

    def _encode_meta(self) -> bytes:
        always = None if self._always is None else sorted(self._always)
        return msgspec.msgpack.encode(_NoveltyMeta(self._seen, always, sorted(self._full)))
