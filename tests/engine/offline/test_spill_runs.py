"""Runs whose answers wait on disk end as those that have them in memory: over files, and over checkpoints."""

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.machines.scorer import Scorer
from engine.offline.backtest import LocalRun
from engine.settings import Settings
from engine.stores.places import checkpoint_store
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.worker.claim import ScorerCheckpoint
from engine.worker.header import ScorerMeta
from engine.worker.owned_partitions import APART, JOIN, carry_over, difference
from operators import by, field, label
from operators.claims.rule import Suppression, Writer
from operators.join.pending import decode_entry
from operators.state import under
from topics.codec import encode_json
from topics.messages import Record

START_MS = 1_700_000_000_000
EVENTS = 3_000


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


def definition(*, on_timeout: bool | str = "drop") -> Pipeline:
    return Pipeline(
        name="spill",
        events=Topic("spill.events", Payment, key="card"),
        labels=Labels("spill.labels", wait="10m", on_timeout=on_timeout),  # type: ignore[arg-type]
        features={"amount": field("amount"), "share": by("card").mean(label, "1h").default(0.0)},
        models={"lr": linear_model.LogisticRegression()},
    )


def event(number: int) -> Record:
    # Some out of order, some twice.
    time = START_MS + 500 * (number - 40 * (number % 7 == 0))
    row = {"event_id": f"e{number - number % 50 // 49}", "event_time": time, "card": f"c{number % 9}"}
    return Record("spill.events", 0, number, None, b"c", encode_json({**row, "amount": number % 13 / 2}))


def truth(number: int) -> Record:
    """A label five minutes after its event; every third event has none, and some are twelve minutes late."""
    late = 600 if number % 11 else 1_500
    at = number * 3 // 2
    row = {"event_id": f"e{at}", "label_time": START_MS + 500 * (at + late), "label": at % 4 == 0}
    return Record("spill.labels", 0, number, None, b"c", encode_json(row))


def played(pipeline: Pipeline, resident_max: int | None) -> LocalRun:
    run = LocalRun(pipeline, keep_examples=True)
    if resident_max is not None:
        run.scorer.join.entries.resident_max = resident_max
    run.scorer.intake.offer_events(event(number) for number in range(EVENTS))
    run.scorer.intake.offer_labels(truth(number) for number in range(EVENTS * 2 // 3))
    while run.advance() is not None:
        if resident_max is not None:
            assert not run.scorer.join.overfull
    return run


@pytest.mark.parametrize("on_timeout", ["drop", False])
def test_a_run_over_files_that_spills_equals_one_that_does_not(on_timeout: bool | str) -> None:
    pipeline = definition(on_timeout=on_timeout)
    plain, spilling = played(pipeline, None), played(pipeline, 50)
    assert spilling.scorer.join.away > 500
    assert plain.scorer.join.away == 0
    assert spilling.examples == plain.examples
    assert spilling.scorer.counts == plain.scorer.counts
    assert spilling.scorer.snapshot() == plain.scorer.snapshot()
    assert plain.scorer.counts["events", "duplicate"] > 10
    assert plain.scorer.counts["labels", "joined"] > 700


@pytest.mark.parametrize("shared", [False, True], ids=["sqlite", "redis"])
def test_a_restore_leaves_what_waits_on_disk_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, request: pytest.FixtureRequest, shared: bool
) -> None:
    """Half of the run, a checkpoint, another process: what it answers is what one process answers."""
    pipeline = definition()
    roster = LocalRun(pipeline).learner.roster
    url = request.getfixturevalue("redis_url") if shared else None
    settings = Settings(state_dir=tmp_path, store_url=url)
    store = checkpoint_store(settings, pipeline.name, "scorer", 0, apart=APART)

    def scorer(writer: Writer) -> Scorer:
        return Scorer(
            pipeline,
            partition=0,
            roster=roster,
            writer=writer,
            suppression=Suppression(),
            stored=store.stored(JOIN),
        )

    def feed(one: Scorer, numbers: range, labels: range) -> None:
        one.intake.offer_events(map(event, numbers))
        one.intake.offer_labels(map(truth, labels))
        while run := one.intake.next_run(events_unread=False, labels_unread=False):
            list(one.step(run, START_MS))

    async def halves() -> None:
        claim = await store.fence()
        first, whole = scorer(Writer(0, 1)), scorer(Writer(0, 1))
        for one in (first, whole):
            feed(one, range(1_500), range(600))
        await store.save(claim, b"", first.delta())
        first.join.committed()
        loaded = await store.load()
        assert loaded is not None
        assert not [name for name in loaded.entries if name.startswith(APART)]
        second = scorer(first.outbox.writer)
        second.restore(loaded.entries)
        assert second.join.away == second.join.pending - second.join.early > 1_000
        before = second.counts["labels", "joined"]
        feed(second, range(1_500, EVENTS), range(600, 1_900))
        feed(whole, range(1_500, EVENTS), range(600, 1_900))
        assert second.counts["labels", "joined"] - before > 200
        assert second.snapshot() == whole.snapshot()
        # What is saved after it is the same state, whole.
        await store.save(claim, b"", second.delta())
        second.join.committed()
        found = store.stored(JOIN)
        names = found.scan("w/", "w0", 10_000)
        assert found.get(names) == {
            name: data for name, data in under("join", whole.snapshot()).items() if name[0] == "w"
        }
        await store.close()

    asyncio.run(halves())


def test_a_label_window_by_another_key_is_carried_over_to_answers_on_disk(tmp_path: Path) -> None:
    """Their keys are what changes: they are read once, and the next checkpoint has them in the new form."""
    old = definition()
    features = {**old.features, "all": by().mean(label, "1h").default(0.0)}
    new = replace(old, features=features)
    store = SqliteCheckpoints(tmp_path, old.name, "scorer", 0, apart=APART)

    def scorer(pipeline: Pipeline, writer: Writer) -> Scorer:
        roster, stored = LocalRun(pipeline).learner.roster, store.stored(JOIN)
        return Scorer(
            pipeline, partition=0, roster=roster, writer=writer, suppression=Suppression(), stored=stored
        )

    async def upgrade() -> None:
        claim = await store.fence()
        first = scorer(old, Writer(0, 1))
        first.intake.offer_events(map(event, range(300)))
        while run := first.intake.next_run(events_unread=False, labels_unread=False):
            list(first.step(run, START_MS))
        meta = ScorerMeta(old.scorer_definition(), ())
        await store.save(claim, msgspec.json.encode(meta), first.delta())
        found = await store.load()
        assert found is not None
        loaded = ScorerCheckpoint(found)
        second = scorer(new, first.outbox.writer)
        entries = carry_over(loaded.entries, second.features, store.stored(JOIN), (), 0)
        second.restore(entries)
        assert (second.join.away, second.join.pending) == (0, first.join.pending)
        delta = difference(loaded.entries, entries) | second.delta()
        await store.save(claim, b"", delta)
        second.join.committed()
        stored = store.stored(JOIN)
        kept = [decode_entry(data) for data in stored.get(stored.scan("w/", "w0", 1_000)).values()]
        assert len(kept) == first.join.pending > 200
        assert {entry.keys[1:] for entry in kept} == {("",)}
        await store.close()

    asyncio.run(upgrade())
