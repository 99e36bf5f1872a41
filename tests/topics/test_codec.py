"""Bytes to values: every limit, every type, every reason; what is encoded decodes to the same."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topics.codec import (
    BYTES_MAX,
    DEPTH_MAX,
    KEYS_MAX,
    NUMBER_MAX,
    TEXT_MAX,
    Decoded,
    EventDecoder,
    LabelDecoder,
    LabelNames,
    Rejected,
    decode_example,
    decode_prediction,
    encode,
    encode_json,
    label_value,
    time_ms,
)
from topics.errors import DefinitionError
from topics.messages import Example, Prediction, Record


class Payment(msgspec.Struct):
    event_id: str | int
    event_time: int | str
    card: str
    amount: float | None = None
    count: int = 0
    label: bool | int | None = None


GOOD = {"event_id": "e1", "event_time": 1_700_000_000_000, "card": "c", "amount": 2.5, "label": True}


def decoder(**options: Any) -> EventDecoder:
    return EventDecoder(Payment, event_id="event_id", event_time="event_time", key="card", **options)


def record(value: bytes | None) -> Record:
    return Record("pay", 2, 7, 1, b"k", value)


def event(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_a_good_event() -> None:
    decoded = decoder(label="label").decode(record(event()))
    assert not isinstance(decoded, Rejected)
    assert (decoded.event_id, decoded.event_time, decoded.key) == ("e1", 1_700_000_000_000, "c")
    assert decoded.label is True
    assert decoded.value.amount == 2.5


def test_ids_may_be_numbers_and_times_may_be_text() -> None:
    decoded = decoder().decode(record(event(event_id=12, event_time="2023-11-14T22:13:20+00:00")))
    assert not isinstance(decoded, Rejected)
    assert (decoded.event_id, decoded.event_time) == ("12", 1_700_000_000_000)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "truncated"),
        (b"not json", "malformed"),
        (b"[1, 2]", "Expected `object`"),
        (b'"text"', "Expected `object`"),
        (event()[:-1], "truncated"),
        (event(amount="12"), "$.amount"),
        (event(amount=float("nan")), "malformed"),
        (event(amount=float("inf")), "malformed"),
        (event().replace(b"2.5", b"1e400"), "out of range"),
        (event(amount=1e300), "number beyond"),
        (event(count=10**18), "number beyond"),
        (event(card=""), "`card`"),
        (event(card="x" * 300), "`card`"),
        (event(event_id=""), "`event_id`"),
        (event(event_time=-5), "outside"),
        (event(event_time=10**15), "outside"),
        (event(event_time=1_700_000_000), "seconds"),
        (event(event_time="yesterday"), "isoformat"),
        (event(event_time="2023-11-14T22:13:20"), "offset"),
        (event(label=2), "binary label"),
        (b'{"event_id": "e1", "card": "c"}', "missing required field `event_time`"),
        (b"\xff\xfe", "malformed"),
        (event().replace(b'"c"', b'"\xff"'), "utf-8"),
        (event(amount=[[[[[[[[[1]]]]]]]]]), f"deeper than {DEPTH_MAX}"),
        (b"x" * (BYTES_MAX + 1), f"larger than {BYTES_MAX}"),
        (json.dumps({f"k{n}": n for n in range(KEYS_MAX + 1)}).encode(), f"more than {KEYS_MAX}"),
    ],
)
def test_what_is_no_event_is_refused_with_the_reason(value: bytes | None, reason: str) -> None:
    rejected = decoder(label="label").decode(record(value))
    assert isinstance(rejected, Rejected)
    assert reason in rejected.message
    assert (rejected.record.value, rejected.stage) == (value, "decode")
    assert rejected.exception


def test_braces_and_colons_inside_text_are_no_nesting() -> None:
    text = "{[" * 40 + ":" * 60
    assert not isinstance(decoder().decode(record(event(card=text))), Rejected)


class Strict(Payment, forbid_unknown_fields=True):
    pass


@pytest.mark.parametrize("ways", ["one", "run"])
def test_what_json_leaves_open_is_the_same_on_every_way_in(ways: str) -> None:
    """Of a key that comes twice the last one holds; what is unknown is ignored, unless forbidden."""

    def taken(value: bytes, of: type[msgspec.Struct] = Payment) -> Any:
        decode = EventDecoder(of, event_id="event_id", event_time="event_time", key="card")
        return decode.decode(record(value)) if ways == "one" else decode.decode_all([record(value)])[0]

    twice = event()[:-1] + b', "amount": 7.5, "card": "d"}'
    found = taken(twice)
    assert (found.value.amount, found.value.card, found.key) == (7.5, "d", "d")
    unknown = event()[:-1] + b', "colour": {"r": 1}}'
    assert taken(unknown).value == taken(event()).value
    refused = taken(unknown, Strict)
    assert isinstance(refused, Rejected)
    assert "colour" in refused.message


@given(st.binary(max_size=300))
def test_no_bytes_raise(value: bytes) -> None:
    assert isinstance(decoder().decode(record(value)), Rejected)
    assert isinstance(LabelDecoder("binary").decode(record(value)), Rejected)


def depth_of(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth_of, inside), default=0)


def keys_of(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(keys_of, value.values()))
    return sum(map(keys_of, value)) if isinstance(value, list) else 0


def by_the_rules(body: dict[str, Any], value: bytes) -> tuple[Any, ...] | str:
    """The rules of an event one after the other, each in its plainest form."""
    if len(value) > BYTES_MAX:
        return "larger than"
    if keys_of(body) > KEYS_MAX:
        return "keys has more than"
    if depth_of(body) > DEPTH_MAX:
        return "is deeper than"
    try:
        found = msgspec.json.decode(value, type=Payment)
        for name in ("amount", "count"):
            if not -NUMBER_MAX <= (getattr(found, name) or 0) <= NUMBER_MAX:
                return f"`$.{name}`"
        for name in ("event_id", "card"):
            if not 1 <= len(str(getattr(found, name))) <= TEXT_MAX:
                return f"`{name}`"
        at = time_ms(found.event_time)
        label = None if found.label is None else label_value(found.label, "binary")
        return str(found.event_id), at, found.card, found, label
    except (msgspec.MsgspecError, ValueError) as error:
        return str(error)


def nested(depth: int, inner: object) -> object:
    for level in range(depth):
        inner = [inner] if level % 2 else {"k": inner}
    return inner


odd = st.one_of(
    st.sampled_from([None, True, 0, -1, "", "{[" * 9, '\\"{', "x" * TEXT_MAX, "x" * (TEXT_MAX + 1), 1e300]),
    st.sampled_from([NUMBER_MAX, -NUMBER_MAX, 10**15 + 1, 10**11, 10**11 - 1, 10**9, 253_402_300_799_999]),
    st.sampled_from([253_402_300_800_000, "2023-11-14T22:13:20Z", "2023-11-14T22:13:20", "x" * 4_000]),
    st.builds(nested, st.integers(DEPTH_MAX - 3, DEPTH_MAX + 1), st.just(1)),
    st.integers(KEYS_MAX - 8, KEYS_MAX).map(lambda count: {f"k{n}": n for n in range(count)}),
)


@given(
    st.dictionaries(st.sampled_from([*GOOD, "count", "unknown"]), odd, max_size=3),
    st.sampled_from([b"", b" ", b" " * 4_000, b" " * BYTES_MAX]),
)
def test_an_event_is_what_the_rules_say_one_by_one(changes: dict[str, Any], before: bytes) -> None:
    body = {**GOOD, **changes}
    value = before + json.dumps(body).encode()
    decoded = decoder(label="label").decode(record(value))
    expected = by_the_rules(body, value)
    if isinstance(expected, str):
        assert isinstance(decoded, Rejected)
        assert expected in decoded.message
    else:
        assert decoded == Decoded(*expected)


def test_a_run_is_decoded_in_order_whatever_is_in_it() -> None:
    records = [record(value) for value in (event(), None, event(event_id="e2"), b"{", event(card=""))]
    each = [decoder().decode(one) for one in records]
    assert decoder().decode_all(records) == each
    assert [isinstance(one, Rejected) for one in each] == [False, True, False, True, True]


def test_labels_by_task_and_by_other_names() -> None:
    names = LabelNames("id", "fraud", "at")
    found = LabelDecoder("binary", names).decode(
        record(b'{"id": "e1", "fraud": 1, "at": "1970-01-01T00:00:01Z", "x": 5}')
    )
    assert not isinstance(found, Rejected)
    assert (found.event_id, found.label, found.label_time, found.offset) == ("e1", True, 1_000, 7)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"w": 2.5, "by": "ann"}, (2.5, "ann")),
        ({"w": 7, "by": 12}, (7.0, "12")),
        ({"w": 10, "by": "ann", "p": "ignored"}, (10.0, "ann")),
        ({"w": 0, "by": "ann"}, "w is 0.0: a weight of 0 is not in (0, 10]"),
        ({"w": -1, "by": "ann"}, "w is -1.0: a weight of -1 is not in (0, 10]"),
        ({"w": 10.5, "by": "ann"}, "w is 10.5: a weight of 10.5 is not in (0, 10]"),
        ({"w": "2", "by": "ann"}, "Expected `float`, got `str` - at `$.w`"),
        ({"by": "ann"}, "missing required field `w`"),
        ({"w": 1}, "missing required field `by`"),
        ({"w": 1, "by": ""}, "`by` must be text of 1 to 256 characters"),
    ],
)
def test_a_label_says_what_it_weighs_and_who_says_so(more, expected) -> None:
    names = LabelNames(weight="w", source="by")
    body = {"event_id": "e1", "label": 1, "label_time": 5, **more}
    found = LabelDecoder("binary", names, weight_max=10.0).decode(record(json.dumps(body).encode()))
    if isinstance(expected, str):
        assert isinstance(found, Rejected)
        assert expected in found.message
        assert found.stage == "label"
    else:
        assert (found.weight, found.source) == expected


@pytest.mark.parametrize("value", [b"1e400", b"NaN", b"Infinity", b"1e999999"])
def test_a_weight_that_is_not_finite_is_refused(value: bytes) -> None:
    body = b'{"event_id": "e1", "label": 1, "label_time": 5, "w": ' + value + b"}"
    assert isinstance(LabelDecoder("binary", LabelNames(weight="w")).decode(record(body)), Rejected)


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, 1.0), (0.25, 4.0), (0.001, None), (0.0, None), (1.5, None), (-0.5, None)]
)
def test_a_label_of_a_sampled_log_weighs_one_over_its_probability(share, expected) -> None:
    body = {"event_id": "e1", "label": 1, "label_time": 5, "p": share}
    decode = LabelDecoder("binary", LabelNames(sampled="p"), weight_max=100.0).decode
    found = decode(record(json.dumps(body).encode()))
    assert isinstance(found, Rejected) if expected is None else found.weight == expected


@pytest.mark.parametrize(("weight", "expected"), [(2.0, 8.0), (3.0, None)])
def test_a_label_of_a_kind_weighs_no_more_than_any_other(weight, expected) -> None:
    body = {"event_id": "e1", "label": 1, "label_time": 5, "w": weight, "kind": "buy"}
    names = LabelNames(weight="w", kind="kind")
    decode = LabelDecoder("binary", names, weight_max=10.0, kinds={"buy": 4.0}).decode
    found = decode(record(json.dumps(body).encode()))
    assert isinstance(found, Rejected) if expected is None else found.weight == expected


@pytest.mark.parametrize(
    ("body", "task", "expected"),
    [
        ({"kind": "buy", "label": 2.5}, "regression", (10.0, "buy", 1.0)),
        ({"kind": "buy"}, "regression", (4.0, "buy", 1.0)),
        ({"kind": "buy"}, "binary", (True, "buy", 4.0)),
        ({"kind": "hide", "label": 1}, "binary", None),
        ({"label": 1}, "binary", None),
    ],
)
def test_a_kind_of_feedback_says_what_a_label_is_worth(body, task, expected) -> None:
    decode = LabelDecoder(task, LabelNames(kind="kind"), kinds={"buy": 4.0}).decode
    found = decode(record(json.dumps({"event_id": "e1", "label_time": 5, **body}).encode()))
    if expected is None:
        assert isinstance(found, Rejected)
        assert "not one of 'buy'" in found.message
    else:
        assert (found.label, found.kind, found.weight) == expected


def test_a_weight_that_no_definition_names_is_not_read() -> None:
    body = {"event_id": "e1", "label": 1, "label_time": 5, "weight": "much", "source": []}
    found = LabelDecoder("binary").decode(record(json.dumps(body).encode()))
    assert (found.weight, found.source) == (1.0, "")


@pytest.mark.parametrize(
    ("value", "task", "expected"),
    [
        (True, "binary", True),
        (0, "binary", False),
        ("UP", "multiclass", "UP"),
        (3, "multiclass", "3"),
        (2, "regression", 2.0),
        (2.5, "regression", 2.5),
    ],
)
def test_label_values(value: object, task: Any, expected: object) -> None:
    found = label_value(value, task)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "task"),
    [
        ("yes", "binary"),
        (2, "binary"),
        (1.5, "multiclass"),
        ("", "multiclass"),
        (True, "regression"),
        (1e20, "regression"),
    ],
)
def test_label_values_refused(value: object, task: Any) -> None:
    with pytest.raises(ValueError, match="label"):
        label_value(value, task)


def test_times() -> None:
    assert time_ms("2013-01-01T05:15:00Z") == 1_357_017_300_000
    assert time_ms("2013-01-01T06:15:00.250+01:00") == 1_357_017_300_250
    assert time_ms(0) == 0
    with pytest.raises(ValueError, match="integer milliseconds"):
        time_ms(True)


def test_a_decoder_needs_its_fields() -> None:
    with pytest.raises(DefinitionError, match="no field `when`"):
        EventDecoder(Payment, event_id="event_id", event_time="when", key="card")


values = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
features = st.dictionaries(st.text(min_size=1, max_size=6), values, max_size=5)
scores = st.one_of(
    st.none(), st.floats(0, 1), st.dictionaries(st.sampled_from("abc"), st.floats(0, 1), min_size=1)
)


@given(features, scores, st.one_of(st.booleans(), st.floats(-9, 9), st.sampled_from(["a", "b"])))
def test_what_is_logged_reads_back_equal_to_the_bit(row: dict[str, Any], score: Any, label: Any) -> None:
    example = Example("e", "k", 5, 9, label, row, {"m": score}, score, "champion", "m", 1, 2, 3, 4, 5)
    again = decode_example(encode(example))
    assert repr(again) == repr(example)
    assert encode(again) == encode(example)
    answer = Prediction("p:e", "e", 5, 6, "m", 1, 0, "champion", score, None, "champion", row, 2, 4, 5)
    assert repr(decode_prediction(encode(answer))) == repr(answer)


def test_plain_json_takes_numpy() -> None:
    import numpy

    assert encode_json({"a": numpy.float64(1.5), 2: numpy.arange(2)}) == b'{"a":1.5,"2":[0,1]}'
