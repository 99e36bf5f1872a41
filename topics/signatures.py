"""Who sent a command: HMAC-SHA256 over its topic and its bytes, in a header.

Lives here: signing, and telling by which key a record was signed.  Never here: where keys come from, what a
command does.

The topic is part of what is signed: a command to one pipeline is none to another with the same keys.  That
the same record is sent again is caught by its `command_id`, which acts once.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256

from msgspec.structs import replace

from topics.codec import decode_command
from topics.headers import COMMAND, REFUSED, SIGNATURE, SIGNER, text_of
from topics.messages import Command, Headers, Record

__all__ = ["KEY_BYTES_MIN", "admission", "admitted_command", "check_key", "signed_by", "signer_of"]

KEY_BYTES_MIN = 16
"""Shorter keys can be guessed."""
KEY_VARIETY_MIN = 8
"""Different bytes in a key: `openssl rand -hex 32` gives 16, a word that was repeated fewer."""


def check_key(name: str, key: bytes) -> None:
    """Raise ValueError, whose text says what is wrong with the key `name`, for one that can be guessed.

    >>> check_key("the key of ada", b"ada ada ada ada ada")
    Traceback (most recent call last):
        ...
    ValueError: the key of ada repeats itself and can be guessed: use `openssl rand -hex 32`
    """
    if len(key) < KEY_BYTES_MIN:
        raise ValueError(f"{name} has less than {KEY_BYTES_MIN} bytes and can be guessed")
    if len(set(key)) < KEY_VARIETY_MIN:
        raise ValueError(f"{name} repeats itself and can be guessed: use `openssl rand -hex 32`")


def signed_by(name: str, key: bytes, *, topic: str, value: bytes) -> Headers:
    """Return the header by which `value`, written to `topic`, is known to come from the holder of a key.

    `name` says which key, and so who asks.

    >>> ((name, value),) = signed_by("ada", b"sixteen bytes or more", topic="flights.commands", value=b"{}")
    >>> name, value[:12]
    ('headrace-signature', b'ada:0aaceb27')
    """
    return ((SIGNATURE, f"{name}:{_mac(key, topic, value)}".encode()),)


def signer_of(headers: Headers, keys: Mapping[str, bytes], *, topic: str, value: bytes) -> str:
    """Return the name of the key that signed `value` for `topic`.

    Raises ValueError, whose text is the reason, where none of `keys` did.

    >>> key = {"ada": b"sixteen bytes or more"}
    >>> sent = signed_by("ada", key["ada"], topic="flights.commands", value=b"{}")
    >>> signer_of(sent, key, topic="flights.commands", value=b"{}")
    'ada'
    >>> signer_of(sent, key, topic="flights.commands", value=b"{ }")
    Traceback (most recent call last):
        ...
    ValueError: it was not signed with the key of `ada`, or it was changed on its way
    """
    name, _, mac = text_of(headers, SIGNATURE).rpartition(":")
    if not mac:
        raise ValueError("it is not signed, and only signed commands are taken here")
    if name not in keys:
        raise ValueError("it is signed by somebody whose key is not known here")
    if not hmac.compare_digest(mac.encode(), _mac(keys[name], topic, value).encode()):
        raise ValueError(f"it was not signed with the key of `{name}`, or it was changed on its way")
    return name


def admission(headers: Headers, keys: Mapping[str, bytes], *, topic: str, value: bytes) -> Headers:
    """Return the headers under which a command goes into the examples log, where it acts or is refused.

    With `keys` they say whose key signed it, or why nobody's did; without any, everybody may command.
    """
    if not keys:
        return COMMAND
    try:
        return (*COMMAND, (SIGNER, signer_of(headers, keys, topic=topic, value=value).encode()))
    except ValueError as reason:
        return (*COMMAND, (REFUSED, str(reason).encode()))


def admitted_command(record: Record) -> Command:
    """Return the command of a record of the examples log; its `actor` is who signed it, where one did.

    Raises ValueError with the reason if it is no command.
    """
    command = decode_command(record.value or b"")
    signer = text_of(record.headers, SIGNER)
    return replace(command, actor=signer) if signer else command


def _mac(key: bytes, topic: str, value: bytes) -> str:
    place = topic.encode()
    return hmac.new(key, len(place).to_bytes(4, "big") + place + value, sha256).hexdigest()
