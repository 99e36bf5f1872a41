"""Which answer is whose, and what a request to /predict is told; real Kafka is in `test_predict.py`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from msgspec import Struct
from river import linear_model
from running import until

from engine import Labels, Pipeline, Rule, Topic
from engine.answering.predict import JSON, REQUESTS, Predicting
from engine.answering.requests import Requests
from engine.host.pages import PageText
from engine.kafka.sink import partition_of
from engine.metrics import Metrics
from engine.settings import PredictSettings, Settings
from operators import by, field
from topics.codec import encode
from topics.errors import SettingsError
from topics.messages import Prediction

NOW_MS = time.time_ns() // 1_000_000
PARTITIONS = 3


def answer(event_id: str, offset: int) -> Prediction:
    return Prediction(
        f"p:{event_id}", event_id, 0, 0, "m", 1, 0, "champion", 0.5, True, "champion", {}, offset, 1, 0
    )


# -- whose answer it is -------------------------------------------------------------------------------


def test_each_request_gets_the_answer_to_its_own_record() -> None:
    async def play() -> None:
        requests = Requests(3)
        first, again, other = requests.begin("e"), requests.begin("e"), requests.begin("f")
        first.published((0, 40))
        requests.answered(0, answer("e", 41))  # before the place of the second is known
        requests.answered(1, answer("e", 40))  # another partition
        requests.answered(0, answer("e", 39))  # an older record of this id
        assert not first.answer.done()
        requests.answered(0, answer("e", 40))
        again.published((0, 41))
        assert (first.answer.result().event_offset, again.answer.result().event_offset) == (40, 41)
        requests.answered(0, answer("e", 40))  # a repeat changes nothing
        assert not other.answer.done()
        assert requests.full
        for request in (first, again, other):
            requests.end(request)
        assert len(requests) == 0
        requests.answered(0, answer("e", 40))

    asyncio.run(play())


# -- what is told -------------------------------------------------------------------------------------


class Payment(Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


class There:
    """Where a record lies."""

    def __init__(self, partition: int, offset: int) -> None:
        self.partition, self.offset = partition, offset


class Broker:
    """In place of a producer: takes records, and tells a worker of them, if there is one."""

    def __init__(self, takes: Callable[[int, int, bytes], None] | Exception | None) -> None:
        self.takes = takes
        self.records: list[tuple[int, bytes, bytes]] = []

    async def send_and_wait(self, _: str, value: bytes, *, key: bytes, partition: int) -> There:
        await asyncio.sleep(0)
        if isinstance(self.takes, Exception):
            raise self.takes
        self.records.append((partition, key, value))
        offset = len(self.records) - 1
        if self.takes is not None:
            self.takes(partition, offset, value)
        return There(partition, offset)


class Route:
    """A route whose Kafka is played."""

    def __init__(self, takes: Any = None, *, partitions: int = PARTITIONS, **settings: int) -> None:
        pipeline = Pipeline(
            name="pay",
            events=Topic("pay.events", Payment, key="card"),
            labels=Labels("pay.labels", wait="1h"),
            features={"amount": field("amount")},
            models={"linear": linear_model.LogisticRegression()},
            rules=[Rule(field("amount") > 0, action="dead_letter", name="positive")],
        )
        self.metrics = Metrics(pipeline)
        chosen = Settings(predict=PredictSettings(enabled=True, **settings))
        self.route = Predicting(pipeline, chosen, self.metrics)
        self.broker = Broker(self._answered if takes is None else takes)
        self.route._producer, self.route._partitions = self.broker, partitions

    def _answered(self, partition: int, offset: int, value: bytes) -> None:
        self.route._requests.answered(partition, answer(json.loads(value)["event_id"], offset))

    async def post(self, *, content_type: str = JSON, **changes: Any) -> PageText:
        return await self.route.answer(content_type, json.dumps(payment(**changes)).encode())

    def outcomes(self) -> dict[str, int]:
        counts = self.metrics.counts
        return {outcome: n for (name, outcome), n in counts.items() if name == REQUESTS and n}


def payment(**changes: Any) -> dict[str, Any]:
    return {"event_id": "e1", "event_time": NOW_MS, "card": "c1", "amount": 2.0} | changes


def told(page: PageText) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(page.body)
    assert page.content_type == JSON
    return said


def test_an_event_is_published_by_its_key_and_answered_with_its_prediction() -> None:
    async def play() -> None:
        route = Route()
        page = await route.post(card="c7")
        assert (page.status, page.body) == (200, encode(answer("e1", 0)))
        ((partition, key, value),) = route.broker.records
        assert (partition, key) == (partition_of(b"c7", PARTITIONS), b"c7")
        assert json.loads(value) == payment(card="c7")
        assert route.outcomes() == {"answered": 1}
        assert sum(route.metrics.predict_duration.read()[1]) == 1

    asyncio.run(play())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"amount": "much"}, "$.amount"),
        ({"amount": -1.0}, "positive"),
        ({"event_time": 1_700_000_000}, "looks like seconds"),
        ({"event_time": NOW_MS + 86_400_000}, "ahead of this worker's clock"),
        ({"event_id": ""}, "`event_id` must be text"),
    ],
)
def test_an_event_that_would_be_a_dead_letter_is_refused_with_its_field(
    changes: dict[str, Any], said: str
) -> None:
    async def play() -> None:
        route = Route()
        page = await route.post(**changes)
        assert page.status == 400
        assert said in told(page)["error"]
        assert "headrace export jsonschema" in told(page)["fix"]
        assert not route.broker.records
        assert route.outcomes() == {"invalid": 1}

    asyncio.run(play())


def test_what_is_no_json_or_too_large_is_refused() -> None:
    async def play() -> None:
        route = Route()
        assert (await route.post(content_type="text/plain")).status == 415
        assert (await route.route.answer(JSON, None)).status == 413
        assert (await route.route.answer(JSON, b"{")).status == 400
        assert route.outcomes() == {"invalid": 3}
        assert not route.broker.records

    asyncio.run(play())


def test_a_deadline_is_told_with_the_id_and_the_event_is_published_all_the_same() -> None:
    async def play() -> None:
        route = Route(lambda *_: None, deadline_ms=20)
        page = await route.post()
        assert page.status == 504
        assert told(page)["prediction_id"] == "pay:e1"
        assert "answered later" in told(page)["error"]
        assert "pay.predictions" in told(page)["fix"]
        assert len(route.broker.records) == 1
        assert route.outcomes() == {"deadline": 1}
        assert len(route.route._requests) == 0

    asyncio.run(play())


def test_an_event_is_written_though_its_deadline_passes_first_and_keeps_its_place_until_then() -> None:
    async def play(refused: Exception | None) -> None:
        route = Route(lambda *_: None, deadline_ms=20, requests_max=1)
        taken = asyncio.Event()
        at_once = route.broker.send_and_wait

        async def send_and_wait(topic: str, value: bytes, **where: Any) -> There:
            await taken.wait()
            if refused is not None:
                raise refused
            return await at_once(topic, value, **where)

        route.broker.send_and_wait = send_and_wait  # type: ignore[method-assign]
        assert (await route.post()).status == 504
        assert (await route.post()).status == 429, "Kafka still has the first one"
        taken.set()
        await until(lambda: len(route.route._requests) == 0, "it has its place free")
        assert len(route.broker.records) == (refused is None)
        late = {} if refused is None else {"unpublished": 1}
        assert route.outcomes() == {"deadline": 1, "crowded": 1} | late

    asyncio.run(play(None))
    asyncio.run(play(kafka_errors.MessageSizeTooLargeError("pay.events")))


def test_more_requests_than_may_wait_are_refused_and_those_that_wait_are_answered() -> None:
    async def play() -> None:
        held: list[tuple[int, int, bytes]] = []
        route = Route(lambda *record: held.append(record), requests_max=2, deadline_ms=8_000)
        waiting = [asyncio.create_task(route.post(event_id=f"e{number}")) for number in range(2)]
        await until(lambda: len(held) == 2, "both are published")
        refused = await route.post(event_id="e2")
        assert refused.status == 429
        assert "2 requests" in told(refused)["error"]
        for record in held:
            route._answered(*record)
        assert {(await one).status for one in waiting} == {200}
        assert (len(held), route.outcomes()) == (2, {"answered": 2, "crowded": 1})

    asyncio.run(play())


def test_a_kafka_that_refuses_or_is_not_read_yet_is_told() -> None:
    async def play() -> None:
        route = Route(kafka_errors.TopicAuthorizationFailedError("pay.events"))
        page = await route.post()
        assert page.status == 503
        assert "WRITE" in told(page)["fix"]
        assert told(page)["prediction_id"] == "pay:e1"
        early = Route(partitions=0)
        assert (await early.post()).status == 503
        assert not early.broker.records
        assert (route.outcomes(), early.outcomes()) == ({"failed": 1}, {"failed": 1})

    asyncio.run(play())


def test_who_may_write_beyond_this_machine_has_a_token() -> None:
    open_page = {"host": "0.0.0.0", "allow_anonymous": True}
    with pytest.raises(ValueError, match=r"set web\.token"):
        Settings(predict={"enabled": True}, web=open_page)
    Settings(predict={"enabled": True}, web={"host": "0.0.0.0", "token": "0123456789abcdef" * 2})
    assert not Settings(web=open_page).predict.enabled


def test_a_pipeline_whose_answers_come_after_the_deadline_is_refused() -> None:
    def route(partitions: int, deadline_ms: int) -> Predicting:
        pipeline = Pipeline(
            name="pay",
            events=Topic("pay.events", Payment, key="card", partitions=partitions, grace="2s"),
            labels=Labels("pay.labels", wait="1h"),
            features={"all": by().count("1h")},
            models={"linear": linear_model.LogisticRegression()},
        )
        chosen = Settings(predict=PredictSettings(enabled=True, deadline_ms=deadline_ms))
        return Predicting(pipeline, chosen, Metrics(pipeline))

    with pytest.raises(SettingsError, match="2000 ms after their events") as caught:
        route(2, 2_000)
    assert "HEADRACE_PREDICT__DEADLINE_MS" in caught.value.hint
    route(2, 2_001)
    route(1, 1_000)
