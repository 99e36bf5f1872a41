"""Events of a load run are valid, unique and due when they say."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
import orjson
import pytest
from msgspec import Meta, Struct

from engine.definition.streams import Topic
from loadtest.bench.feed import KEYS, Feed, made_up_rows, parsed_rows
from topics.errors import SettingsError


class Payment(Struct, rename={"paid_at": "time"}):
    id: str
    paid_at: int
    card: str
    amount: float
    items: Annotated[int, Meta(ge=1, le=9)]
    channel: Literal["web", "shop"]
    label: bool
    note: str | None = None
    extra: dict[str, int] = {}


TOPIC = Topic("payments", Payment, key="card", id="id", time="paid_at")


def test_made_up_events_are_valid_and_carry_id_key_and_time():
    feed = Feed(TOPIC, made_up_rows(TOPIC, count=50, seed=3), run="r1")
    for number in range(120):
        event_id, key, value = feed.event(number, 1_700_000_000_000 + number)
        payment = msgspec.json.decode(value, type=Payment)
        assert payment.id == event_id == f"r1-{number}"
        assert payment.card.encode() == key
        assert payment.paid_at == 1_700_000_000_000 + number
        assert payment.amount > 0


def test_rows_go_round_under_new_ids():
    feed = Feed(TOPIC, made_up_rows(TOPIC, count=2), run="r1")
    first, third = (orjson.loads(feed.event(number, 7).value) for number in (0, 2))
    assert first.pop("id") != third.pop("id")
    assert first == third


def test_made_up_rows_follow_their_seed():
    assert made_up_rows(TOPIC, count=5, seed=1) == made_up_rows(TOPIC, count=5, seed=1)
    assert made_up_rows(TOPIC, count=5, seed=1) != made_up_rows(TOPIC, count=5, seed=2)


def test_keys_are_few():
    cards = {row["card"] for row in made_up_rows(TOPIC, count=3 * KEYS)}
    assert KEYS // 2 < len(cards) <= KEYS


def test_times_as_text_where_the_type_wants_a_datetime():
    class Reading(Struct):
        id: str
        at: datetime
        sensor: str

    topic = Topic("readings", Reading, key="sensor", id="id", time="at")
    value = Feed(topic, made_up_rows(topic, count=1), run="r").event(0, 1_700_000_000_123).value
    assert msgspec.json.decode(value, type=Reading).at.timestamp() == pytest.approx(1_700_000_000.123)


def test_a_field_that_cannot_be_made_up_is_named():
    class Odd(Struct):
        id: str
        at: int
        sensor: str
        matrix: list[list[int]]

    with pytest.raises(SettingsError, match="matrix"):
        made_up_rows(Topic("odd", Odd, key="sensor", id="id", time="at"), count=1)


@pytest.mark.parametrize("line", [b"{", b"[1]", b"3"])
def test_what_is_no_object_is_refused(line):
    with pytest.raises(SettingsError, match="event 1"):
        parsed_rows([b'{"id": "a"}', line])


def test_rows_of_another_type_are_refused_before_anything_is_sent():
    with pytest.raises(SettingsError, match="Payment"):
        Feed(TOPIC, [{"id": "a", "time": 1, "card": "c"}], run="r")
    with pytest.raises(SettingsError, match="no event"):
        Feed(TOPIC, [], run="r")
