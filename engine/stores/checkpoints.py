"""What an owner of a partition must find again after a crash, and who may write it.

Lives here: the protocol that every store of checkpoints keeps, and the seal they share.  Never here: how one
keeps it (`sqlite_checkpoints.py`), which one the settings name (`places.py`), what the state means (the
caller names its entries and encodes `meta`), when to save (`loop.py`).

The suite in `tests/engine/stores/test_checkpoints.py` holds for every one of them:

    fence      gives the next claim number, by compare-and-set; from then on every older owner's `save` fails,
               so a process that slept through a rebalance cannot overwrite its successor's work
    save       changed entries, positions and claim are stored together: a crash at any moment leaves the old
               checkpoint or the new one, whole; its cost follows what changed
    load       what is read is what was written, by checksums, or it is refused; where the last checkpoint is
               damaged and the one before is whole, an owner goes back to that
    both       a store that went back (a failover, a backup) takes no delta that was made for another
               checkpoint than it holds: the owner gets a ClaimError, and claims again
    stored     entries that may be too much for memory are kept apart: a load leaves them where they are, and
               the loop reads them one by one, without waiting for a save
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol

from operators.state import StoredEntries

__all__ = ["Checkpoint", "CheckpointStore", "Head", "OwnerRole", "seal_of"]

OwnerRole = Literal["scorer", "learner", "snapshot"]
"""Who saves what: a scorer and a learner what they must find again, a leader the models that others serve."""


class Checkpoint(NamedTuple):
    """A consistent cut: state, and how far it had come."""

    claim: int
    """The owner that wrote it."""
    meta: bytes
    """The caller's own: positions, digest of the definition."""
    entries: dict[str, bytes]
    """The whole state, entry by entry, but for what is kept apart."""
    damage: str = ""
    """Why this is the checkpoint before the last; empty: it is the last."""


class Head(NamedTuple):
    """The claim and the meta of a store, without its entries."""

    claim: int
    """The claim number handed out last; 0: none."""
    meta: bytes | None
    """The last checkpoint's; None before the first save."""


def seal_of(identity: str, *parts: object) -> bytes:
    """Return a digest of `parts` for one partition: what is copied to another partition does not open."""
    sealed = blake2b(identity.encode(), digest_size=16)
    for part in parts:
        text = part if isinstance(part, bytes) else str(part).encode()
        sealed.update(len(text).to_bytes(8, "big") + text)
    return sealed.digest()


class CheckpointStore(Protocol):
    """The checkpoints of one partition of one pipeline.

    Raises CheckpointError, naming the place, if it cannot be read, trusted or written.
    """

    @property
    def place(self) -> str:
        """Return where it is, as messages name it: never with a password."""
        ...

    async def fence(self, *, above: int = 0) -> int:
        """Become the owner: take the next claim number, end every older owner's right to save.

        `above` is the highest claim known from elsewhere (the log), where the store is behind.
        """
        ...

    async def save(self, claim: int, meta: bytes, delta: Mapping[str, bytes | None]) -> None:
        """Apply what changed (None removes an entry) and set `meta`, together.

        If the store refuses, the old checkpoint stays whole, and the next save writes this
        delta too.  Raises ClaimError, with both numbers, if another owner has fenced, and if the store
        holds another checkpoint than this owner has loaded or saved last.
        """
        ...

    async def load(self) -> Checkpoint | None:
        """Return the last checkpoint, None before the first save; nobody needs to own it for that."""
        ...

    async def look(self) -> Head:
        """Return the claim and the meta of the store; changes nothing, and no owner waits for it."""
        ...

    def stored(self, prefix: str) -> StoredEntries:
        """Return the entries that are kept apart under `prefix`, as the last checkpoint has them.

        That is the one loaded last, with all that was saved since.
        """
        ...

    async def close(self) -> None:
        """Let go of files and connections; the store opens them again if asked."""
        ...
