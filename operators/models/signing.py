"""Signed bytes: who wrote them is known before anything in them is read.

Lives here: the keys of a pipeline, the form of a signed artefact, its MAC.  Never here: what a payload is
(`artefacts.py`), where keys come from, files.

    magic "HDRC" | format | key id | length of meta | length of payload | meta | payload | MAC
         4           2        8            4                 8            JSON    pickle    32

Strategy: limits and lengths first, then the key id, then HMAC-SHA256 over all before it, compared in constant
time; only then is anything parsed.  The MAC covers meta, so that a registry can bind name, version and a
number that only grows into it and refuse an older model that was signed too.

A key id is made from the key, not chosen: two workers that call a key by different names still agree, an
artefact of the time when there was one key without a name is no special case, and no name can be used twice.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping

from topics.errors import ModelError
from topics.signatures import KEY_BYTES_MIN

__all__ = ["ARTEFACT_BYTES_MAX", "SigningKeys", "opened", "resigned", "sealed"]

MAGIC = b"HDRC"
FORMAT = 1
ARTEFACT_BYTES_MAX = 256 * 1024 * 1024
"""A model beyond this takes seconds to store and Redis refuses values of 512 MB."""
META_BYTES_MAX = 64 * 1024
"""Names, versions and offsets; a few hundred bytes."""

_HEAD = struct.Struct(">4sH8sIQ")
_MAC_BYTES = hashlib.sha256().digest_size


class SigningKeys:
    """Keys by name: the first one signs, all verify.

    >>> keys = SigningKeys({"2026-11": b"the key of November", "2026-05": b"the key of May 2026"})
    >>> keys
    SigningKeys(2026-11 107625f490e89a50, 2026-05 1f38ee983982d1e8)
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Raise ModelError for keys that are too short, and for none."""
        for key in keys.values():
            if len(key) < KEY_BYTES_MIN:
                raise ModelError(
                    f"a model key of {len(key)} bytes is shorter than {KEY_BYTES_MIN}",
                    hint="use 32 random bytes, e.g. from `openssl rand -hex 32`",
                )
        if not keys:
            raise ModelError("there is no key to sign models with", hint="set HEADRACE_SIGNING_KEY")
        self._keys = {_key_id(key): key for key in keys.values()}
        self.names = {name: _key_id(key).hex() for name, key in keys.items()}
        """Ids by name, the one that signs first."""
        self.first = next(iter(self._keys))
        """The id of the key that signs."""

    def mac(self, key_id: bytes, body: bytes) -> bytes:
        """Return the MAC of `body` by the key of an id.  Raises ModelError where there is no such key."""
        key = self._keys.get(key_id)
        if key is None:
            raise ModelError(
                f"artefact signed with key {key_id.hex()}, ours: {self._told()}",
                hint="give every process of the pipeline the same signing keys, and keep an old one until "
                "all that it signed is signed anew: headrace models resign PIPELINE.py",
            )
        return hmac.digest(key, body, "sha256")

    def _told(self) -> str:
        return ", ".join(f"{name} {key_id}".strip() for name, key_id in self.names.items())

    def __repr__(self) -> str:
        """Return names and ids, never a key."""
        return f"{type(self).__name__}({self._told()})"


def sealed(about: bytes, payload: bytes, keys: SigningKeys) -> bytes:
    """Return meta and payload as one signed artefact.  Raises ModelError for what is too large."""
    if len(about) > META_BYTES_MAX:
        raise ModelError(
            f"meta of {len(about)} bytes is larger than {META_BYTES_MAX}",
            hint="keep meta to names and numbers",
        )
    _check_size(_HEAD.size + len(about) + len(payload) + _MAC_BYTES)
    body = _HEAD.pack(MAGIC, FORMAT, keys.first, len(about), len(payload)) + about + payload
    return body + keys.mac(keys.first, body)


def opened(data: bytes, keys: SigningKeys) -> tuple[bytes, bytes]:
    """Return meta and payload of an artefact once lengths, key and MAC are right.

    Raises ModelError, with what to do, for anything else; nothing is parsed.
    """
    _check_size(len(data))
    if len(data) < _HEAD.size + _MAC_BYTES or not data.startswith(MAGIC):
        raise ModelError(
            f"{len(data)} bytes are no model artefact", hint="look for what else writes to this place"
        )
    _, number, key_id, about_size, payload_size = _HEAD.unpack_from(data)
    if number != FORMAT:
        raise ModelError(
            f"artefact of format {number}, this version reads format {FORMAT}",
            hint="run the version that stored it, or learn the model again from the examples log",
        )
    end = _HEAD.size + about_size + payload_size
    body, mac = data[:end], data[end:]
    wanted = keys.mac(key_id, body)
    if about_size > META_BYTES_MAX or len(mac) != _MAC_BYTES:
        raise ModelError(
            f"artefact of {len(data)} bytes should have {end + _MAC_BYTES}: it was cut short or added to",
            hint="load the version before it",
        )
    if not hmac.compare_digest(wanted, mac):
        raise ModelError(
            "the artefact was changed after it was signed",
            hint="load the version before it, and find out who can write here",
        )
    return body[_HEAD.size : _HEAD.size + about_size], body[_HEAD.size + about_size :]


def resigned(data: bytes, keys: SigningKeys) -> bytes:
    """Return an artefact signed by the first key: itself where it is, or where it is no artefact.

    Raises ModelError for an artefact that none of the keys signed.
    """
    if not data.startswith(MAGIC) or data[6:14] == keys.first:
        return data
    return sealed(*opened(data, keys), keys)


def _check_size(size: int) -> None:
    if size > ARTEFACT_BYTES_MAX:
        raise ModelError(
            f"an artefact of {size} bytes is larger than {ARTEFACT_BYTES_MAX}",
            hint="bound the model, e.g. max_size of a tree or window_size of a neighbours model",
        )


def _key_id(key: bytes) -> bytes:
    """Return eight bytes that name a key and do not help to guess it."""
    return hmac.digest(key, b"headrace model key id", "sha256")[:8]
