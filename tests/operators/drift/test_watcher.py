"""The watcher: one verdict with its place and cause, whatever the cuts, restarts and partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from operators.drift.baseline import HOLD
from operators.drift.triage import Shift
from operators.drift.watch import Watch, check_watch
from operators.drift.watcher import LAG_BLOCKS, SILENT_BLOCKS, WAITING_MAX, Watcher
from topics.errors import DefinitionError
from topics.messages import Block, Example

DAY = 86_400_000
WATCH = Watch(reference_span="21d")
CHANGE, DAYS, ROWS = 40, 56, 300
Change = Callable[[np.random.Generator, dict[str, Any]], None]
Item = Block | tuple[Example, float]


WITHOUT = Example("", "", 0, 0, False, {}, {}, 0.0, "champion", "m", 0, 0, 0, 1, 0)


def day_of(seed: int, number: int, change: Change | None) -> tuple[Block, list[tuple[Example, float]]]:
    """Return one day of a stream with a weekly season; the model is right about it until something
    changes."""
    rng = np.random.default_rng((seed, number))
    x = rng.standard_normal(ROWS) + 0.4 * (number % 7 >= 5)
    data: dict[str, Any] = {
        "x": x,
        "noise": rng.standard_normal(ROWS),
        "text": rng.choice(["a", "b", "c"], ROWS),
        "labels": rng.random(ROWS) < 1 / (1 + np.exp(-1.5 * x)),
        "refused": 0,
    }
    if change is not None and number >= CHANGE:
        change(rng, data)
    scores = 1 / (1 + np.exp(-1.5 * np.nan_to_num(data["x"])))
    columns = {
        name: [None if value != value else value for value in data[name].tolist()]
        for name in ("x", "noise", "text")
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    start = number * DAY
    block = Block(
        number, start, start + DAY, ROWS, 0, {"value": data["refused"]} if data["refused"] else {},
        {"champion": ROWS}, list(range(ROWS)), columns, scores.tolist(), source_partition=0,
    )  # fmt: skip
    labels = zip(data["labels"].tolist(), scores.tolist(), rows, strict=True)
    examples = [
        (
            replace(
                WITHOUT,
                event_id=f"{number}-{row}",
                event_time=start,
                label_time=start + 1,
                label=label,
                features=features,
                served_score=score,
            ),
            (float(label) - score) ** 2,
        )
        for row, (label, score, features) in enumerate(labels)
    ]
    return block, examples


def items(change: Change | None, *, seed: int = 1, days: int = DAYS) -> Iterator[Item]:
    for number in range(days):
        block, examples = day_of(seed, number, change)
        yield from examples
        yield block


def play(watcher: Watcher, stream: Iterator[Item] | Sequence[Item]) -> list[Shift]:
    said: list[Shift] = []
    for item in stream:
        if isinstance(item, Block):
            said += watcher.fold_block(item)
        else:
            watcher.observe([item[0]], [item[1]])
    return said


def watcher() -> Watcher:
    return Watcher(WATCH, "p", "binary")


def moved(rng: np.random.Generator, data: dict[str, Any]) -> None:
    """P(x) moves, labels follow as ever."""
    data["x"] = data["x"] + 1.0
    data["labels"] = rng.random(ROWS) < 1 / (1 + np.exp(-1.5 * data["x"]))


def more_positives(rng: np.random.Generator, data: dict[str, Any]) -> None:
    weights = np.where(data["labels"], 4.0, 1.0)
    rows = rng.choice(ROWS, ROWS, p=weights / weights.sum())
    for name in ("x", "noise", "text", "labels"):
        data[name] = data[name][rows]


def turned(rng: np.random.Generator, data: dict[str, Any]) -> None:
    data["labels"] = np.where(rng.random(ROWS) < 0.3, ~data["labels"], data["labels"])


def lost(rng: np.random.Generator, data: dict[str, Any]) -> None:
    data["noise"] = np.where(rng.random(ROWS) < 0.4, np.nan, data["noise"])


def respelled(_: np.random.Generator, data: dict[str, Any]) -> None:
    data["text"] = np.char.upper(data["text"])


def refused(_: np.random.Generator, data: dict[str, Any]) -> None:
    data["refused"] = 30


CASES: dict[str, tuple[Change, str, str]] = {
    "moved": (moved, "covariate_shift", "x"),
    "more positives": (more_positives, "label_shift", ""),
    "turned": (turned, "concept_drift", ""),
    "lost": (lost, "pipeline_fault", "noise"),
    "respelled": (respelled, "pipeline_fault", "text"),
    "refused": (refused, "pipeline_fault", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_planted_is_found_named_and_placed(name: str) -> None:
    change, verdict, feature = CASES[name]
    said = play(watcher(), items(change))
    assert said, name
    assert said[0].change == "found"
    assert len({one.shift_id for one in said}) == 1, "one verdict, not forty alarms"
    last = said[-1]
    assert last.verdict == verdict
    assert abs(last.since_ms // DAY - CHANGE) <= 1
    assert said[0].decided_ms // DAY - CHANGE <= 7
    assert not feature or last.features[0] == feature
    assert last.act
    assert len(said) <= 4


def test_the_loss_is_estimated_before_labels_and_told_after() -> None:
    said = play(watcher(), items(moved))
    true = np.mean([loss for n in range(CHANGE, DAYS) for _, loss in day_of(1, n, moved)[1]])
    before = np.mean([loss for n in range(10, 28) for _, loss in day_of(1, n, None)[1]])
    last = said[-1]
    assert last.reference_loss == pytest.approx(before, abs=0.01)
    assert last.estimated_loss == pytest.approx(true, abs=0.015)
    assert last.true_loss == pytest.approx(true, abs=0.015)
    turned_last = play(watcher(), items(turned))[-1]
    assert turned_last.estimated_loss is not None
    assert turned_last.true_loss is not None
    assert turned_last.true_loss > turned_last.estimated_loss + 0.03, "the truth is what labels say"


def test_a_shift_that_passes_ends_and_one_that_stays_becomes_usual() -> None:
    def passing(rng: np.random.Generator, data: dict[str, Any]) -> None:
        moved(rng, data)

    stream = [item for n in range(70) for item in whole(day_of(1, n, passing if n < 46 else None))]
    said = play(watcher(), stream)
    assert said[-1].change == "ended"
    assert said[-1].until_ms is not None
    assert abs(said[-1].until_ms // DAY - 46) <= 2
    stays = play(watcher(), items(moved, days=90))
    assert stays[-1].change == "ended"
    assert stays[-1].evidence["adopted"] == 1.0
    assert len({one.shift_id for one in stays}) == 1


def test_a_verdict_that_nobody_follows_any_more_is_given_up() -> None:
    one = watcher()
    assert one.give_up() == []
    found = play(one, items(moved, days=CHANGE + 3))[-1]
    (ended,) = one.give_up()
    assert (ended.shift_id, ended.change, ended.until_ms) == (found.shift_id, "ended", (CHANGE + 3) * DAY)
    assert one.open is None


def test_an_answer_that_is_wrong_on_one_side_of_a_feature_is_found_there() -> None:
    """The mean loss and the class shares stay: only where the answer is wrong is another place."""

    def sides(rng: np.random.Generator, data: dict[str, Any]) -> None:
        chance = 1 / (1 + np.exp(-1.5 * data["x"])) + 0.25 * np.sign(data["noise"])
        data["labels"] = rng.random(ROWS) < chance

    said = play(watcher(), items(sides))
    assert said[-1].verdict == "concept_drift"
    assert max(said[0].evidence, key=lambda name: said[0].evidence[name] * name.startswith("won:")) == (
        "won:residual:noise up"
    )


def test_a_frame_of_classes_without_scores_has_numbers_all_the_same() -> None:
    one = Watcher(WATCH, "p", "multiclass")
    for number in range(DAYS):
        block, examples = day_of(1, number, moved)
        one.observe([replace(example, label="a", served_score=None) for example, _ in examples], [0.5] * ROWS)
        for shift in one.fold_block(replace(block, scores=[None] * ROWS)):
            assert all(np.isfinite(value) for value in shift.evidence.values())
    assert one.open is not None
    assert all(np.isfinite(value) for value in one.evidence().values())


def whole(day: tuple[Block, list[tuple[Example, float]]]) -> list[Item]:
    return [*day[1], day[0]]


@pytest.mark.parametrize("name", ["turned", "lost"])
def test_restarts_and_batches_change_nothing(name: str) -> None:
    stream = list(items(CASES[name][0]))
    wanted = play(watcher(), stream)
    rng = np.random.default_rng(3)
    stored: dict[str, bytes] = {}
    one, said = watcher(), []
    for first in range(0, len(stream), 700):
        part = stream[first : first + 700]
        said += play_in_batches(one, part)
        for entry, data in one.delta().items():
            if data is None:
                stored.pop(entry)
            else:
                stored[entry] = data
        assert one.snapshot() == stored
        if rng.random() < 0.5:
            one = watcher()
            one.restore(stored)
    assert said == wanted


def play_in_batches(one: Watcher, stream: Sequence[Item]) -> list[Shift]:
    said: list[Shift] = []
    batch: list[tuple[Example, float]] = []
    for item in stream:
        if isinstance(item, Block):
            one.observe([example for example, _ in batch], [loss for _, loss in batch])
            batch = []
            said += one.fold_block(item)
        else:
            batch.append(item)
    one.observe([example for example, _ in batch], [loss for _, loss in batch])
    return said


def test_partitions_are_one_stream_and_an_idle_one_holds_nobody_back() -> None:
    def halves(block: Block) -> tuple[Block, Block]:
        made = [
            replace(
                block,
                rows=ROWS // 2,
                hashes=block.hashes[part::2],
                features={name: column[part::2] for name, column in block.features.items()},
                scores=block.scores[part::2],
                source_partition=part,
            )
            for part in (0, 1)
        ]
        return made[0], made[1]

    blocks = [day_of(1, number, moved)[0] for number in range(1, DAYS)]
    wanted = [shift for one in [watcher()] for block in blocks for shift in one.fold_block(block)]
    one = watcher()
    for partition in (0, 1):  # from its first block on a partition is waited for
        few = replace(blocks[0], number=0, start_ms=0, end_ms=DAY, hashes=[], features={}, scores=[])
        one.fold_block(replace(few, source_partition=partition))
    said = [shift for block in blocks for part in halves(block) for shift in one.fold_block(part)]
    assert said == wanted
    assert one.fold_block(halves(blocks[-1])[0]) == []
    assert one.counts["shift_blocks", "repeated"] == 1
    idle = watcher()
    late = [shift for block in blocks for shift in idle.fold_block(block)]
    assert late == wanted
    silent = watcher()
    silent.fold_block(halves(blocks[0])[1])
    for block in blocks:
        silent.fold_block(block)
    assert len([name for name in silent.snapshot() if name.startswith("waiting/")]) <= LAG_BLOCKS


def split(block: Block, parts: int) -> list[Block]:
    """Return a block as the blocks of so many partitions."""
    return [
        replace(
            block,
            rows=ROWS // parts,
            hashes=block.hashes[part::parts],
            features={name: column[part::parts] for name, column in block.features.items()},
            scores=block.scores[part::parts],
            source_partition=part,
        )
        for part in range(parts)
    ]


def test_a_partition_that_stops_is_a_fault_named_at_once_and_a_fitful_one_is_none() -> None:
    def said(sends: Callable[[int, int], bool]) -> list[Shift]:
        one = watcher()
        return [
            shift
            for number in range(DAYS)
            for part, block in enumerate(split(day_of(1, number, None)[0], 3))
            if sends(number, part)
            for shift in one.fold_block(block)
        ]

    found = said(lambda number, part: part != 2 or number < CHANGE)
    assert found[0].change == "found"
    assert found[0].verdict == "pipeline_fault"
    assert abs(found[0].since_ms // DAY - CHANGE) <= SILENT_BLOCKS
    assert found[0].evidence["silent:2"] == SILENT_BLOCKS
    assert found[0].evidence["won:refused"] > 0.0
    assert said(lambda _, __: True) == []
    assert said(lambda number, part: part != 2 or (number < CHANGE and number % 9 > 1)) == []


def test_a_verdict_tells_quantiles_and_what_is_usual() -> None:
    (found,) = play(watcher(), items(moved))
    weekend = np.array(day_of(1, CHANGE, moved)[0].features["x"], dtype=float)
    before = np.concatenate([np.array(day_of(1, n, None)[0].features["x"], dtype=float) for n in range(21)])
    for at in (25, 50):
        assert found.evidence[f"q{at}:x"] == pytest.approx(np.percentile(weekend, at), abs=0.1)
    for at in (25, 50, 75):
        assert found.evidence[f"q{at}_usual:x"] == pytest.approx(np.percentile(before, at), abs=0.1)


def test_a_regression_tells_the_range_of_its_labels() -> None:
    one, said = Watcher(WATCH, "p", "regression"), []
    for number in range(DAYS):
        block, examples = day_of(1, number, moved)
        larger = 10.0 if number >= CHANGE else 1.0
        numbers = [
            replace(example, label=larger * (row % 7), served_score=1.0)
            for row, (example, _) in enumerate(examples)
        ]
        one.observe(numbers, [0.1] * ROWS)
        said += one.fold_block(block)
    figures = said[-1].evidence
    assert (figures["label_min_usual"], figures["label_max_usual"]) == (0.0, 6.0)
    assert (figures["label_min"], figures["label_max"]) == (0.0, 60.0)


def test_foreign_blocks_are_left_out_and_memory_is_bounded() -> None:
    one = watcher()
    block = day_of(1, 0, None)[0]
    one.fold_block(replace(block, end_ms=block.end_ms + 1))
    assert one.counts["shift_blocks", "foreign"] == 1
    play(one, items(None, days=150))
    entries = one.snapshot()
    assert sum(name.startswith("means/") for name in entries) <= 1 + WATCH.reference_blocks + HOLD
    assert sum(name.startswith("labels/baseline/") for name in entries) <= 1 + WATCH.reference_blocks + HOLD
    assert sum(name.startswith("labels/events/") for name in entries) <= 120
    assert sum(name.startswith("waiting/") for name in entries) <= WAITING_MAX
    assert sum(map(len, entries.values())) < 400_000


@pytest.mark.parametrize("reference", ["training", "sliding", "hour_of_week"])
def test_each_reference_finds_a_plain_shift(reference: Any) -> None:
    one = Watcher(Watch(reference=reference), "p", "binary")
    said = play(one, items(moved))
    assert said[0].verdict in {"covariate_shift", "label_shift"}
    assert abs(said[0].since_ms // DAY - CHANGE) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"reference": "yesterday"},
        {"block": "0s"},
        {"reference_span": "3d"},
        {"reference": "hour_of_week", "block": "5h"},
        {"false_alarm_every": "1h"},
        {"rows_max": 3},
    ],
)
def test_slips_are_refused_with_what_to_do(wrong: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError) as refusal:
        Watch(**wrong)
    assert refusal.value.hint


def test_a_block_must_be_long_enough_for_late_events() -> None:
    check_watch(WATCH, grace_ms=60_000)
    with pytest.raises(DefinitionError):
        check_watch(WATCH, grace_ms=63 * DAY)
