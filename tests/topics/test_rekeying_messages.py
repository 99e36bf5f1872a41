"""Records of the internal topics: bytes and back, and the one order of everything."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from topics import headers
from topics.codec import encode
from topics.messages import Claim, Record
from topics.rekeying import (
    Order,
    Progress,
    RekeyedEvent,
    RekeyedLabel,
    RekeyedValues,
    RekeyingMessage,
    decode_rekeying,
)

ORDER = Order(60, 2, 1, 14, 3)


def record(value: bytes | None, kind: headers.Headers = ()) -> Record:
    return Record("p.rekey", 0, 5, 1, b"k", value, kind)


@pytest.mark.parametrize(
    "message",
    [
        RekeyedEvent(ORDER, 1, 7, False, Raw(b'{"fare": 2.50, "x": [1, null]}'), 3, 4),
        RekeyedLabel(ORDER, 1, 7, "e7", ("a", ""), 60, None, 3, 4),
        Progress(1, -(2**62), True, 3, 4),
        RekeyedValues(2, 0, 1, 7, True, {"0": 3, "1": 0.1, "2": "text", "3": True}, 3, 4),
    ],
    ids=lambda message: type(message).__name__,
)
def test_bytes_and_back(message: RekeyingMessage) -> None:
    found = decode_rekeying(record(msgspec.json.encode(message)))
    assert type(found) is type(message)
    assert msgspec.json.encode(found) == msgspec.json.encode(message)
    if isinstance(message, RekeyedValues) and isinstance(found, RekeyedValues):
        assert [type(value) for value in found.values.values()] == [int, float, str, bool]


def test_an_event_travels_as_the_bytes_that_came() -> None:
    value = b'{ "id" : "\\u00e9", "n":1e2 }'
    found = decode_rekeying(record(msgspec.json.encode(RekeyedEvent(ORDER, 1, 7, False, Raw(value)))))
    assert isinstance(found, RekeyedEvent)
    assert bytes(found.event) == value


@pytest.mark.parametrize("value", [None, b"", b"{}", b'{"type":"event"}', b"\xff", b'{"type":"other"}'])
def test_what_is_no_message_of_ours_is_none(value: bytes | None) -> None:
    assert decode_rekeying(record(value)) is None


def test_claims_lie_among_them() -> None:
    assert decode_rekeying(record(encode(Claim(1, 9)), headers.CLAIM)) == Claim(1, 9)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=2))
def test_events_go_by_time_source_and_offset(two: list[tuple[int, int, int]]) -> None:
    one, other = two
    assert (Order.of_event(*one) < Order.of_event(*other)) == (one < other)
    assert Order.of_event(*one) < Order.after_event(*one)
    if one < other:
        assert Order.after_event(*one) < Order.of_event(*other)
