"""Signatures: what one key signed for one topic, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from topics.headers import COMMAND, REFUSED, SIGNATURE, SIGNER
from topics.signatures import admission, signed_by, signer_of

KEYS = {"ada": b"first key of sixteen", "kim:7": b"second key of sixteen"}
TOPIC = "flights.commands"


@given(st.binary(), st.sampled_from(sorted(KEYS)))
def test_who_signed_is_known(value: bytes, name: str) -> None:
    sent = signed_by(name, KEYS[name], topic=TOPIC, value=value)
    assert signer_of((("traceparent", b"x"), *sent), KEYS, topic=TOPIC, value=value) == name


@given(st.binary(min_size=1), st.data())
def test_no_changed_byte_passes(value: bytes, data: st.DataObject) -> None:
    ((_, mark),) = signed_by("ada", KEYS["ada"], topic=TOPIC, value=value)
    message = bytearray(value + mark)
    message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    changed, sent = bytes(message[: len(value)]), ((SIGNATURE, bytes(message[len(value) :])),)
    with pytest.raises(ValueError, match="sign"):
        signer_of(sent, KEYS, topic=TOPIC, value=changed)


@given(st.text(max_size=5), st.binary(max_size=5), st.text(max_size=5), st.binary(max_size=5))
def test_the_border_of_topic_and_value_is_signed(topic: str, value: bytes, other: str, moved: bytes) -> None:
    assume((topic, value) != (other, moved))
    sent = signed_by("ada", KEYS["ada"], topic=topic, value=value)
    with pytest.raises(ValueError, match="not signed with the key of `ada`"):
        signer_of(sent, KEYS, topic=other, value=moved)


def test_a_name_says_nothing_without_its_key() -> None:
    sent = signed_by("ada", KEYS["kim:7"], topic=TOPIC, value=b"{}")
    assert dict(admission(sent, KEYS, topic=TOPIC, value=b"{}"))[REFUSED].startswith(
        b"it was not signed with"
    )
    unknown = signed_by("eve", KEYS["ada"], topic=TOPIC, value=b"{}")
    assert b"not known here" in dict(admission(unknown, KEYS, topic=TOPIC, value=b"{}"))[REFUSED]
    assert b"is not signed" in dict(admission((), KEYS, topic=TOPIC, value=b"{}"))[REFUSED]


def test_what_a_sender_claims_about_itself_is_left_out() -> None:
    """The headers of the record in the examples log are the worker's own."""
    forged = ((SIGNER, b"ada"), *signed_by("kim:7", KEYS["kim:7"], topic=TOPIC, value=b"{}"))
    assert admission(forged, KEYS, topic=TOPIC, value=b"{}") == (*COMMAND, (SIGNER, b"kim:7"))
    assert admission(forged, {}, topic=TOPIC, value=b"{}") == COMMAND
