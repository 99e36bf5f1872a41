"""A roster that follows snapshots answers as the leader's learner did, and never goes back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import pytest
from fields import Source
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from river import linear_model, tree
from test_rerun import race, raced, stream

from engine.definition.pipeline import Pipeline
from engine.machines.learner import Learner
from engine.machines.snapshots import HEAD, MODEL, SnapshotError, SnapshotMaker, SnapshotReader
from engine.worker.assembly import build_learner
from operators.models.artefacts import dump
from operators.models.digest import digest
from operators.models.scoring import Reply, Roster, Scoring
from operators.models.signing import SigningKeys
from operators.race.blend import Blend
from operators.race.candidates import Challenge, Every
from operators.race.routing import Canary, Split
from topics import headers
from topics.codec import encode
from topics.messages import Command, FieldChange, Record

KEYS = SigningKeys({"": b"k" * 32})
ROWS = [{"a": a / 3, "b": b / 3} for a in range(-3, 4) for b in range(-3, 4)]

FIELDS: dict[str, dict[str, Any]] = {
    "two models": {},
    "a blend serves": {"champion": None},
    "a canary": {"serving": Canary(steps=(0.2, 1.0), hold=20)},
    "a split": {"serving": Split({"tree": 0.5, "linear": 0.5}, min_examples=100)},
    "challengers": {"challenges": [Challenge(Every(90), of="linear", max=2)]},
}


@cache
def log_of(kind: str) -> tuple[Pipeline, tuple[Record, ...]]:
    """A log with a pause, a promotion during it, a retirement and what the field brings about."""
    pipeline = race(**FIELDS[kind])
    records = list(raced(pipeline, *stream(450)).run.examples or ())
    acts = (
        (90, Command("p", "pause", 7)),
        (120, Command("c", "promote", 7, model_name="linear")),
        (150, Command("r", "resume", 7)),
        (300, Command("b", "rollback", 7)),
    )
    for at, asked in acts:
        records.insert(at, Record("rows.examples", 0, 0, 0, None, encode(asked), headers.COMMAND))
    return pipeline, tuple(replace(record, offset=at) for at, record in enumerate(records))


class Store(dict[str, bytes]):
    """A store of one snapshot."""

    meta = b""

    def save(self, taken: tuple[bytes, dict[str, bytes | None]] | None) -> list[str]:
        """Apply what a maker has taken; return the names of the models that it has written."""
        self.meta, delta = taken or (self.meta, {})
        for name, data in delta.items():
            if data is None:
                del self[name]
            else:
                self[name] = data
        return [name for name, data in delta.items() if data is not None and name != HEAD]


def learner_of(pipeline: Pipeline, fields: Sequence[Any] = ()) -> Learner:
    return build_learner(pipeline, source=Source(fields=[pipeline.field, *fields]))


def reader_of(pipeline: Pipeline, fields: Sequence[Any] = (), key: SigningKeys = KEYS) -> SnapshotReader:
    """The reader of a process that has never seen the log."""
    source = Source(fields=[pipeline.field, *fields])
    return SnapshotReader("rows", key, pipeline.field, source, learner_of(pipeline).roster)


def serve(reader: SnapshotReader, entries: dict[str, bytes]) -> list[str]:
    """Serve what a store holds; return the names of the models that were loaded."""
    opened = reader.opened(entries)
    reader.serve(opened, {name: reader.model(opened, name) for name in opened.changed})
    return list(opened.changed)


def answers(roster: Roster) -> Any:
    """Everything that a scorer asks of a roster."""
    scoring = Scoring("binary", roster)
    served = scoring.serve_all(ROWS)
    shadows = scoring.shadow_all(
        [Reply(x, one.model_name, one.score) for x, one in zip(ROWS, served, strict=True)]
    )
    picks = None if roster.routing is None else [roster.routing.pick(str(n), str(n), n) for n in range(50)]
    return (
        [msgspec.structs.asdict(one) for one in served],
        [one.scores for one in shadows],
        picks,
        roster.prior.score(),
        {name: (one.version, one.updates, one.since, one.twin_of) for name, one in roster.racers.items()},
        (roster.champion, roster.previous, roster.quarantined, roster.threshold, roster.lineup),
    )


def fold(learner: Learner, log: Sequence[Record], until: int) -> None:
    """Hand in what the learner asks for, as a shell does."""
    while learner.reading < until:
        learner.fold(log[learner.reading : until])


@pytest.mark.parametrize("kind", FIELDS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_follower_answers_as_the_learner_did_where_the_snapshot_was_taken(
    kind: str, data: st.DataObject
) -> None:
    """Whenever snapshots are taken and served, old ones come again, and whoever crashes in which order.

    After a crash a leader begins at a checkpoint, behind what it had published, and publishes once it has
    caught up; a follower begins at that checkpoint too, which may be behind or ahead of the last snapshot.
    """
    pipeline, log = log_of(kind)
    leader, maker, store = learner_of(pipeline), SnapshotMaker("rows", KEYS), Store()
    reader, past, said = reader_of(pipeline), list[tuple[Any, dict[str, bytes], Any]](), None
    saved, states = leader.snapshot(), dict[tuple[int, int], Any]()
    for until in data.draw(st.lists(st.integers(1, len(log)), max_size=8, unique=True).map(sorted)):
        acts = data.draw(st.sets(st.sampled_from(["save", "crash", "publish", "restart", "serve"])))
        if "crash" in acts:
            leader = restored(pipeline, saved)
            maker.begin(store)
        fold(leader, log, until)
        states[leader.progress] = answers(leader.roster)
        if "save" in acts:
            saved = leader.snapshot()
        if "publish" in acts:
            store.save(maker.take(leader, until))
            past.append((leader.progress, dict(store), states[leader.progress]))
        if "restart" in acts:
            again = restored(pipeline, saved)
            source = Source(fields=[pipeline.field])
            reader = SnapshotReader("rows", KEYS, pipeline.field, source, again.roster)
            reader.serve_learner(again)
            said = states.get(again.progress)
        if "serve" in acts and store and reader.number_of(store.meta) > reader.number:
            serve(reader, dict(store))
            said = past[-1][2]
        for number, entries, _ in past:
            if number < reader.number:
                with pytest.raises(SnapshotError) as refused:
                    reader.opened(entries)
                assert refused.value.why == "older"
        if said is not None:
            assert answers(reader._roster) == said


def restored(pipeline: Pipeline, saved: dict[str, bytes]) -> Learner:
    learner = learner_of(pipeline)
    learner.restore(saved)
    return learner


@pytest.mark.parametrize("kind", FIELDS)
def test_every_part_of_a_line_up_travels(kind: str) -> None:
    """The histories above are not dull, and a follower needs none of them to serve the last state."""
    pipeline, log = log_of(kind)
    leader, maker, store = learner_of(pipeline), SnapshotMaker("rows", KEYS), Store()
    fold(leader, log, len(log))
    store.save(maker.take(leader, 5))
    reader = reader_of(pipeline)
    serve(reader, store)
    assert answers(reader._roster) == answers(leader.roster)
    assert {name: digest(one.model) for name, one in reader._roster.racers.items()} == leader.digests()
    assert reader.head is not None
    assert (reader.head.examples, reader.head.position) == (leader.examples, leader.position)
    assert {one.name: one.alias for one in reader.head.racers} == leader.arena.states
    assert leader.examples > 300


def test_only_what_has_changed_is_written_and_loaded() -> None:
    pipeline, log = log_of("two models")
    leader, maker, store = learner_of(pipeline), SnapshotMaker("rows", KEYS), Store()
    reader = reader_of(pipeline)
    fold(leader, log, 60)
    assert store.save(maker.take(leader, 0)) == ["model/tree", "model/linear"]
    assert serve(reader, store) == ["tree", "linear"]
    assert maker.take(leader, 1) is None
    claim = replace(log[0], offset=60, value=b"{}", headers=headers.CLAIM)
    leader.fold([claim])  # moves on, changes nothing
    assert store.save(maker.take(leader, 2)) == []
    before = {name: one.model for name, one in reader._roster.racers.items()}
    assert serve(reader, store) == []
    assert {name: one.model for name, one in reader._roster.racers.items()} == before
    assert reader.head is not None
    assert reader.head.time_ms == 2


def test_numbers_grow_through_pauses_and_their_ends() -> None:
    """What a command changes during a pause is published, and the resume takes no number back."""
    pipeline, log = log_of("two models")
    leader, numbers, champions = learner_of(pipeline), [], set()
    while leader.reading < len(log):
        leader.fold([log[leader.reading]])
        numbers.append(leader.progress)
        if leader.paused:
            champions.add(leader.roster.champion)
    assert numbers == sorted(numbers)
    assert len(champions) == 2
    assert len(numbers) > len(log), "nothing was read twice"


def altered(store: Store, name: str, at: int) -> dict[str, bytes]:
    data = bytearray(store[name])
    data[at] ^= 1
    return {**store, name: bytes(data)}


def test_what_was_changed_is_refused_before_it_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, log = log_of("two models")
    leader, maker, store = learner_of(pipeline), SnapshotMaker("rows", KEYS), Store()
    fold(leader, log, 40)
    store.save(maker.take(leader, 0))
    old = dict(store)
    reader = reader_of(pipeline)
    serve(reader, store)
    said = answers(reader._roster)
    fold(leader, log, 80)
    store.save(maker.take(leader, 1))

    def unpickled(*_: object) -> None:
        raise AssertionError("bytes were unpickled")

    foreign, other = Store(), SnapshotMaker("others", KEYS)
    foreign.save(other.take(leader, 1))
    stranger, unknown = Store(), SnapshotMaker("rows", SigningKeys({"": b"u" * 32}))
    stranger.save(unknown.take(leader, 1))
    wrong = {
        "head": altered(store, HEAD, -1),
        "meta": altered(store, HEAD, 40),
        "model": altered(store, MODEL + "tree", -40),
        "an older model": {**store, MODEL + "tree": old[MODEL + "tree"]},
        "no model": {name: data for name, data in store.items() if name != MODEL + "tree"},
        "no head": {name: data for name, data in store.items() if name != HEAD},
        "another pipeline's": dict(foreign),
        "an unknown key's": dict(stranger),
    }
    with monkeypatch.context() as patch:
        patch.setattr("operators.models.artefacts._Unpickler.model", unpickled)
        for what, entries in wrong.items():
            if what in {"model", "an older model", "no model"}:
                continue
            with pytest.raises(SnapshotError) as refused:
                reader.opened(entries)
            assert refused.value.why == "signature", what
    for what in ("model", "an older model", "no model"):
        with pytest.raises(SnapshotError) as refused:
            reader.opened(wrong[what])
        assert refused.value.why == "signature", what
    with pytest.raises(SnapshotError, match="no number"):
        reader.number_of(b'["x"]')
    assert answers(reader._roster) == said
    serve(reader, store)
    assert answers(reader._roster) == answers(leader.roster)
    monkeypatch.setattr("operators.models.artefacts._Unpickler.model", unpickled)
    with pytest.raises(SnapshotError) as refused:
        reader.opened(old)
    assert refused.value.why == "older"


def test_a_model_that_the_field_does_not_name_is_refused() -> None:
    """Signed by our key, its digest in the head, and still not of this field."""
    pipeline, log = log_of("two models")
    leader, maker, store = learner_of(pipeline), SnapshotMaker("rows", KEYS), Store()
    fold(leader, log, 40)
    leader.dumped = lambda _: dump(linear_model.Perceptron(), keys=KEYS, meta={})  # type: ignore[method-assign]
    store.save(maker.take(leader, 0))
    reader = reader_of(pipeline)
    said = answers(reader._roster)
    opened = reader.opened(store)
    with pytest.raises(SnapshotError, match="Perceptron") as refused:
        reader.model(opened, "tree")
    assert refused.value.why == "model"
    assert answers(reader._roster) == said


def test_another_field_is_followed_where_it_can_be_found() -> None:
    """The leader has the new file, a follower the old one: it finds its classes where it is stored."""
    pipeline, log = log_of("two models")
    newer = race(
        models={"tree": pipeline.candidates["tree"], "forest": tree.HoeffdingAdaptiveTreeClassifier(seed=1)}
    )
    leader = learner_of(pipeline, [newer.field])
    fold(leader, log, 60)
    change = FieldChange(pipeline.field.field_id, 0)
    leader.fold([Record("rows.examples", 0, 60, 0, None, encode(change), headers.FIELD)])
    change = FieldChange(newer.field.field_id, 0, pipeline.field.field_id)
    leader.fold([Record("rows.examples", 0, 61, 0, None, encode(change), headers.FIELD)])
    assert set(leader.roster.racers) == {"tree", "forest"}
    store, maker = Store(), SnapshotMaker("rows", KEYS)
    store.save(maker.take(leader, 0))

    lost = reader_of(pipeline)
    with pytest.raises(SnapshotError, match="no field") as refused:
        lost.opened(store)
    assert refused.value.why == "field"
    reader = reader_of(pipeline, [newer.field])
    serve(reader, store)
    assert answers(reader._roster) == answers(leader.roster)


def test_models_that_have_left_leave_the_store_too() -> None:
    """Also those that an earlier leader has published."""
    pipeline, log = log_of("challengers")
    leader, maker, store = learner_of(pipeline), SnapshotMaker("rows", KEYS), Store()
    names: set[str] = set()
    for until in range(50, len(log), 50):
        fold(leader, log, until)
        store.save(maker.take(leader, until))
        names |= set(leader.roster.racers)
        assert store.keys() == {HEAD, *(MODEL + name for name in leader.roster.racers)}
        maker.begin(store)
    assert names > set(leader.roster.racers), "nobody has left"


def test_a_blend_weighs_as_it_did() -> None:
    pipeline = race(models={**race().candidates, "both": Blend()}, champion="both")
    _, log = log_of("two models")
    leader, maker, store = learner_of(pipeline), SnapshotMaker("rows", KEYS), Store()
    fold(leader, log, 100)
    store.save(maker.take(leader, 0))
    reader = reader_of(pipeline)
    serve(reader, store)
    assert answers(reader._roster) == answers(leader.roster)
    draw = random.Random(5)
    row = {"a": draw.random(), "b": draw.random()}
    assert (
        Scoring("binary", reader._roster).serve(row).weights
        == Scoring("binary", leader.roster).serve(row).weights
    )
