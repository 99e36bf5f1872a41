"""Packed keys: what goes in comes out, with its types; the rest is refused."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.language.by import by
from operators.language.plan import compile_features
from operators.windows.aggregates import Target
from operators.windows.log import PACKED_MAX, Logs, PackedLogs
from topics.messages import Event

KEY_BYTES = 120
"""A packed key without its entries: its places in dicts and lists, the head of its bytes."""

times = st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=PACKED_MAX).map(sorted)


@given(times=times)
def test_entries_come_back_as_they_were(times: list[int]) -> None:
    logs = PackedLogs(width=2, entries_max=PACKED_MAX)
    columns = [[float(place) for place in range(len(times))], [*range(len(times))]]
    assert logs.put("a", times, columns)
    found_times, cells = logs.entries("a")
    assert (list(found_times), logs.newest("a")) == (times, times[-1])
    assert repr([list(cells[at::3]) for at in (1, 2)]) == repr(columns)


def test_too_many_are_refused_and_other_types_come_back_as_they_were() -> None:
    logs = PackedLogs(width=1, entries_max=2)
    assert not logs.put("many", [1, 2, 3], [[1, 2, 3]])
    assert logs.put("ints", [1], [[7]])
    others: dict[str, list[object]] = {
        "none": [None],
        "mixed": [1, 2.0],
        "floats": [7.0],
        "bool": [True],
        "text": ["é"],
    }
    for key, values in others.items():
        assert logs.put(key, [*range(1, len(values) + 1)], [values])
    assert list(logs.data) == ["ints"]
    assert repr({key: list(logs.entries(key)[1][1::2]) for key in others}) == repr(others)
    logs.data.clear()
    assert logs.put("other", [1], [[7.0]])
    assert list(logs.data) == ["other"]


def test_a_key_of_numbers_takes_another_row_and_is_still_one_key() -> None:
    logs = PackedLogs(width=1, entries_max=3)
    assert logs.append("a", 1, 0, (2.5,)) == ((1,), (1, 2.5), True)
    assert logs.append("a", 2, 0, (None,)) == ([1, 2], [1, 2.5, 2, None], False)
    assert logs.append("a", 3, 1, (4.5,)) == ([2, 3], [2, None, 3, 4.5], False)
    assert logs.append("a", 2, 1, (None,)) is None
    assert (logs.keys(), logs.newest("a")) == (["a"], 3)
    assert logs.pop("a")
    assert not logs.pop("a")


def test_a_restored_key_stays_as_its_checkpoint_has_it_until_it_is_asked_for() -> None:
    logs = PackedLogs(width=1, entries_max=3)
    values: dict[str, list[object]] = {"first": [4, 4], "met": [5, 6], "text": ["x", None], "gone": [7, 8]}
    for key, column in values.items():
        logs.store(key, msgspec.msgpack.encode(([1, 2], [column])))
    assert list(logs.stored) == ["met", "text", "gone"]  # the first sets the types
    assert [logs.newest(key) for key in values] == [3, 3, 3, 3]
    assert sorted(logs.keys()) == sorted(values)
    assert logs.append("met", 9, 0, (7,)) == ((1, 3, 9), (1, 5, 3, 6, 9, 7), False)
    assert logs.entries("text") == ([1, 3], [1, "x", 3, None])
    assert (list(logs.stored), list(logs.mixed)) == (["gone"], ["text"])
    assert logs.pop("gone")
    assert sorted(logs.keys()) == ["first", "met", "text"]
    assert logs.entries("first") == ((1, 3), (1, 4, 3, 4))


class Payment(msgspec.Struct):
    card: str
    a: float


@pytest.mark.parametrize(("keys", "per_key"), [(1_000, 2), (1_000, 5), (10, 1_000)])
@pytest.mark.parametrize("kinds", [("count",), ("count", "mean", "max"), ("sum", "std")])
def test_memory_is_about_what_check_says(keys: int, per_key: int, kinds: tuple[str, ...]) -> None:
    """Times, values and what is derived from them, as Python allocates; within a factor of two.

    A packed key's fixed cost is shared by few entries, and it has no running sums.
    """
    card = by("card")
    features = {
        kind: card.count("1d") if kind == "count" else getattr(card, kind)("a", "1d") for kind in kinds
    }
    plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=10_000, task="regression")
    (group,) = plan.groups
    targets = [Target(number, aggregate) for number, aggregate in enumerate(group.aggregates)]
    windows = Logs(group.columns, targets, 10_000)
    names = [str(number) for number in range(keys)]
    tracemalloc.start()
    try:
        for number in range(keys * per_key):
            at = 1_700_000_000_000 + number
            row = (number % 997 + 0.37,) * len(group.columns)
            windows.step(names[number % keys], Event("", at, "", None, offset=0, watermark=at), row, {})
            if number % 1_000 == 999:
                windows.changes()
        held = tracemalloc.get_traced_memory()[0] / (keys * per_key)
    finally:
        tracemalloc.stop()
    packed = KEY_BYTES / per_key + 8 * (1 + len(group.columns)) if per_key < 8 else group.entry_bytes
    assert packed / 2 < held < packed * 2
