"""Bytes of any kind at every place that reads bytes: a value or a refusal, never another exception.

    python -m loadtest.fuzz TARGET [CORPUS] [-max_total_time=60] [-timeout=5]

The targets are functions of bytes; `tests/promises/test_fuzz.py` gives them what Hypothesis makes up, in
every run of the tests.  This module gives them to Atheris (libFuzzer), which looks at the branches that were
taken; it is installed for that alone (`pip install atheris`), and its options follow the target's name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from operators.models.signing import SigningKeys, opened, resigned
from topics import codec
from topics.errors import ModelError
from topics.letters import letter_of, replay_of
from topics.messages import Headers, Label, Record
from topics.rekeying import decode_rekeying
from topics.signatures import admission
from topics.stored_features import decode_static_row

__all__ = ["TARGETS"]

KEYS = SigningKeys({"fuzz": b"a key that signs nothing of anybody"})
COMMAND_KEYS = {"ada": b"a key that signs nothing of anybody"}


class Payment(msgspec.Struct):
    """An event with a field of each kind, and one that takes anything."""

    event_id: str | int
    event_time: int | str
    card: str
    amount: float | None = None
    count: int | None = None
    tags: dict[str, list[Any]] | None = None
    anything: Any = None


EVENTS = codec.EventDecoder(Payment, event_id="event_id", event_time="event_time", key="card")
LABELS = codec.LabelDecoder("binary")


def _record(value: bytes | None, headers: Headers = (), key: bytes | None = b"k") -> Record:
    return Record("p.events", 0, 0, 0, key, value, headers)


def _events(data: bytes) -> None:
    decoded = EVENTS.decode_all([_record(data), _record(data, key=data)])
    assert len(decoded) == 2
    assert all(isinstance(one, codec.Decoded | codec.Rejected) for one in decoded)


def _labels(data: bytes) -> None:
    assert isinstance(LABELS.decode(_record(data)), Label | codec.Rejected)


def _read_by(decode: Callable[[bytes], Any], data: bytes) -> None:
    with suppress(msgspec.MsgspecError):
        decode(data)


def _commands(data: bytes) -> None:
    with suppress(ValueError):
        codec.decode_command(data)
    assert isinstance(codec.command_id(data), str)


def _signed_commands(data: bytes) -> None:
    (_, kind), (name, why) = admission(_headers(data), COMMAND_KEYS, topic="p.commands", value=data)
    assert (kind, name) == (b"command", "headrace-refused"), "nobody has the key"
    assert why


def _rekeying(data: bytes) -> None:
    decode_rekeying(_record(data))
    decode_rekeying(_record(data, _headers(data)))


def _artefacts(data: bytes) -> None:
    for read in (opened, resigned):
        with suppress(ModelError):
            assert read(data, KEYS) is data, "nobody has the key"


def _letters(data: bytes) -> None:
    with suppress(ValueError):
        record = replay_of(letter_of(_record(data, _headers(data))), {"p.events"})
        assert record.value is not None


def _static_rows(data: bytes) -> None:
    with suppress(ValueError):
        decode_static_row(data)


NAMES = (
    "__streams.errors.exception", "__streams.errors.topic", "__streams.errors.partition",
    "__streams.errors.offset", "headrace.errors.timestamp", "headrace-replayed", "headrace-origin",
    "headrace-kind", "headrace-signature", "headrace-signer", "headrace.errors.value-bytes",
)  # fmt: skip


def _headers(data: bytes) -> Headers:
    """Return headers made of bytes: each part between zero bytes is one, its first byte chooses the name."""
    parts = [part for part in data.split(b"\0")[:20] if part]
    return tuple((NAMES[part[0] % len(NAMES)], part[1:]) for part in parts)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "events": _events,
    "labels": _labels,
    "commands": _commands,
    "signed-commands": _signed_commands,
    "examples": partial(_read_by, codec.decode_example),
    "predictions": partial(_read_by, codec.decode_prediction),
    "claims": partial(_read_by, codec.decode_claim),
    "fields": partial(_read_by, codec.decode_field),
    "quarantines": partial(_read_by, codec.decode_quarantine),
    "rekeying": _rekeying,
    "artefacts": _artefacts,
    "letters": _letters,
    "static-rows": _static_rows,
}
"""What reads bytes from outside; each raises for what is neither a value nor a refusal."""


def main(arguments: Sequence[str]) -> None:
    """Give a target what Atheris makes up, until its time is over; never returns."""
    if len(arguments) < 2 or arguments[1] not in TARGETS:
        sys.exit(f"usage: python -m loadtest.fuzz TARGET [OPTIONS]; targets: {', '.join(TARGETS)}")
    atheris: Any = importlib.import_module("atheris")
    for module in ("topics.codec", "topics.letters", "topics.signatures", "operators.models.signing"):
        loaded = importlib.import_module(module)
        for name, function in vars(loaded).items():
            if getattr(function, "__module__", "") == module and type(function) is type(main):
                setattr(loaded, name, atheris.instrument_func(function))
    target = TARGETS[arguments[1]]
    atheris.Setup([arguments[0], *arguments[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
