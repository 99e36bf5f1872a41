"""Keys by name: the first signs, all verify, and nothing is read that none of them signed."""

from __future__ import annotations

import hmac
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.models import signing
from operators.models.signing import SigningKeys, opened, resigned, sealed
from topics.errors import ModelError

OLD, NEW = b"the key of the spring of 2026", b"the key of the autumn of 2026"
OLD_ALONE = SigningKeys({"": OLD})
BOTH = SigningKeys({"2026-11": NEW, "2026-05": OLD})


def by_hand(about: bytes, payload: bytes, key: bytes) -> bytes:
    """What the version that knew one key without a name has written, by its documented form."""
    key_id = hmac.digest(key, b"headrace model key id", "sha256")[:8]
    body = struct.pack(">4sH8sIQ", b"HDRC", 1, key_id, len(about), len(payload)) + about + payload
    return body + hmac.digest(key, body, "sha256")


@given(st.binary(max_size=99), st.binary(max_size=99))
def test_what_one_key_signed_is_taken_by_a_ring_that_holds_it(about: bytes, payload: bytes) -> None:
    old = by_hand(about, payload, OLD)
    assert sealed(about, payload, OLD_ALONE) == old
    assert opened(old, BOTH) == (about, payload)
    new = resigned(old, BOTH)
    assert new == by_hand(about, payload, NEW) == sealed(about, payload, BOTH)
    assert resigned(new, BOTH) is new
    with pytest.raises(ModelError, match=OLD_ALONE.first.hex()):
        opened(new, OLD_ALONE)


def test_an_unknown_key_is_named_with_ours() -> None:
    stranger = SigningKeys({"stranger": b"somebody else's, as long as ours"})
    with pytest.raises(ModelError) as caught:
        opened(sealed(b"{}", b"", stranger), BOTH)
    told = str(caught.value)
    assert stranger.first.hex() in told
    assert all(f"{name} {key_id}" in told for name, key_id in BOTH.names.items())
    assert "stranger" not in told, "names are ours alone, and not in what is signed"


@given(st.data())
def test_no_bytes_are_taken_that_nobody_signed(data: st.DataObject) -> None:
    good = sealed(b'{"a":1}', b"payload", BOTH)
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    for made in (
        bytes(bad),
        data.draw(st.binary(max_size=200)),
        good[: data.draw(st.integers(0, len(good) - 1))],
    ):
        with pytest.raises(ModelError):
            opened(made, BOTH)


def test_a_ring_says_names_and_no_key() -> None:
    assert OLD.decode() not in repr(BOTH)
    assert "2026-11" in repr(BOTH)


def test_no_key_is_no_ring() -> None:
    for keys, said in (({}, "no key"), ({"a": b"short"}, "shorter than 16")):
        with pytest.raises(ModelError, match=said):
            SigningKeys(keys)


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sealed(b"", b"x" * 500, BOTH)
    with pytest.raises(ModelError, match="meta of"):
        sealed(b"x" * (signing.META_BYTES_MAX + 1), b"", BOTH)
    monkeypatch.setattr(signing, "ARTEFACT_BYTES_MAX", 500)
    for refused in (lambda: sealed(b"", b"x" * 500, BOTH), lambda: opened(data, BOTH)):
        with pytest.raises(ModelError, match="larger than 500"):
            refused()
