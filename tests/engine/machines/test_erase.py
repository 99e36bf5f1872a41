"""A tombstone among the events: what a key had is gone, the rest is as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from river import linear_model, tree

from engine import Labels, Pipeline, Topic
from engine.lineage.erasing import WithoutKey
from engine.machines.scorer import Scorer
from engine.offline.backtest import LocalRun
from engine.settings import Settings
from engine.stores.places import checkpoint_store
from engine.worker.assembly import build_learner
from engine.worker.owned_partitions import APART, JOIN
from operators import by, field, label, tiled
from operators.claims.rule import Suppression, Writer
from operators.join.pending import SPILLED
from operators.state import under
from topics import headers
from topics.codec import encode, encode_json
from topics.erasure import Erase, tombstone
from topics.messages import Claim, Example, Record

START_MS = 1_700_000_000_000
PERSON = "person-4711"
CARDS = ("a", PERSON, "c")
EVENTS = 90
ERASED_AT = 60
SIGNING = {"ada": b"sixteen bytes or more"}


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    shop: str
    amount: float


def pipeline(*, inside: bool = False) -> Pipeline:
    events = Topic("erase.payments", Payment if not inside else Labelled, key="card")
    return Pipeline(
        name="erase",
        events=events,
        labels=Labels(field="label", wait="1d") if inside else Labels("erase.frauds", wait="1d"),
        features={
            "amount": field("amount"),
            "n": by("card").count("1h"),
            "at_shop": by("card", "shop").sum("amount", "1h"),
            "tiles": by("shop", "card").sum("amount", tiled("30d", "1d")),
            "share": by("card").mean(label, "1h").default(0.0),
            "shop_n": by("shop").count("1h"),
        },
        models={"lr": linear_model.LogisticRegression()},
    )


class Labelled(Payment):
    label: bool = False


def event(number: int) -> Record:
    card = CARDS[number % 3]
    row = {"event_id": f"{card}/{number}", "event_time": START_MS + number * 1_000, "card": card}
    value = encode_json({**row, "shop": f"shop{number % 2}", "amount": float(number)})
    return Record("erase.payments", 0, number, None, card.encode(), value)


def truth(number: int) -> Record:
    card = CARDS[number % 3]
    row = {"event_id": f"{card}/{number}", "label_time": START_MS + number * 1_000 + 500, "label": True}
    return Record("erase.frauds", 0, number, None, card.encode(), encode_json(row))


def erasing(*, key: str = PERSON, signed: bool = False, record_key: str | None = None) -> Record:
    asked = Erase("request-1", key, START_MS, "asked to", "ada" if signed else "kim")
    signing_key = SIGNING["ada"] if signed else None
    name, said = tombstone(asked, signing_key, topic="erase.payments")
    return Record("erase.payments", 0, ERASED_AT, START_MS, (record_key or key).encode() or name, None, said)


def fed(run: LocalRun, events: Iterator[Record] | list[Record], labels: list[Record]) -> None:
    if labels:
        run.scorer.intake.offer_labels(labels)
    run.scorer.intake.offer_events(events)
    while run.advance() is not None:
        pass


def stream(*, without: bool = False) -> list[Record]:
    """All events with the tombstone at its place; or those of the person before it never were."""
    records = [event(number) for number in range(EVENTS)]
    if without:
        return [one for one in records if one.offset >= ERASED_AT or one.key != PERSON.encode()]
    return [*records[:ERASED_AT], erasing(), *records[ERASED_AT + 1 :]]


def about(state: dict[str, bytes], text: str) -> dict[str, bytes]:
    """Return the entries that hold a text, in their names or values."""
    return {name: data for name, data in state.items() if text in name or text.encode() in data}


@pytest.mark.parametrize("inside", [False, True])
def test_what_is_left_of_a_key_is_what_came_after(inside: bool) -> None:
    labels = [] if inside else [truth(number) for number in range(0, EVENTS - 10, 2)]
    run, never = LocalRun(pipeline(inside=inside)), LocalRun(pipeline(inside=inside))
    fed(run, stream(), labels)
    early = [] if inside else [one for one in labels if one.key != PERSON.encode() or one.offset > ERASED_AT]
    fed(never, stream(without=True), early)
    state, other = run.scorer.snapshot(), never.scorer.snapshot()
    mine = about(state, PERSON)
    assert mine
    # Who answered had learned of the person: waiting answers are the same events, with other scores.  A label
    # of before meets nothing, and waits for its event as any early one does.
    theirs = about(other, PERSON)
    assert under("features", mine) == under("features", theirs)
    assert under("features", theirs) or inside
    for kind in ("join/w/", "join/i/"):
        assert {name for name in mine if name.startswith(kind)} == {
            name for name in theirs if name.startswith(kind)
        }
    assert run.scorer.counts["erasures", "done"] == 1


def test_a_key_that_says_nothing_more_is_gone_and_the_decision_does_not_name_it() -> None:
    run = LocalRun(pipeline())
    fed(run, [event(number) for number in range(ERASED_AT)], [truth(number) for number in range(0, 50, 2)])
    before = run.scorer.snapshot()
    assert about(before, PERSON)
    run.scorer.intake.offer_events([erasing()])
    (read,) = [run.scorer.intake.next_run(events_unread=False, labels_unread=False)]
    assert read is not None
    written = [one for part in run.scorer.step(read, START_MS) for one in part]
    assert not about(run.scorer.snapshot(), PERSON)
    assert run.scorer.erased == [PERSON]
    (decision,) = [one for one in written if one.target == "decisions"]
    assert PERSON.encode() not in (decision.value or b"")
    told = msgspec.json.decode(decision.value or b"")
    assert told["decision_id"] == f"erase:erase:0:{ERASED_AT}"
    assert (told["type"], told["actor"], told["reason"]) == ("key.erased", "kim", "asked to")
    # card; card and shop twice; shop and card twice; and the label's window of card
    assert told["evidence"] == {
        "command_id": "request-1",
        "partition": 0,
        "event_offset": ERASED_AT,
        "windows": 6,
        "answers": 20,
    }
    others = {name: data for name, data in before.items() if name in run.scorer.snapshot()}
    changed = {name for name, data in run.scorer.snapshot().items() if others[name] != data}
    assert changed <= {"position", "features/meta"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (erasing(), "it is not signed"),
        (erasing(signed=True, record_key="c"), "under another key"),
        (Record("erase.payments", 0, 9, 0, b"a", None, ((headers.ERASE, b'{"key":"\xff"}'),)), "utf-8"),
        (Record("erase.payments", 0, 9, 0, b"a", None, ((headers.ERASE, b"[" * 16_000),)), ""),
        (Record("erase.payments", 0, 9, 0, b"a", None, ((headers.ERASE, b"[" * 17_000),)), "17000 bytes"),
        (Record("erase.payments", 0, 9, 0, b"a", None, ((headers.ERASE, None),)), ""),
        (
            Record("other.payments", 0, 9, 0, PERSON.encode(), None, erasing(signed=True).headers),
            "not signed with the key of `ada`",
        ),
    ],
)
def test_what_may_not_erase_is_a_dead_letter(record: Record, reason: str) -> None:
    run = LocalRun(pipeline())
    run.scorer.command_keys = SIGNING
    fed(run, [event(number) for number in range(9)], [])
    before = about(run.scorer.snapshot(), PERSON)
    run.scorer.intake.offer_events([record])
    read = run.scorer.intake.next_run(events_unread=False, labels_unread=False)
    assert read is not None
    (letter,) = [one for part in run.scorer.step(read, START_MS) for one in part]
    assert (letter.target, headers.refusal_of(letter.headers).stage) == ("dead-letters", "erase")
    assert reason in headers.refusal_of(letter.headers).message
    assert about(run.scorer.snapshot(), PERSON) == before
    run.scorer.intake.offer_events([erasing(signed=True)])
    read = run.scorer.intake.next_run(events_unread=False, labels_unread=False)
    assert read is not None
    list(run.scorer.step(read, START_MS))
    assert not about(run.scorer.snapshot(), PERSON)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("away", [False, True], ids=["in memory", "stored only"])
def test_no_byte_of_it_stays_in_a_store(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, away: bool
) -> None:
    """Two checkpoints after the one behind the erasure, in every file and every key of the store."""
    url = request.getfixturevalue("redis_url") if kind == "redis" else None
    defined = pipeline()
    settings = Settings(state_dir=tmp_path, store_url=url)
    store = checkpoint_store(settings, defined.name, "scorer", 0, apart=APART)

    def bytes_of_it() -> int:
        if url is None:
            return sum(path.read_bytes().count(PERSON.encode()) for path in tmp_path.rglob("*.sqlite*"))
        with redis.Redis.from_url(url) as client:
            found = [client.hgetall(key) for key in client.keys(f"headrace:{{{defined.name}/*")]
        return sum(PERSON.encode() in name + value for one in found for name, value in one.items())

    async def scene() -> None:
        claim = await store.fence()
        scorer = Scorer(
            defined,
            partition=0,
            roster=build_learner(defined).roster,
            writer=Writer(0, 1),
            suppression=Suppression(),
            stored=store.stored(JOIN),
        )
        if await store.load() is not None:  # of an earlier test
            raise AssertionError("the store is not empty")
        if away:
            scorer.join.entries.resident_max = 4

        async def feed(records: list[Record]) -> None:
            scorer.intake.offer_events(records)
            while read := scorer.intake.next_run(events_unread=False, labels_unread=False):
                list(scorer.step(read, START_MS))
            await store.save(claim, b"", scorer.delta())
            scorer.join.committed()

        for first in range(0, ERASED_AT, 20):
            await feed([event(number) for number in range(first, first + 20)])
        assert bool(scorer.join.away) == away
        assert bytes_of_it()
        await feed([erasing()])
        for number in (0, 2):  # others go on
            await feed([event(EVENTS + 3 + number)])
        assert not about(scorer.snapshot(), PERSON)
        assert scorer.join.pending == 2 * ERASED_AT // 3 + 2
        again = await store.load()
        assert again is not None
        assert not [name for name in under("join", again.entries) if name.startswith(SPILLED)]
        assert bytes_of_it() == 0
        await store.close()
        assert bytes_of_it() == 0

    asyncio.run(scene())
    if url is not None:
        with redis.Redis.from_url(url) as client:
            client.delete(*client.keys(f"headrace:{{{defined.name}/*"))


# -- models without it -----------------------------------------------------------------------------------


def numbered(rows: list[tuple[str, int, int]]) -> list[Record]:
    """Return an examples log: key, claim and number of each record; the key `claim` begins a claim."""
    records = []
    for offset, (key, claim, sequence) in enumerate(rows):
        if key == "claim":
            value, kind = encode(Claim(0, claim, "n")), headers.CLAIM
        else:
            made: Any = Example(
                f"e{offset}", key, offset, offset + 1, offset % 2 == 0, {"x": float(offset)}, {"t": 0.5},
                0.5, "champion", "t", 0, offset, offset, claim, sequence,
            )  # fmt: skip
            value, kind = encode(made), headers.EXAMPLE
        records.append(Record("erase.examples", 0, offset, None, b"k", value, kind))
    return records


class Log:
    def __init__(self, records: list[Record]) -> None:
        self.records = records

    async def read(self, start: int | None = None) -> AsyncGenerator[list[Record]]:
        yield [one for one in self.records if start is None or one.offset >= start]


def test_the_log_without_a_key_is_folded_as_one_that_never_had_it() -> None:
    """With repeats, a gap, after which nothing counts, and an older owner's records behind a newer claim."""
    rows = [
        ("claim", 1, 0), ("a", 1, 0), (PERSON, 1, 1), ("b", 1, 2), (PERSON, 1, 1), ("b", 1, 2), ("c", 1, 3),
        ("claim", 2, 0), (PERSON, 2, 0), ("a", 2, 1), ("d", 1, 4), (PERSON, 2, 2), ("b", 2, 3), ("c", 2, 5),
        (PERSON, 2, 4), ("a", 2, 6),
    ]  # fmt: skip
    never = [
        ("claim", 1, 0), ("a", 1, 0), None, ("b", 1, 1), None, ("b", 1, 1), ("c", 1, 2),
        ("claim", 2, 0), None, ("a", 2, 0), ("d", 1, 3), None, ("b", 2, 1), ("c", 2, 3), None, ("a", 2, 3),
    ]  # fmt: skip
    expected = [
        record
        for record, row in zip(numbered([row or ("claim", 9, 0) for row in never]), never, strict=True)
        if row is not None
    ]
    without = WithoutKey(Log(numbered(rows)), PERSON)

    async def read(start: int | None) -> list[Record]:
        return [record async for records in without.read(start) for record in records]

    assert asyncio.run(read(None)) == expected
    assert without.left_out == 5
    assert asyncio.run(read(9)) == [record for record in expected if record.offset >= 9]
    learners = [
        build_learner(
            Pipeline(
                name="erase",
                events=Topic("erase.payments", Payment, key="card"),
                labels=Labels("erase.frauds", wait="1d"),
                features={"x": field("amount")},
                models={"t": tree.HoeffdingTreeClassifier()},
            )
        )
        for _ in range(2)
    ]
    learners[0].fold(expected)
    learners[1].fold(asyncio.run(read(None)))
    assert learners[0].digests() == learners[1].digests()
    assert learners[0].examples == 5
