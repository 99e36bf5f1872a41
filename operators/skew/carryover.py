"""State of windows carried over to a changed definition: a group that is unchanged stays, any other begins
empty.

Lives here: what a plan keeps, said so that two plans can be compared, and which of a checkpoint's entries the
other plan restores.  Never here: whether a definition may change (`engine/definition`), what entries mean
(`operators/windows`, `operators/join`).

    old plan   card, events: time amount        shop, events: time
                          |                             (gone)
    new plan   card, events: time amount        card, events: time amount country
                      (goes on)                        (another group: empty)

Strategy: entries of windows stand under the names of their groups (`Group.name`), a digest of all that a
group's state depends on.  Predictions that wait for their label know its keys; for a label group whose key is
new they know none, and their labels do not enter it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from operators.join.answered import Entry, Waiting
from operators.language.catalogue import fields_read
from operators.language.fields import windows_of
from operators.language.plan import FeaturePlan, Group
from operators.state import StateDelta, StateEntries, named, under
from operators.windows.features import unchanged

__all__ = [
    "Carried",
    "GroupLayout",
    "Layout",
    "carried_over",
    "difference",
    "features_filling",
    "keys_change",
    "layout_of_plan",
]


class GroupLayout(msgspec.Struct, frozen=True, array_like=True):
    """What one group keeps, as text; part of a checkpoint."""

    name: str
    """`Group.name`."""
    keys: str
    """The key fields with their types, and what an event must meet for its label to enter: what the key that
    waits for a label is made of."""
    source: str


Layout = tuple[GroupLayout, ...]


class Carried(NamedTuple):
    """A scorer's entries as the new plan restores them."""

    entries: dict[str, bytes]
    keys: int
    """Keys of windows that go on."""
    keys_dropped: int


def layout_of_plan(plan: FeaturePlan, types: Mapping[str, str]) -> Layout:
    """Return what `plan` keeps, group by group; `types` are those of fields."""
    return tuple(_layout(group, types) for group in plan.groups)


def _layout(group: Group, types: Mapping[str, str]) -> GroupLayout:
    keys = " ".join(f"{name}:{types[name]}" for name in group.keys)
    if group.where is not None and group.source == "labels":
        keys += f" where({group.where!r} {[types[name] for name in fields_read(group.where)]})"
    return GroupLayout(group.name, keys, group.source)


def features_filling(plan: FeaturePlan, old: Layout) -> tuple[str, ...]:
    """Return the features with a window that `old` does not keep: they fill as events come."""
    kept = {group.name for group in old}
    group_of = plan.group_of
    return tuple(
        name
        for name, expression in plan.features
        if any(group_of[window].name not in kept for window in windows_of(expression))
    )


def carried_over(entries: StateEntries, old: Layout, new: Layout) -> Carried:
    """Return a scorer's checkpoint entries, written under `old`, as a scorer under `new` restores them."""
    before = under("features", entries)
    features = unchanged(before, [group.name for group in new])
    join = _join(under("join", entries), old, new)
    others = {name: data for name, data in entries.items() if not name.startswith(("features/", "join/"))}
    keys = sum("/" in name for name in features)
    dropped = sum("/" in name for name in before) - keys
    return Carried({**others, **named({"features": features, "join": join})}, keys, dropped)


def difference(old: StateEntries, new: StateEntries) -> StateDelta:
    """Return the delta that makes `new` of `old`."""
    gone: StateDelta = {name: None for name in old if name not in new}
    return gone | {name: data for name, data in new.items() if old.get(name) != data}


def _label_keys(layout: Layout) -> list[str]:
    return [group.keys for group in layout if group.source == "labels"]


def keys_change(old: Layout, new: Layout) -> bool:
    """Return whether answers that wait for labels need other keys."""
    return _label_keys(old) != _label_keys(new)


def _join(entries: StateEntries, old: Layout, new: Layout) -> dict[str, bytes]:
    """Return the entries of the join: waiting predictions with their keys in the new order."""
    if not keys_change(old, new):
        return dict(entries)
    before, after = _label_keys(old), _label_keys(new)
    found = {}
    for name, data in entries.items():
        if name.startswith("w/"):
            entry = _decode_waiting(data)
            if isinstance(entry, Waiting):
                known = dict(zip(before, entry.keys, strict=True))
                known[""] = ""  # `by()` has one key, which is empty
                entry.keys = tuple(known.get(keys) for keys in after)
                found[name] = msgspec.msgpack.encode(entry)
                continue
        found[name] = data
    return found


_decode_waiting = msgspec.msgpack.Decoder(Entry).decode
