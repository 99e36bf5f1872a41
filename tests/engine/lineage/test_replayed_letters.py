"""Letters in logs of memory, a scorer behind them: what is sent again, what is not, what becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import msgspec
import pytest
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.lineage import letters
from engine.lineage.letters import Chosen, LetterReplay, groups, letter_at
from engine.offline.backtest import LocalRun
from engine.settings import KafkaSettings
from operators import field
from topics.errors import SettingsError
from topics.headers import dead_letter
from topics.letters import REPLAYS_MAX
from topics.messages import Content, Outgoing, Record

START = 1_700_000_000_000
EVENTS, LETTERS = "p.events", "p.dead-letters"


class Strict(msgspec.Struct):
    event_id: str
    event_time: int
    key: str
    value: float
    hot: bool


class Mended(msgspec.Struct):
    event_id: str
    event_time: int
    key: str
    value: float | str
    hot: bool


def pipeline(event: type[msgspec.Struct]) -> Pipeline:
    return Pipeline(
        name="p",
        events=Topic(EVENTS, event, key="key"),
        labels=Labels(field="hot"),
        features={"hour": field("event_time").hour()},
        models={"linear": linear_model.LogisticRegression()},
    )


class World:
    """The two logs, and the machine that reads one and writes the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logs: dict[str, list[Record]] = {EVENTS: [], LETTERS: []}
        self.read = 0
        self.answers: Counter[tuple[str, str]] = Counter()
        self.mend(Strict)
        monkeypatch.setattr(letters, "log_bounds", self.bounds)
        monkeypatch.setattr(letters, "read_log", self.read_log)
        monkeypatch.setattr(letters, "open_sink", self.open_sink)

    def mend(self, event: type[msgspec.Struct]) -> None:
        self.pipeline = pipeline(event)
        self.run = LocalRun(self.pipeline)
        self.read = 0
        self.answers.clear()

    def write(self, topic: str, one: Outgoing | Content) -> None:
        log = self.logs[topic]
        log.append(Record(topic, 0, len(log), one.timestamp_ms or START, one.key, one.value, one.headers))

    def send(self, *values: Any) -> None:
        for value in values:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.write(EVENTS, Content(b"k", data, (("app", b"shop"),), START + 5))

    def work(self) -> None:
        """Answer, learn or refuse what has come."""
        intake = self.run.scorer.intake
        intake.offer_events(self.logs[EVENTS][self.read :])
        self.read = len(self.logs[EVENTS])
        while (taken := intake.next_run(events_unread=False, labels_unread=False)) is not None:
            for one in chain.from_iterable(self.run.scorer.step(taken, START)):
                if one.target == "dead-letters":
                    self.write(LETTERS, one)
                elif one.target == "predictions" and one.value:
                    answer = json.loads(one.value)
                    self.answers[answer["event_id"], answer["served_by"]] += 1
        self.answers["", "again"] = self.run.scorer.counts["predictions", "again"]

    # -- what stands in for Kafka

    async def bounds(self, _: KafkaSettings, topic: str) -> dict[int, tuple[int, int]]:
        return {0: (0, len(self.logs[topic]))}

    async def read_log(
        self, _: KafkaSettings, topic: str, __: int, start: int, until: int
    ) -> AsyncGenerator[list[Record]]:
        for record in self.logs[topic][start:until]:
            yield [record]

    @asynccontextmanager
    async def open_sink(self, _: KafkaSettings) -> AsyncGenerator[World]:
        sent: list[tuple[str, Content]] = []

        class Sink:
            async def send(self, topic: str, partition: int | None, records: Sequence[Content]) -> None:
                assert partition == 0
                sent.extend((topic, record) for record in records)

            async def flush(self) -> None:
                for topic, record in sent:
                    write(topic, record)
                sent.clear()

        write = self.write
        yield Sink()  # type: ignore[misc]
        assert not sent, "all is acknowledged"

    def replay(self, *, records_max: int = 100, **chosen: Any) -> LetterReplay:
        replay = LetterReplay(self.pipeline, KafkaSettings(), Chosen(**chosen), records_max=records_max)
        asyncio.run(replay.send(rate=100_000))
        self.work()
        return replay


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def reading(number: int, value: Any) -> dict[str, Any]:
    return {"event_id": f"e{number}", "event_time": START + number, "key": "k", "value": value, "hot": True}


def test_when_the_cause_is_mended_letters_are_answered_and_learned_once(world: World) -> None:
    world.send(reading(0, 1.0), reading(1, "hot"), reading(2, 2.0), reading(3, "warm"))
    world.work()
    assert len(world.logs[LETTERS]) == 2
    learned = world.run.learner.examples
    world.mend(Mended)
    world.logs[EVENTS] = world.logs[EVENTS][:1]
    world.work()
    assert (learned, world.run.learner.examples) == (2, 1)
    replay = world.replay()
    assert (replay.records, replay.repeats, replay.refused, replay.left) == (2, 0, {}, False)
    again = world.logs[EVENTS][-2:]
    assert [(one.key, one.timestamp_ms) for one in again] == [(b"k", START + 5)] * 2
    assert [json.loads(one.value or b"") for one in again] == [reading(1, "hot"), reading(3, "warm")]
    assert [one.headers for one in again] == [
        (("app", b"shop"), ("headrace-replayed", b"1"), ("headrace-origin", b"p.events:0:%d" % offset))
        for offset in (1, 3)
    ]
    assert world.run.learner.examples == 3
    assert world.answers["", "again"] == 0
    assert world.replay().records == 2
    assert (world.run.learner.examples, world.answers["", "again"]) == (3, 2)
    assert len(world.logs[LETTERS]) == 2


def test_what_is_refused_each_time_goes_so_often_and_no_more(world: World) -> None:
    world.send(b"{", b"[]")
    world.work()
    for tries in range(1, REPLAYS_MAX + 1):
        replay = world.replay()
        assert (replay.records, replay.repeats) == (2, 2 * (tries - 1))
        assert len(world.logs[LETTERS]) == 2 * (1 + tries), (
            "each record has one more letter, not twice as many"
        )
    replay = world.replay()
    assert (replay.records, len(world.logs[LETTERS])) == (0, 2 * (1 + REPLAYS_MAX))
    assert replay.refused == {f"it was replayed {REPLAYS_MAX} times and refused each time": 2}


def test_no_more_go_than_may(world: World) -> None:
    world.send(*[b"{"] * 5)
    world.work()
    replay = world.replay(records_max=3)
    assert (replay.records, replay.left, len(world.logs[EVENTS])) == (3, True, 8)
    looked = LetterReplay(world.pipeline, KafkaSettings(), Chosen(), records_max=9)

    async def look() -> list[str]:
        return [letter.refusal.topic async for letter, _ in looked.chosen()]

    assert asyncio.run(look()) == [EVENTS] * 5
    assert len(world.logs[EVENTS]) == 8, "a look sends nothing"


def test_only_what_is_chosen_and_ours_goes(world: World) -> None:
    world.send(b"{", reading(1, "hot"), {**reading(2, 1.0), "event_time": -5})
    world.work()
    foreign = dead_letter(
        Record("bank.transfers", 0, 0, 1, b"k", b"{}"), stage="decode", exception="E", message=""
    )
    world.write(LETTERS, Content(b"k", b"{}", foreign, START + 9))
    world.write(LETTERS, Content(b"k", b"no letter", (("app", b"x"),), START))
    found = asyncio.run(groups(world.pipeline, KafkaSettings(), Chosen()))
    assert sum(group.letters for group in found.values()) == 4
    assert {name[0] for name in found} == {EVENTS, "bank.transfers"}
    replay = world.replay(reason="value")
    assert (replay.records, replay.refused) == (1, {})
    assert json.loads(world.logs[EVENTS][-1].value or b"")["event_id"] == "e1"
    replay = world.replay(since_ms=START + 9)
    assert replay.refused == {"topic 'bank.transfers' is none that this pipeline reads": 1}
    assert world.replay(stage="join").records == world.replay(until_ms=START).records == 0
    assert world.replay(exception="E", stage="decode").records == 0
    letter = asyncio.run(letter_at(world.pipeline, KafkaSettings(), 0, 0))
    assert letter is not None
    assert letter.letter.value == b"{"
    assert asyncio.run(letter_at(world.pipeline, KafkaSettings(), 0, 99)) is None
    with pytest.raises(ValueError, match="no header"):
        asyncio.run(letter_at(world.pipeline, KafkaSettings(), 0, 4))


def test_too_many_are_not_sent_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.send(*[b"{"] * 3)
    world.work()
    world.replay()
    monkeypatch.setattr(letters, "ORIGINS_MAX", 2)
    with pytest.raises(SettingsError, match="more than 2 records came back"):
        world.replay()
    monkeypatch.setattr(letters, "GROUPS_MAX", 0)
    found = asyncio.run(groups(world.pipeline, KafkaSettings(), Chosen()))
    assert [(name, group.letters) for name, group in found.items()] == [(letters.OTHERS, 6)]
