"""State of windows carried over to a changed definition: what both keep stays, the rest begins empty.

Lives here: what a plan keeps, said so that two plans can be compared, and a checkpoint's entries put into
the form of another plan.  Never here: whether a definition may change (`engine/definition/text.py`), what
entries mean at work (`features.py`, `join.py`).

    old plan   0 card, events: time amount           1 shop, events: time
                          |                             (gone)
    new plan   1 card, events: time amount country   0 all, labels: time label
                                    (missing in old entries)      (empty)

Strategy: a group is the same if it has the same key, source, condition, shift and way of keeping, with the
same types of fields; its columns, and the cells of its tiles and sums, are matched by name.  What is new
in them is missing in the entries from before, as if the events had lacked it.  So a window that both plans
have goes on with exactly the entries it had, whatever has come or gone beside it.

Predictions that wait for their label know its keys; for a label group whose key is new they know none,
and their labels do not enter it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import msgspec

from operators.fading import measures_of
from operators.features import META, Meta
from operators.join.answered import Entry, Waiting
from operators.kernels import Target
from operators.language.catalogue import fields_read
from operators.language.fields import Aggregate, Expression, windows_of
from operators.language.plan import FeaturePlan, Group
from operators.state import StateDelta, StateEntries, named, under
from operators.summaries import Measure, Summary, layout_of

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

NEW: Final = -1
"""In place of the old position of a column or cell."""


class GroupLayout(msgspec.Struct, frozen=True, array_like=True):
    """What one group keeps, as text; part of a checkpoint."""

    place: str
    """Key, source, condition, shift and way of keeping, with the types of the fields."""
    keys: str
    """The key fields with their types, and what an event must meet for its label to enter: what the key
    that waits for a label is made of."""
    source: str
    store: str
    columns: tuple[str, ...]
    """Names of the values of an entry."""
    cells: tuple[str, ...]
    """Names of what tiles, sessions and half-lives remember."""
    reach_ms: int
    """How far back entries are kept."""


Layout = tuple[GroupLayout, ...]


class Carried(NamedTuple):
    """A scorer's entries in the form of the new plan."""

    entries: dict[str, bytes]
    keys: int
    """Keys of windows that go on."""
    keys_dropped: int


def layout_of_plan(plan: FeaturePlan, types: Mapping[str, str]) -> Layout:
    """Return what `plan` keeps, in the order in which `Features` numbers it; `types` are those of fields."""
    in_order = sorted(plan.groups, key=lambda group: group.source != "events")
    return tuple(_layout(group, types) for group in in_order)


def _layout(group: Group, types: Mapping[str, str]) -> GroupLayout:
    keys = " ".join(f"{name}:{types[name]}" for name in group.keys)
    where = ""
    if group.where is not None:
        where = f"{group.where!r} {[types[name] for name in fields_read(group.where)]}"
    targets = [Target(0, aggregate) for aggregate in group.aggregates]
    calculated = group.calculated
    names = [_column_name(name, calculated.get(name or ""), types) for name in group.columns]
    cells: list[str] = []
    if group.store in ("tiles", "chains"):
        cells = [_cell_name(measure, names) for measure in layout_of(targets, group.columns)]
    elif group.store == "fading":
        cells = [
            f"{half_life}({'' if offset is None else names[offset]})"
            for half_life, offset in measures_of(targets, group.columns)
        ]
    meeting = f" where({where})" if where and group.source == "labels" else ""
    return GroupLayout(
        place=f"{group.source} by({keys}) {group.store} where({where}) {group.shift_ms} {group.unit_ms}",
        keys=keys + meeting,
        source=group.source,
        store=group.store,
        columns=tuple(names),
        cells=tuple(cells),
        reach_ms=group.window_max_ms,
    )


def _column_name(name: str | None, of: Expression | None, types: Mapping[str, str]) -> str:
    """Return a column with its type, or with the types of the fields that it is calculated `of`."""
    if name is None:
        return "label"
    return f"{name}:{types[name] if of is None else [types[read] for read in fields_read(of)]}"


def _cell_name(measure: Measure, names: Sequence[str]) -> str:
    beside = f",{names[measure.by_offset]}" if measure.by_offset >= 0 else ""
    return f"{measure.family}({names[measure.offset]}{beside})"


def features_filling(plan: FeaturePlan, types: Mapping[str, str], old: Layout) -> tuple[str, ...]:
    """Return the features whose windows `old` does not have whole: they fill as events come."""
    kept = {group.place: group for group in old}
    group_of = plan.group_of

    def whole(aggregate: Aggregate) -> bool:
        group = group_of[aggregate]
        columns = tuple(name for name in group.columns if name in _columns_of(aggregate))
        needed = _layout(replace(group, aggregates=(aggregate,), columns=columns), types)
        found = kept.get(needed.place)
        return (
            found is not None
            and set(needed.columns) <= set(found.columns)
            and set(needed.cells) <= set(found.cells)
            and needed.reach_ms <= found.reach_ms
        )

    return tuple(name for name, expression in plan.features if not all(map(whole, windows_of(expression))))


def _columns_of(aggregate: Aggregate) -> set[str | None]:
    beside = {aggregate.by_column} if aggregate.by_column is not None else set()
    return {aggregate.column, *beside} if aggregate.is_valued else set()


def carried_over(entries: StateEntries, old: Layout, new: Layout) -> Carried:
    """Return a scorer's checkpoint entries, written under `old`, as a scorer under `new` restores them."""
    features, keys, dropped = _features(under("features", entries), old, new)
    join = _join(under("join", entries), old, new)
    others = {name: data for name, data in entries.items() if not name.startswith(("features/", "join/"))}
    return Carried({**others, **named({"features": features, "join": join})}, keys, dropped)


def difference(old: StateEntries, new: StateEntries) -> StateDelta:
    """Return the delta that makes `new` of `old`."""
    gone: StateDelta = {name: None for name in old if name not in new}
    return gone | {name: data for name, data in new.items() if old.get(name) != data}


def _features(entries: StateEntries, old: Layout, new: Layout) -> tuple[dict[str, bytes], int, int]:
    """Return the entries of the windows, and how many keys go on and how many do not."""
    numbers = {group.place: number for number, group in enumerate(new)}
    meta = msgspec.msgpack.decode(entries[META], type=Meta)
    evicted = dict(zip((group.place for group in old), meta.evicted, strict=True))
    counts = tuple(evicted.get(group.place, (0, 0)) for group in new)
    found = {META: msgspec.msgpack.encode(Meta(meta.watermark, counts))}
    goes_on = [
        (number, _recoding(before, new[number]))
        if (number := numbers.get(before.place)) is not None
        else None
        for before in old
    ]
    dropped = 0
    for name, data in entries.items():
        before, slash, key = name.partition("/")
        if not slash:
            continue
        if (target := goes_on[int(before)]) is None:
            dropped += 1
        else:
            found[f"{target[0]}/{key}"] = target[1](data)
    return found, len(found) - 1, dropped


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


# -- entries of one key, from the old layout to the new ------------------------------------------------

_pack = msgspec.msgpack.encode
_unpack = msgspec.msgpack.decode


def _recoding(old: GroupLayout, new: GroupLayout) -> Callable[[bytes], bytes]:
    """Return how the state of one key is put into the new form."""
    if (old.columns, old.cells) == (new.columns, new.cells):
        return lambda data: data
    row = _moved(_places(old.columns, new.columns))
    cells = _places(old.cells, new.cells)
    match new.store:
        case "windows" | "slices":
            return _log_recoding(len(old.columns), row)
        case "tiles":
            return _tiles_recoding(row, _summary_recoding(cells, new))
        case "chains":
            return _chain_recoding(row, _summary_recoding(cells, new))
        case _:
            return _fading_recoding(row, cells)


def _places(old: Sequence[str], new: Sequence[str]) -> list[int]:
    return [old.index(name) if name in old else NEW for name in new]


def _moved(places: Sequence[int]) -> Callable[[Sequence[Any]], list[Any]]:
    return lambda row: [None if place == NEW else row[place] for place in places]


def _log_recoding(stride: int, row: Callable[[Sequence[Any]], list[Any]]) -> Callable[[bytes], bytes]:
    def recoded(data: bytes) -> bytes:
        steps, values = _unpack(data)
        rows = (values[entry * stride : (entry + 1) * stride] for entry in range(len(steps)))
        return _pack((steps, [value for one in rows for value in row(one)]))

    return recoded


def _summary_recoding(places: Sequence[int], new: GroupLayout) -> Callable[[list[Any]], list[Any]]:
    """Return how a summary is put into the new form; a new cell is empty."""
    layout = tuple(Measure(name.partition("(")[0], 0) for name in new.cells)

    def recoded(summary: list[Any]) -> list[Any]:
        count, *cells = summary
        empty = Summary(layout).cells
        return [count, *(empty[at] if place == NEW else cells[place] for at, place in enumerate(places))]

    return recoded


def _tiles_recoding(
    row: Callable[[Sequence[Any]], list[Any]], summary: Callable[[list[Any]], list[Any]]
) -> Callable[[bytes], bytes]:
    def recoded(data: bytes) -> bytes:
        newest, tiles, times, rows = _unpack(data, strict=False, type=_TILES)
        return _pack(
            (newest, {tile: summary(held) for tile, held in tiles.items()}, times, list(map(row, rows)))
        )

    return recoded


def _chain_recoding(
    row: Callable[[Sequence[Any]], list[Any]], summary: Callable[[list[Any]], list[Any]]
) -> Callable[[bytes], bytes]:
    def recoded(data: bytes) -> bytes:
        (start, end, held), newest, times, rows = _unpack(data)
        return _pack(([start, end, summary(held)], newest, times, list(map(row, rows))))

    return recoded


def _fading_recoding(
    row: Callable[[Sequence[Any]], list[Any]], places: Sequence[int]
) -> Callable[[bytes], bytes]:
    def moved(sums: list[float]) -> list[float]:
        return [0.0 if place == NEW else sums[place] for place in places]

    def recoded(data: bytes) -> bytes:
        (time, weights, sums), newest, times, rows = _unpack(data)
        return _pack(([time, moved(weights), moved(sums)], newest, times, list(map(row, rows))))

    return recoded


_TILES = tuple[int, dict[int, list[Any]], list[int], list[tuple[Any, ...]]]
