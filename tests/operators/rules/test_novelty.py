"""What is new is told once, after learning, within limits."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.language.alerts import NoveltyPlan
from operators.rules import novelty as module
from operators.rules.novelty import SAMPLED_EVERY, Novelty
from topics.codec import TEXT_MAX
from topics.errors import CheckpointError
from topics.messages import Event

CATEGORIES = st.sampled_from([None, "a", "b", "c", "d", "x" * TEXT_MAX, "x" * TEXT_MAX + "y"])
KEYS = st.sets(st.sampled_from(["carrier", "time", "gate", "crew", "note"]), max_size=5)


def watched(
    categories: tuple[str, ...] = (), *, schema: bool = True, learning: int = 1_000, categories_max: int = 100
) -> NoveltyPlan:
    return NoveltyPlan(categories, schema, learning, categories_max, {})


class Flight(msgspec.Struct, rename={"at": "time"}):
    carrier: str | None = None
    at: int = 0
    gate: str | None = None


def events_of(rows: list[tuple[str | None, set[str]]]) -> tuple[list[Event], dict[int, bytes | None]]:
    events = [Event(str(n), n, "k", Flight(carrier), n, n) for n, (carrier, _) in enumerate(rows)]
    return events, {n: json.dumps(dict.fromkeys(sorted(keys))).encode() for n, (_, keys) in enumerate(rows)}


def feed(made: Novelty, rows: list[Any], crc: int = 0) -> list[tuple[str, str, str, int]]:
    events, payloads = events_of(rows)
    return [tuple(told) for told in made.step(events, [crc] * len(events), payloads)]


def expected(
    rows: list[tuple[str | None, set[str]]], crcs: list[int], learning: int
) -> list[tuple[str, str, str, int]]:
    """The same, one event after the other, from the definition."""
    known, keys_known, told = {None}, {"carrier", "time", "gate"}, []
    always = set.intersection(*(keys for _, keys in rows[:learning])) if rows else set()
    for place, ((carrier, keys), crc) in enumerate(zip(rows, crcs, strict=True)):
        cut = None if carrier is None else carrier[:TEXT_MAX]
        if cut not in known and place >= learning:
            told.append(("new_category", "carrier", cut or "", place))
        known.add(cut)
        if place >= learning and crc % SAMPLED_EVERY:
            continue
        if place >= learning:
            told += [("new_field", key, "", place) for key in sorted(keys - keys_known)]
            told += [("missing_field", key, "", place) for key in sorted(always - keys)]
            always &= keys
        keys_known |= keys
    return told


@given(
    st.lists(st.tuples(CATEGORIES, KEYS, st.integers(0, 1)), max_size=25),
    st.integers(1, 8),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_each_is_told_once_however_the_events_are_cut(
    rows: list[tuple[str | None, set[str], int]], learning: int, cuts: list[int]
) -> None:
    alerts = watched(("carrier",), learning=learning)
    events, payloads = events_of([row[:2] for row in rows])
    crcs = [row[2] * 7 for row in rows]
    whole, cut = Novelty(alerts, Flight), Novelty(alerts, Flight)
    at_once = [tuple(told) for told in whole.step(events, crcs, payloads)]
    assert at_once == expected([row[:2] for row in rows], crcs, learning)
    pieces, start, turn = [], 0, 0
    while start < len(events):
        size = cuts[turn % len(cuts)]
        for kind, name, value, place in cut.step(
            events[start : start + size], crcs[start : start + size], payloads
        ):
            pieces.append((kind, name, value, place + start))
        start, turn = start + size, turn + 1
    assert pieces == at_once
    assert whole.snapshot() == cut.snapshot()


def test_keys_of_events_that_are_not_sampled_are_not_read() -> None:
    made = Novelty(watched(learning=1), Flight)
    assert feed(made, [("a", {"carrier"}), ("a", {"other"})], crc=1) == []
    assert feed(made, [("a", {"other"})], crc=SAMPLED_EVERY) == [
        ("new_field", "other", "", 0),
        ("missing_field", "carrier", "", 0),
    ]
    assert feed(made, [("a", {"other"})]) == []


def test_a_field_with_too_many_categories_is_told_once_and_watched_no_more() -> None:
    made = Novelty(watched(("carrier",), schema=False, learning=1, categories_max=2), Flight)
    told = feed(made, [(name, set()) for name in "abcde"])
    assert told == [("new_category", "carrier", "b", 1), ("too_many_categories", "carrier", "", 2)]
    assert feed(made, [("f", set())]) == []
    assert len([name for name in made.snapshot() if name.startswith("category/")]) == 2


def test_too_many_keys_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_KNOWN_MAX", 3)
    made = Novelty(watched(learning=1), Flight)
    told = feed(made, [("a", {f"k{n}"}) for n in range(6)])
    assert [(kind, name) for kind, name, *_ in told if kind != "missing_field"] == [
        ("new_field", "k1"),
        ("new_field", "k2"),
        ("too_many_fields", ""),
    ]


def test_a_delta_holds_only_what_came_since() -> None:
    made = Novelty(watched(("carrier",), schema=False, learning=1), Flight)
    feed(made, [("a", set()), ("b", set())])
    assert set(made.delta()) == {"meta", "category/carrier/a", "category/carrier/b"}
    feed(made, [("a", set()), ("c", set())])
    assert set(made.delta()) == {"category/carrier/c"}
    assert made.delta() == {}


def test_a_state_of_other_alerts_is_refused() -> None:
    made = Novelty(watched(("carrier",), learning=1), Flight)
    feed(made, [("a", set())])
    with pytest.raises(CheckpointError):
        Novelty(watched(("gate",)), Flight).restore(made.snapshot())
    with pytest.raises(CheckpointError):
        made.restore({})
