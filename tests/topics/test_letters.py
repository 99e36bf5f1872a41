"""A record that was refused, read back out of its letter, is the record that came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from topics.headers import ORIGIN, REASON, REPLAYED, TIMESTAMP, UNREADABLE, dead_letter, fitted
from topics.letters import REPLAYS_MAX, letter_of, replay_of
from topics.messages import Outgoing, Record

TOPIC = "p.events"
names = (
    st.sampled_from(["app", "traceparent", REASON, TIMESTAMP, REPLAYED, "headrace.errors.value-bytes"])
    | st.text()
)
headers = st.lists(st.tuples(names, st.binary(max_size=20)), max_size=5).map(tuple)
records = st.builds(
    Record,
    topic=st.just(TOPIC),
    partition=st.integers(0, 9),
    offset=st.integers(0, 2**60),
    timestamp_ms=st.integers(0, 2**53),
    key=st.none() | st.binary(max_size=30),
    value=st.binary(max_size=90),
    headers=headers,
)


def written(record: Record, *, bytes_max: int = 1 << 20) -> Record:
    """Return the letter of a record as it lies in the topic of dead letters."""
    why = dead_letter(record, stage="decode", exception="ValueError", message="no")
    letter = fitted(Outgoing("dead-letters", None, record.key, record.value, why, None), bytes_max)
    return Record("p.dead-letters", 0, 3, 9, letter.key, letter.value, letter.headers)


@given(records)
def test_a_replay_is_the_record_that_came(record: Record) -> None:
    letter = letter_of(written(record))
    assert letter.came == record.headers
    assert (letter.refusal.topic, letter.refusal.partition, letter.refusal.offset) == (
        TOPIC, record.partition, record.offset,
    )  # fmt: skip
    if letter.replays >= REPLAYS_MAX:
        return
    again = replay_of(letter, {TOPIC})
    assert (again.key, again.value, again.timestamp_ms) == (record.key, record.value, record.timestamp_ms)
    assert letter.refusal.partition == record.partition
    *came, (name, count), (origin, place) = again.headers
    assert tuple(came) == tuple(header for header in record.headers if header[0] not in {REPLAYED, ORIGIN})
    assert (name, int(count), origin) == (REPLAYED, letter.replays + 1, ORIGIN)
    assert place.decode() == letter.origin


def test_a_record_that_is_refused_each_time_goes_round_so_often_and_no_more() -> None:
    record = Record(TOPIC, 2, 7, 5, b"k", b"{", (("app", b"x"),))
    for rounds in range(REPLAYS_MAX):
        letter = letter_of(written(record))
        assert (letter.replays, letter.origin) == (rounds, f"{TOPIC}:2:7")
        sent = replay_of(letter, {TOPIC})
        record = replace(record, offset=record.offset + 1, headers=sent.headers)
    assert [name for name, _ in record.headers] == ["app", REPLAYED, ORIGIN]
    with pytest.raises(ValueError, match=f"it was replayed {REPLAYS_MAX} times and refused each time"):
        replay_of(letter_of(written(record)), {TOPIC})


def refused(
    key: bytes | None, value: bytes | None, *came: tuple[str, bytes], topic: str = TOPIC, at: int = 0
) -> Record:
    return written(Record(topic, at, 0, 1, key, value, came), bytes_max=4_096)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (refused(b"k", b"x" * 9_000), "it was cut: headrace.errors.value-bytes"),
        (refused(b"k" * 9_000, b"x"), "it was cut: headrace.errors.key-bytes"),
        (refused(b"k", b"x", ("h", b"h" * 9_000)), "it was cut: headrace.errors.headers-dropped"),
        (refused(b"k", None), "it has no value"),
        (refused(None, None, (UNREADABLE, b"gzip")), "it stands for a batch that could not be read"),
        (refused(b"k", b"x", topic="p.predictions"), "none that this pipeline reads"),
        (refused(b"k", b"x", at=-1), "which partition"),
    ],
)
def test_what_is_not_whole_or_not_ours_is_refused_with_the_reason(record: Record, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replay_of(letter_of(record), {TOPIC})


ERRORS = [
    name for name, _ in dead_letter(Record("e", 0, 0, 1, None, b""), stage="", exception="", message="")
]
forged_headers = st.lists(
    st.tuples(st.sampled_from([*ERRORS, REPLAYED]) | st.text(max_size=5), st.binary(max_size=25)), max_size=9
).map(tuple)


@given(forged_headers, st.none() | st.binary(max_size=9))
def test_letters_that_anybody_wrote_are_read_or_refused(
    forged: tuple[tuple[str, bytes], ...], value: bytes | None
) -> None:
    """Whoever may write the topic writes any headers; a replay then writes to the pipeline's inputs alone."""
    try:
        sent = replay_of(letter_of(Record("dead", 0, 0, 1, b"k", value, forged)), {TOPIC})
    except ValueError:
        return
    assert dict(forged)["__streams.errors.topic"] == TOPIC.encode()
    assert sent.partition is not None
