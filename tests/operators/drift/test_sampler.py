"""The scorer's sample: bottom-k by hash, whatever the order, the batches, the restarts and the partitions."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from operators.drift.sampler import CELLS_MAX, BlockSampler
from operators.drift.watch import Watch
from topics.messages import Block

WATCH = Watch(block=1_000, reference_span=20_000, rows_max=50)
EVERY_ROW = Watch(block=1_000, reference_span=20_000, rows_max=5_000)
Row = tuple[str, int]


def take(sampler: BlockSampler, rows: list[Row]) -> None:
    columns: dict[str, Any] = {
        "event_ids": [event_id for event_id, _ in rows],
        "times": [time for _, time in rows],
        "features": [{"id": event_id, "time": time} for event_id, time in rows],
        "scores": [time / 10_000 for _, time in rows],
        "served_by": ["champion"] * len(rows),
        "keys": ["k"] * len(rows),
    }
    sampler.take(**{name: columns[name] for name in inspect.signature(sampler.take).parameters})


def closed(rows: list[Row], *, watch: Watch = WATCH) -> list[Block]:
    sampler = BlockSampler(watch, features=2)
    take(sampler, rows)
    return sampler.close(10_000)


many = st.lists(st.integers(0, 2_999), min_size=1, max_size=300).map(
    lambda times: [(f"e{number}", time) for number, time in enumerate(times)]
)


@given(many, st.randoms(use_true_random=False), st.integers(1, 60))
def test_order_batches_and_restarts_change_nothing(rows: list[Row], rng: Any, size: int) -> None:
    wanted = closed(rows)
    mixed = list(rows)
    rng.shuffle(mixed)
    sampler = BlockSampler(WATCH, features=2)
    stored: dict[str, bytes] = {}
    for first in range(0, len(mixed), size):
        take(sampler, mixed[first : first + size])
        for name, data in sampler.delta().items():
            if data is None:
                del stored[name]
            else:
                stored[name] = data
        if rng.random() < 0.3:
            assert sampler.snapshot() == stored
            sampler = BlockSampler(WATCH, features=2)
            sampler.restore(stored)
    assert sampler.close(10_000) == wanted


@given(many)
def test_the_sample_is_the_rows_with_the_smallest_hashes_and_counts_are_exact(rows: list[Row]) -> None:
    all_rows = {block.number: block for block in closed(rows, watch=EVERY_ROW)}
    blocks = closed(rows)
    counted = Counter(time // 1_000 for _, time in rows)
    assert {block.number: block.rows for block in blocks} == counted
    for block in blocks:
        everything = all_rows[block.number]
        assert block.hashes == everything.hashes[:50]
        assert block.features["id"] == everything.features["id"][:50]
        assert all(
            time == round(10_000 * score)
            for time, score in zip(block.features["time"], block.scores, strict=True)  # type: ignore[arg-type]
        )


def test_every_row_is_as_likely() -> None:
    rows = [(f"flight-{number}", 0) for number in range(20_000)]
    (block,) = closed(rows)
    places = [int(str(value).removeprefix("flight-")) / len(rows) for value in block.features["id"]]
    assert len(places) == 50
    assert stats.kstest(places, "uniform").pvalue > 0.01


def test_a_block_is_closed_by_the_watermark_and_late_rows_are_counted() -> None:
    sampler = BlockSampler(WATCH, features=2)
    take(sampler, [("a", 100), ("b", 1_200)])
    sampler.refuse("value", 2)
    assert sampler.next_deadline == 1_000
    assert sampler.close(999) == []
    (first,) = sampler.close(1_000)
    assert (first.number, first.rows, first.refused, first.late) == (0, 1, {"value": 2}, 0)
    take(sampler, [("late", 500)])
    (second,) = sampler.close(2_000)
    assert (second.number, second.rows, second.refused, second.late) == (1, 1, {}, 1)
    assert sampler.next_deadline is None


@pytest.mark.parametrize("features", [1, 20, 400, CELLS_MAX * 2])
def test_memory_is_bounded_by_rows_and_by_values(features: int) -> None:
    rows = [(f"e{number}", 0) for number in range(3_000)]
    sampler = BlockSampler(WATCH, features=features)
    take(sampler, rows)
    bound = max(1, min(50, CELLS_MAX // features))
    assert len(sampler.snapshot()) <= bound + 2
    (block,) = sampler.close(10_000)
    assert len(block.hashes) == bound
    assert block.rows == 3_000
