"""The features panel against the rows themselves: what lies in each cell is counted again, value by value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.page.features import FEATURES_SHOWN, cell_names_of, features_told
from operators.drift.frame import INSIDE
from operators.drift.watch import Watch
from operators.drift.watcher import Watcher
from topics.messages import Block

DAY_MS = 86_400_000
REFERENCE, ROWS = 14, 400
WATCH = Watch(reference_span=f"{REFERENCE}d")


def rows_of(number: int, moved: float = 0.0) -> dict[str, list[Any]]:
    """Return a day of features: a number that moves, a text with a rare and a new category, gaps."""
    rng = np.random.default_rng(number)
    numbers: list[Any] = (rng.standard_normal(ROWS) + moved).tolist()
    for row in range(0, ROWS, 10 if not moved else 4):
        numbers[row] = None
    texts = rng.choice(["JFK", "LGA", "EWR"], ROWS, p=[0.6, 0.3, 0.1]).tolist()
    if moved:
        texts[:8] = ["SFO"] * 8
    return {"delay": numbers, "origin": texts}


def block(number: int, columns: dict[str, list[Any]]) -> Block:
    start = number * DAY_MS
    served, hashes = {"champion": ROWS}, list(range(ROWS))
    return Block(
        number, start, start + DAY_MS, ROWS, 0, {}, served, hashes, columns, [0.5] * ROWS, source_partition=0
    )


def watched(days: int, moved_from: int = 10**6) -> Watcher:
    watcher = Watcher(WATCH, "flights", "binary")
    for number in range(days):
        watcher.fold_block(block(number, rows_of(number, 2.0 if number >= moved_from else 0.0)))
    return watcher


def inside(name: str, value: float) -> bool:
    """Return whether a number lies in the cell of this name."""
    match name.split():
        case ["below", bound]:
            return value < float(bound)
        case ["above", bound]:
            return value > float(bound)
        case [low, "to", high]:
            return float(low) <= value < float(high)
    raise AssertionError(name)


def test_before_the_reference_is_complete_it_says_how_far_it_is() -> None:
    told = features_told(watched(REFERENCE - 1))
    assert (told["reference"], told["reference_blocks"], told["features"]) == (REFERENCE - 1, REFERENCE, [])
    assert cell_names_of(watched(3)) == {}


def test_shares_are_those_of_the_rows() -> None:
    watcher = watched(REFERENCE + 1, moved_from=REFERENCE)
    told, names = features_told(watcher), cell_names_of(watcher)
    assert told["end_ms"] == (REFERENCE + 1) * DAY_MS
    now = rows_of(REFERENCE, 2.0)
    before = [rows_of(number) for number in range(REFERENCE)]
    features = {one["name"]: one for one in told["features"]}
    assert features.keys() == {"delay", "origin"}

    delay = features["delay"]
    assert len(names["delay"]) == len(delay["now"]["cells"]) == INSIDE + 2
    for side, days in (("now", [now]), ("usual", before)):
        values = [value for day in days for value in day["delay"]]
        assert math.isclose(delay[side]["missing"], values.count(None) / len(values), abs_tol=1e-4)
        for name, share in zip(names["delay"], delay[side]["cells"], strict=True):
            counted = sum(value is not None and inside(name, value) for value in values) / len(values)
            assert math.isclose(share, counted, abs_tol=3e-3), name  # bounds are told with four digits
    assert sum(delay["now"]["cells"]) + delay["now"]["missing"] > 0.999

    origin = features["origin"]
    assert names["origin"] == ["JFK", "LGA", "EWR", "others"]
    for name, share in zip(names["origin"], origin["now"]["cells"], strict=True):
        assert math.isclose(share, now["origin"].count(name) / ROWS, abs_tol=1e-4)
    assert math.isclose(origin["now"]["odd"], 8 / ROWS, abs_tol=1e-4)


def test_the_most_unusual_is_first_and_its_line_rises_where_it_moved() -> None:
    told = features_told(watched(REFERENCE + 4, moved_from=REFERENCE + 2))
    first = told["features"][0]
    assert first["name"] == "delay"
    assert len(first["shift"]) == 4
    assert min(first["shift"][2:]) > max(first["shift"][:2])


def test_of_many_features_the_most_unusual_are_told_and_the_others_counted() -> None:
    watcher = Watcher(WATCH, "flights", "binary")
    wide = FEATURES_SHOWN + 5
    for number in range(REFERENCE + 1):
        rng = np.random.default_rng(number)
        columns = {f"x{at:02}": rng.standard_normal(ROWS).tolist() for at in range(wide)}
        if number == REFERENCE:
            columns["x17"] = [9.0] * ROWS
        watcher.fold_block(block(number, columns))
    told = features_told(watcher)
    assert len(told["features"]) == FEATURES_SHOWN
    assert told["left_out"] == 5
    assert told["features"][0]["name"] == "x17"
