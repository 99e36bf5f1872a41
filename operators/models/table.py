"""The routing table: which candidate answers an event, by hash, and with which probability.

Lives here: the table that a scorer holds, the pick, the hash behind both.  Never here: what makes a table
(`operators/serving`), scores (`scoring.py`).

A pick depends on the table and on the event alone: not on the process, the batch, or what was picked
before.  The hash is BLAKE2b (RFC 7693) of a salt and a text, read as a number in [0, 1); Python's own hash
differs from one process to the next.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal, NamedTuple

from msgspec import Struct

__all__ = ["Pick", "Table", "Unit", "number_of", "share_of"]

Unit = Literal["key", "event", "block"]
"""What is assigned as a whole: all events of a key, each event, or all events of a block of event time."""
_DIGITS = 53
"""Bits that a float holds exactly."""
_HALF = 0.5


class Pick(NamedTuple):
    """The candidate that is to answer an event."""

    name: str
    policy: str
    revision: int
    propensity: float | None
    """Probability with which the table picks it, in (0, 1]; None: it had no answer, another one answered."""


def share_of(salt: str, text: str) -> float:
    """Return where a text falls in [0, 1), equally likely anywhere; other salts, other places.

    >>> round(share_of("flights/split", "LAX"), 6), share_of("flights/split", "LAX") < 1.0
    (0.265245, True)
    """
    return (number_of(salt, text) >> (64 - _DIGITS)) / (1 << _DIGITS)


def number_of(salt: str, text: str) -> int:
    """Return a hash of a text, 64 bits."""
    return int.from_bytes(blake2b(f"{salt}\0{text}".encode(), digest_size=8).digest())


class Table(Struct, frozen=True):
    """Shares of the arms, as of one revision.

    The first arm has the hashes from 0 on: where its share grows, it keeps what it had.

    >>> table = Table("split", "flights/split", 3, (("a", 0.5), ("b", 0.5)))
    >>> table.pick("LAX", "e1", 0), table.pick("LAX", "e2", 9) == table.pick("LAX", "e1", 0)
    (Pick(name='a', policy='split', revision=3, propensity=0.5), True)
    """

    policy: str
    """Name of the policy, as on predictions."""
    salt: str
    """Id of this run of the policy: another one assigns anew."""
    revision: int
    """Number of the table: higher than all before."""
    shares: tuple[tuple[str, float], ...]
    """Arms and their shares, which add up to 1.  By blocks: two arms that take turns."""
    unit: Unit = "key"
    block_ms: int = 0
    """Length of a block of event time, ms."""
    tolerated: tuple[str, ...] = ()
    """Arms whose failed scores a guard counts: they cost the event, not the place in the race."""

    def pick(self, key: str, event_id: str, event_time: int) -> Pick:
        """Return who is to answer an event."""
        if self.unit == "block":
            name, share = self.shares[self._turn(event_time // self.block_ms)]
            return Pick(name, self.policy, self.revision, share)
        place = share_of(self.salt, key if self.unit == "key" else event_id)
        end = 0.0
        for name, share in self.shares:
            end += share
            if place < end:
                return Pick(name, self.policy, self.revision, share)
        name, share = next(arm for arm in reversed(self.shares) if arm[1] > 0.0)
        return Pick(name, self.policy, self.revision, share)

    def _turn(self, block: int) -> int:
        """Return which of two arms has a block: both have one of a pair of blocks, in random order."""
        pair, second = divmod(block, 2)
        return second ^ (share_of(self.salt, str(pair)) < _HALF)
