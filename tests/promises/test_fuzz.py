"""Whatever bytes come to a place that reads bytes: a value or a refusal, soon."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.fuzz import NAMES, TARGETS
from operators.models.signing import SigningKeys, sealed
from topics.codec import encode
from topics.messages import Claim, Command, Example, Prediction, Quarantine

LONGEST_S = 2.0
"""For a message of a megabyte on a machine that does other things as well; a usual one takes microseconds."""
STRANGER = SigningKeys({"": b"a key that is none of ours"})
FIELDS = sorted(
    {name for kind in (Claim, Command, Example, Prediction, Quarantine) for name in kind.__struct_fields__}
    | {"event_id", "event_time", "card", "amount", "count", "tags", "anything", "label", "label_time", "key",
       "time", "fields", "type"}
)  # fmt: skip
GOOD = [
    encode(Command("c1", "promote", 7, model_name="a")),
    encode(Claim(0, 1)),
    json.dumps({"event_id": "e", "event_time": 1, "card": "c", "amount": 2.5, "tags": {"a": [1]}}).encode(),
    json.dumps({"event_id": "e", "label": True, "label_time": 1}).encode(),
    json.dumps({"key": "k", "time": 0, "fields": {"a": 1, "b": None}}).encode(),
    sealed(b"{}", b"payload", STRANGER),
    b"\0".join(bytes([number]) + b"p.events" for number, _ in enumerate(NAMES)),
]
names = st.sampled_from(FIELDS) | st.text(max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
values = st.recursive(
    scalars | st.sampled_from(["1", "true", "p.events"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Bytes that began as a message: parts of it left out, repeated, or replaced."""
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, len(data)))
        data[at:end] = draw(st.binary(max_size=6)) + bytes(data[at:end]) * draw(st.integers(0, 2))
    return bytes(data)


messages = st.dictionaries(st.sampled_from(FIELDS), values, max_size=12).map(
    lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
)
DEEP = 100_000
WORST = {
    "lists": b"[" * DEEP,
    "objects": b'{"x":' * DEEP,
    "objects in a field": b'{"anything":' + b'{"x":' * DEEP,
    "closed": b'{"x":' * DEEP + b"1" + b"}" * DEEP,
    "digits": b'{"time":' + b"9" * 1_000_000 + b"}",
    "an exponent": b'{"amount":1e' + b"9" * 100_000 + b"}",
    "keys": b"{" + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}",
    "one key": b"{" + b",".join(b'"a":1' for _ in range(100_000)) + b"}",
    "text": b'{"event_id":"' + b"a" * 1_000_000 + b'"}',
    "escapes": b'{"event_id":"' + b"\\ud800" * 100_000 + b'"}',
    "spaces": b" " * 1_000_000 + b"{}",
    "zeros": b"\0" * 1_000_000,
    "parts": b"\0\x01" * 500_000,
    "no text": b"\xff\xfe" * 100_000,
    "nothing": b"",
}


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=300) | messages | mutated())
def test_any_bytes_are_a_value_or_a_refusal(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("kind", WORST)
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_made_to_be_slow_is_not(target: str, kind: str) -> None:
    began = time.process_time()
    TARGETS[target](WORST[kind])
    assert time.process_time() - began < LONGEST_S


def test_a_target_that_raises_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: a decoder that lets another error out fails."""

    def broken(_: bytes) -> Any:
        raise KeyError("k")

    monkeypatch.setattr("topics.codec.decode_command", broken)
    with pytest.raises(KeyError):
        TARGETS["commands"](b"{}")
