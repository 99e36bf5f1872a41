"""Bytes <-> values: limits first, then types, then canonical output.

Lives here: everything that knows JSON.  Never here: topic names, memory, clocks.

Strategy: (1) refuse by size, depth and key count on the raw bytes, before any parser sees
them; most messages are small and flat, which two searches show; (2) one compiled msgspec
decoder per message type checks names and types; (3) a few rules msgspec does not have
(finite and bounded numbers, usable ids and times).  A record that fails is a value,
`Rejected`, on its way to the dead letters, never an exception.
Duplicate JSON keys: the last one wins, in every code path.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

import msgspec
import orjson
from msgspec import Struct
from msgspec.structs import astuple, replace

from topics.errors import DefinitionError
from topics.headers import UNREADABLE
from topics.messages import (
    AlertRecord,
    Block,
    Claim,
    Command,
    CommandWord,
    Decision,
    Example,
    FieldChange,
    Label,
    LabelValue,
    ModelPointer,
    Prediction,
    Quarantine,
    Record,
    Slow,
    Task,
    WorkerStatus,
)

__all__ = [
    "BYTES_MAX",
    "COMMAND_BYTES_MAX",
    "DEPTH_MAX",
    "KEYS_MAX",
    "NUMBER_MAX",
    "TEXT_MAX",
    "Decoded",
    "EventDecoder",
    "LabelDecoder",
    "LabelMessage",
    "LabelNames",
    "Rejected",
    "command_id",
    "decode_alert",
    "decode_block",
    "decode_claim",
    "decode_command",
    "decode_decision",
    "decode_example",
    "decode_field",
    "decode_pointer",
    "decode_prediction",
    "decode_quarantine",
    "decode_slow",
    "decode_status",
    "decoder_of",
    "encode",
    "encode_json",
    "kind_value",
    "label_message",
    "label_value",
    "time_ms",
]

BYTES_MAX = 65_536
"""A message larger than this is no event: Kafka's own default is 1 MB, features are a few hundred bytes."""
COMMAND_BYTES_MAX = 16_384
"""A command is a word, a name and a reason; what is longer is none."""
DEPTH_MAX = 8
"""Nested values cost recursion later (reprs, canonical output)."""
KEYS_MAX = 1_000
"""A 300,000-key object holds the loop for 100 ms."""
SMALL_BYTES_MAX = KEYS_MAX * 4
"""A key and its value take 4 bytes at the least (`"":1`): up to here a message cannot have too many keys."""
TEXT_MAX = 256
"""Ids and keys are kept in memory for as long as a label may come."""
KEY_BYTES_MAX = 4 * TEXT_MAX
"""Of a record's key: it goes on to the answer."""
NUMBER_MAX = 1e15
"""Larger than any quantity; squares of it still fit a double by far."""
TIME_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""
SECONDS_LOOK = 100_000_000_000
"""A time below this (1973 in ms) that is not 0 is nearly always seconds sent for milliseconds."""

_NUMBERS = (float, int)
_CLASSES: dict[type | None, str] = {
    None: "text or a whole number",
    str: "text (whole numbers need Labels(type=int))",
    int: "a whole number by Labels(type=int)",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BRACKET = ord("[")
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_OPEN = (0x7B, 0x5B)
_CLOSE = (0x7D, 0x5D)


class Rejected(NamedTuple):
    """The reason why a record is no valid message; its bytes go to the dead letters as they came."""

    record: Record
    stage: str
    exception: str
    message: str
    hits: tuple[int, ...] = ()
    """Numbers of the rules that the event broke, the one that refused it last."""


def _too_large(value: bytes) -> str:
    """Return which limit `value` breaks, or "".  Counting bytes bounds depth and keys from above."""
    size = len(value)
    if size > BYTES_MAX:
        return f"message of {size} bytes is larger than {BYTES_MAX}"
    if value.count(b"{") + value.count(b"[") > DEPTH_MAX or (
        size > SMALL_BYTES_MAX and value.count(b":") > KEYS_MAX
    ):
        return _nesting(value)
    return ""


def _nesting(value: bytes) -> str:
    """Return which limit `value` breaks, or "", by its exact depth and number of keys."""
    bare = _QUOTED.sub(b"", value)
    if (keys := bare.count(b":")) > KEYS_MAX:
        return f"message with {keys} keys has more than {KEYS_MAX}"
    depth = deepest = 0
    for byte in bare:
        if byte in _OPEN:
            depth += 1
            deepest = max(deepest, depth)
        elif byte in _CLOSE:
            depth -= 1
    return f"message nested {deepest} deep is deeper than {DEPTH_MAX}" if deepest > DEPTH_MAX else ""


def _payload(record: Record, stage: str, what: str) -> bytes | Rejected:
    """Return the bytes that may be parsed, or why these must not be: a tombstone, or beyond a limit."""
    value, key = record.value, record.key
    if key is not None and len(key) > KEY_BYTES_MAX:
        too_long = f"record key of {len(key)} bytes is longer than {KEY_BYTES_MAX}"
        return Rejected(record, stage, "ValueError", too_long)
    if value is None:
        unreadable = dict(record.headers).get(UNREADABLE)
        message = unreadable.decode(errors="replace") if unreadable else f"{what} without a value (tombstone)"
        return Rejected(record, stage, "ValueError", message)
    wrong = _too_large(value)
    return Rejected(record, stage, "ValueError", wrong) if wrong else value


def time_ms(value: int | str | datetime) -> int:
    """Return a wire time as integer milliseconds since the epoch, UTC.

    Takes integer milliseconds or RFC 3339 text (or its datetime, which must have an offset).
    Raises ValueError with what is wrong otherwise.
    """
    if type(value) is int and SECONDS_LOOK <= value <= TIME_MAX:
        return value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("time without a UTC offset")
        delta = value - _EPOCH
        value = (delta.days * 86_400 + delta.seconds) * 1_000 + delta.microseconds // 1_000
        if value < 0:
            raise ValueError(f"time {value} is outside the years 1970 to 9999")
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected integer milliseconds or RFC 3339 text, got {type(value).__name__}")  # noqa: TRY004
    if not 0 <= value <= TIME_MAX:
        raise ValueError(f"time {value} is outside the years 1970 to 9999")
    if 0 < value < SECONDS_LOOK and value > SECONDS_LOOK // 100:
        raise ValueError(f"time {value} looks like seconds; milliseconds are wanted")
    return value


def label_value(value: object, task: Task, classes: type | None = None) -> LabelValue:
    """Return `value` as the label of `task`: bool, text or float.

    `classes` says what a class label is: `str` or `int`, None takes both.  Raises ValueError if it is none.
    """
    if task == "binary":
        if isinstance(value, bool):
            return value
        if value in (0, 1):
            return bool(value)
        raise ValueError(f'a binary label is true, false, 1 or 0, not {value!r}; is it task="multiclass"?')
    if task == "multiclass":
        if isinstance(value, str) and 0 < len(value) <= TEXT_MAX and classes is not int:
            return value
        if (classes is None and isinstance(value, (bool, int))) or (classes is int and type(value) is int):
            text = str(value)
            if len(text) <= TEXT_MAX:
                return text
        raise ValueError(f"a class label is {_CLASSES[classes]}, not {repr(value)[:TEXT_MAX]}")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= NUMBER_MAX:
        return float(value)
    raise ValueError(f"a regression label is a number up to {NUMBER_MAX:g}, not {value!r}")


def _text(value: object, name: str) -> str:
    if type(value) is str and 0 < len(value) <= TEXT_MAX:
        return value
    text = value if isinstance(value, str) else str(value) if type(value) is int else ""
    if not 0 < len(text) <= TEXT_MAX:
        raise ValueError(f"`{name}` must be text of 1 to {TEXT_MAX} characters or a whole number")
    return text


class Decoded(Struct, frozen=True, gc=False):
    """A valid event before time and order are known."""

    event_id: str
    event_time: int
    key: str
    value: Any
    label: LabelValue | None
    hits: tuple[int, ...] = ()
    """Numbers of the rules that it broke, in the order of the definition (`operators/rules/apply.py`)."""


class EventDecoder:
    """Decode and validate the user's events.

    `event_type` is the user's msgspec Struct; `event_id`, `event_time` and `key` name fields of it,
    `label` too where events carry their own label.
    """

    def __init__(
        self,
        event_type: type[Struct],
        *,
        event_id: str,
        event_time: str,
        key: str,
        label: str | None = None,
        task: Task = "binary",
    ) -> None:
        names_of_fields = {field.name for field in msgspec.structs.fields(event_type)}
        named = {"id": event_id, "time": event_time, "key": key} | ({"label": label} if label else {})
        for role, name in named.items():
            if name not in names_of_fields:
                close = difflib.get_close_matches(name, names_of_fields, 1)
                meant = f"did you mean `{close[0]}`? " if close else ""
                raise DefinitionError(
                    f"the {role} of events: {event_type.__name__} has no field `{name}`",
                    hint=f"{meant}It has: {', '.join(sorted(names_of_fields))}".strip(),
                )
        self._decode = msgspec.json.Decoder(event_type).decode
        self._id, self._key = event_id, key
        self._task: Task = task
        indexes = {name: index for index, name in enumerate(event_type.__struct_fields__)}
        # An event's values are read all at once and found by index: one read by name costs as much.
        label_index = indexes[label] if label else None
        self._indexes = indexes[event_id], indexes[event_time], indexes[key], label_index
        hints = get_type_hints(event_type)
        self._numbers = tuple(
            (name, indexes[name])
            for name in sorted(names_of_fields - {event_id, event_time, key, label})
            if _may_be_number(hints.get(name, Any))
        )

    def decode(self, record: Record) -> Decoded | Rejected:
        """Return the event, or why it is none."""
        return self.decode_all((record,))[0]

    def decode_all(self, records: Iterable[Record]) -> list[Decoded | Rejected]:
        """Return for each record, in order, the event or why it is none.

        Nearly every event is small and flat, its id and key are short text and its time is a whole number:
        that is checked here; all others go to the functions that check every case.
        """
        parse, numbers, binary = self._decode, self._numbers, self._task == "binary"
        id_at, time_at, key_at, label_at = self._indexes
        events: list[Decoded | Rejected] = []
        for record in records:
            payload = record.value
            if (
                payload is None
                or len(payload) > SMALL_BYTES_MAX
                or payload.rfind(b"{") > 0
                or _BRACKET in payload
                or len(record.key or b"") > KEY_BYTES_MAX
            ):
                checked = _payload(record, "decode", "event")
                if isinstance(checked, Rejected):
                    events.append(checked)
                    continue
                payload = checked
            try:
                value = parse(payload)
                fields = astuple(value)
                for name, at in numbers:
                    number = fields[at]
                    if type(number) in _NUMBERS and not -NUMBER_MAX <= number <= NUMBER_MAX:
                        raise ValueError(f"number beyond {NUMBER_MAX:g} - at `$.{name}`")  # noqa: TRY301
                event_id, key, event_time = fields[id_at], fields[key_at], fields[time_at]
                if type(event_id) is not str or not 0 < len(event_id) <= TEXT_MAX:
                    event_id = _text(event_id, self._id)
                if type(key) is not str or not 0 < len(key) <= TEXT_MAX:
                    key = _text(key, self._key)
                if type(event_time) is not int or not SECONDS_LOOK <= event_time <= TIME_MAX:
                    event_time = time_ms(event_time)
                label = None if label_at is None else fields[label_at]
                if label is not None and not (binary and type(label) is bool):
                    label = label_value(label, self._task)
            except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
                events.append(_rejected(record, error))
                continue
            events.append(Decoded(event_id, event_time, key, value, label))
        return events


def _may_be_number(hint: object) -> bool:
    return any(word in str(hint) for word in ("int", "float", "Any", "object"))


class LabelNames(NamedTuple):
    """The names of a label message's fields."""

    event_id: str = "event_id"
    label: str = "label"
    label_time: str = "label_time"
    weight: str = ""
    """Empty, as the next three: it is not read."""
    sampled: str = ""
    source: str = ""
    kind: str = ""


class LabelMessage(Struct):
    """What turned out to be true for one event, as on the labels topic; other fields are ignored.

    The record's key must be that of the event.
    """

    event_id: str | int
    """Id of the event."""
    label: bool | int | float | str
    """What turned out to be true."""
    label_time: int | str
    """When it became known: ms, or RFC 3339 text with an offset."""


@cache
def label_message(names: LabelNames) -> type[Struct]:
    """Return the type of label messages whose fields have these names.

    Where there are several kinds a message says which it is, and may leave the label out.
    """
    renamed = {name: told for name, told in names._asdict().items() if told}
    fields = {**get_type_hints(LabelMessage), "weight": float, "sampled": float, "source": str | int}
    told: list[Any] = [(name, kind) for name, kind in fields.items() if name in renamed]
    if names.kind:
        told = [(name, kind) for name, kind in told if name != "label"]
        told += [("label", LabelValue | None, None), ("kind", str | None, None)]
    return msgspec.defstruct("LabelMessage", told, bases=(LabelMessage,), rename=renamed, kw_only=True)


def kind_value(
    label: LabelValue | None, worth: float, task: Task, classes: type | None = None
) -> tuple[LabelValue, float]:
    """Return the label and the weight of feedback of a kind that is worth so much; None: without a label.

    Of a regression the worth is a factor of the label, and the label itself where there is none.  Otherwise
    it is the weight, and a binary label that is left out is true.

    >>> kind_value(2, 10.0, "regression"), kind_value(None, 10.0, "regression")
    ((20.0, 1.0), (10.0, 1.0))
    >>> kind_value(None, 10.0, "binary"), kind_value(0, 10.0, "binary")
    ((True, 10.0), (False, 10.0))
    """
    if task == "regression":
        number = 1.0 if label is None else float(label_value(label, task))
        return label_value(worth * number, task), 1.0
    if label is None and task == "binary":
        return True, worth
    return label_value(label, task, classes), worth


class LabelDecoder:
    """Decode and validate label messages; fields that are not named are ignored."""

    def __init__(
        self,
        task: Task,
        names: LabelNames | None = None,
        *,
        classes: type | None = None,
        weight_max: float = math.inf,
        kinds: Mapping[str, float] | None = None,
    ) -> None:
        """`classes` says what a class label is: `str`, `int`, or None for both.

        `kinds` are the kinds of feedback and what each is worth (`kind_value`); None: there is one.
        """
        names = names or LabelNames()
        self._weight_max = weight_max
        self._more = bool(names.weight or names.sampled or names.source)
        self._classes = classes
        self._names = names
        self._task: Task = task
        self._kinds = kinds
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(label_message(names)).decode

    def decode(self, record: Record) -> Label | Rejected:
        """Return the label, or why it is none."""
        payload = _payload(record, "label", "label")
        if isinstance(payload, Rejected):
            return payload
        try:
            message = self._decode(payload)
            if self._kinds is None:
                value, kind, weight = label_value(message.label, self._task, self._classes), "", 1.0
            else:
                value, kind, weight = self._of_kind(message, self._kinds)
            event_id = _text(message.event_id, self._names.event_id)
            label = Label(event_id, value, time_ms(message.label_time), record.offset, kind, weight)
            return self._with_more(label, message) if self._more else label
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
            return _rejected(record, error)._replace(stage="label")

    def _with_more(self, label: Label, message: Any) -> Label:
        """Return a label with its weight and its source."""
        names, weight, source = self._names, 1.0, ""
        if names.weight:
            weight = self._weight(message.weight, names.weight, message.weight)
        if names.sampled:
            share = message.sampled
            if not 0.0 < share <= 1.0:
                raise ValueError(f"{names.sampled} is {share!r}, no probability above 0")
            weight = self._weight(1.0 / share, names.sampled, share)
        if names.source:
            source = _text(message.source, names.source)
        both = self._weight(label.weight * weight, names.weight or names.sampled or names.kind, weight)
        return replace(label, weight=both, source=source)

    def _weight(self, weight: float, name: str, told: float) -> float:
        if not 0.0 < weight <= self._weight_max:
            raise ValueError(
                f"{name} is {told!r}: a weight of {weight:g} is not in (0, {self._weight_max:g}]"
            )
        return weight

    def _of_kind(self, message: Any, kinds: Mapping[str, float]) -> tuple[LabelValue, str, float]:
        """Return label, kind and weight of feedback.  Raises ValueError for a kind that is not named."""
        kind = message.kind
        if kind not in kinds:
            named = ", ".join(map(repr, kinds))
            raise ValueError(f"`{self._names.kind}` is {repr(kind)[:TEXT_MAX]}, not one of {named}")
        label, weight = kind_value(message.label, kinds[kind], self._task, self._classes)
        return label, kind, weight


def _rejected(record: Record, error: Exception) -> Rejected:
    error_type = type(error)
    name = (
        error_type.__name__
        if error_type.__module__ == "builtins"
        else f"{error_type.__module__}.{error_type.__name__}"
    )
    return Rejected(record, "decode", name, str(error))


_encoder = msgspec.json.Encoder()
encode: Callable[[Struct], bytes] = _encoder.encode
"""One message as canonical JSON: fields in declared order, floats in shortest exact form."""

Message = TypeVar("Message")


def decoder_of(message: type[Message]) -> Callable[[bytes], Message]:
    """Return the function that decodes messages of ours, which raises msgspec's errors and no other.

    >>> decoder_of(Slow)(b'{"x":' * 100_000)
    Traceback (most recent call last):
        ...
    msgspec.DecodeError: maximum recursion depth exceeded while deserializing an object
    """
    decode = msgspec.json.Decoder(message).decode

    def decoded(value: bytes) -> Message:
        try:
            return decode(value)
        except msgspec.MsgspecError:
            raise
        except (ValueError, RecursionError, OverflowError) as error:  # bad UTF-8, and nested too deep
            raise msgspec.DecodeError(str(error)) from None

    return decoded


decode_prediction: Callable[[bytes], Prediction] = decoder_of(Prediction)
decode_decision: Callable[[bytes], Decision] = decoder_of(Decision)
decode_pointer: Callable[[bytes], ModelPointer] = decoder_of(ModelPointer)
decode_example: Callable[[bytes], Example] = decoder_of(Example)
decode_claim: Callable[[bytes], Claim] = decoder_of(Claim)
decode_field: Callable[[bytes], FieldChange] = decoder_of(FieldChange)
decode_slow: Callable[[bytes], Slow] = decoder_of(Slow)
decode_block: Callable[[bytes], Block] = decoder_of(Block)
decode_alert: Callable[[bytes], AlertRecord] = decoder_of(AlertRecord)
decode_quarantine: Callable[[bytes], Quarantine] = decoder_of(Quarantine)
decode_status: Callable[[bytes], WorkerStatus] = decoder_of(WorkerStatus)


def encode_json(value: object) -> bytes:
    """Return any plain value (numpy numbers too) as one line of JSON, keys as they stand."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


class _Identified(msgspec.Struct):
    command_id: str = ""


_command: Callable[[bytes], Command] = msgspec.json.Decoder(Command).decode
_identified: Callable[[bytes], _Identified] = msgspec.json.Decoder(_Identified).decode


def decode_command(value: bytes) -> Command:
    """Return the command that is `value`.

    >>> decode_command(b'{"command_id": "1", "command": "un", "time": 0}')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: Invalid enum value 'un' - at `$.command`: promote | rollback | pin | unpin | ...

    Raises ValueError with the reason if it is no command.
    """
    if len(value) > COMMAND_BYTES_MAX:
        raise ValueError(f"a command has at most {COMMAND_BYTES_MAX:,} bytes")
    try:
        command = _command(value)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        words = f": {' | '.join(get_args(CommandWord))}" if "at `$.command`" in str(error) else ""
        raise ValueError(f"{error}{words}") from None
    if not 0 < len(command.command_id) <= TEXT_MAX:
        raise ValueError(f"command_id has 1 to {TEXT_MAX} characters")
    return command


def command_id(value: bytes) -> str:
    """Return the `command_id` of bytes that may be no command; empty where there is none.

    >>> command_id(b'{"command_id": "1", "command": 7}'), command_id(b"un")
    ('1', '')
    """
    try:
        return _identified(value).command_id if len(value) <= COMMAND_BYTES_MAX else ""
    except (ValueError, RecursionError):
        return ""
