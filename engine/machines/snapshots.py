"""A learner's line-up as a signed snapshot, and a roster that follows it in another process.

Lives here: what a snapshot holds, what of it is signed, which one is newer, what is refused.  Never here:
where snapshots lie and how often they are made (`engine/worker/snapshots.py`), how a model becomes bytes
(`operators/models/artefacts.py`).

A snapshot is a cut of the line-up between two records of the examples log:

    head          who races, champion and fallback chain, threshold, routing table, prior, and of each model
                  the SHA-256 of its bytes; itself an artefact, so signed, bound to pipeline and number
    model/NAME    the model as the learner's own codec stores it, written again only where it has changed

The **number** of a snapshot is how far the learner has come in its log (`Learner.progress`).  A learner is a
fold of that log, so whoever made it, the higher number is the later state of the same models: a roster takes
no lower one, and needs no clock and no claim to know.

Nothing is unpickled before the head's MAC, its pipeline and its number were right, and a model only if its
bytes have the digest that the head names: an old model under a new head is refused as a changed byte is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import msgspec

from engine.machines.field_records import Codec, FieldSource
from engine.machines.learner import Learner
from operators.models.artefacts import dump, load, meta_of
from operators.models.scoring import Racer, Roster
from operators.models.signing import SigningKeys
from operators.models.table import Table
from operators.race.field import RaceField
from operators.state import StateDelta, StateEntries
from topics.errors import ModelError

__all__ = [
    "Opened",
    "ServedRacer",
    "SnapshotError",
    "SnapshotHead",
    "SnapshotMaker",
    "SnapshotReader",
]

HEAD = "head"
MODEL = "model/"

Number = tuple[int, int]
"""`Learner.progress` where a snapshot was taken."""
Why = Literal["signature", "older", "field", "model"]
"""Why a snapshot is refused."""


class ServedRacer(msgspec.Struct, frozen=True, array_like=True):
    """One racer of a snapshot, as `Racer`, and the digest of its model's bytes."""

    name: str
    version: int
    updates: int
    definition: str
    learns: bool
    twin_of: str
    challenge: str
    begun: int
    since: int
    alias: str
    """Its place in the race, as the arena has it."""
    digest: bytes


class SnapshotHead(msgspec.Struct, frozen=True):
    """All of a snapshot but its models."""

    number: Number
    time_ms: int
    """When it was taken, by the leader's clock."""
    field_id: str
    """Of the field that holds: it says which classes the models may name."""
    examples: int
    """Examples learned."""
    position: int
    """Next offset of the log to fold."""
    champion: str
    previous: tuple[str, ...]
    quarantined: tuple[str, ...]
    threshold: float
    lineup: int
    routing: Table | None
    prior: bytes
    racers: tuple[ServedRacer, ...]
    paused: bool = False
    pinned: bool = False


class SnapshotError(ModelError):
    """A snapshot that is not served, and which kind of reason it is."""

    def __init__(self, why: Why, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.why = why


_decode_head = msgspec.msgpack.Decoder(SnapshotHead).decode
_decode_number = msgspec.json.Decoder(Number).decode


# -- the leader's side -----------------------------------------------------------------------------------


class SnapshotMaker:
    """What has changed of a learner's line-up since the last snapshot, as entries for a store."""

    def __init__(self, pipeline: str, keys: SigningKeys) -> None:
        self._pipeline = pipeline
        self._keys = keys
        self._number: Number | None = None
        self._stored: dict[str, tuple[object, bytes]] = {}
        """Models as of the last snapshot: name -> (state, digest of their bytes)."""
        self._there: set[str] = set()
        """Names of entries that lie in the store."""

    def begin(self, there: Iterable[str]) -> None:
        """Begin anew over a store that holds entries of these names: the next snapshot is whole."""
        self._number = None
        self._stored.clear()
        self._there = set(there)

    def take(self, learner: Learner, now_ms: int) -> tuple[bytes, StateDelta] | None:
        """Return the meta and the changed entries of a snapshot of this moment; None where nothing changed.

        Call between two folds.  Raises ModelError for a model that cannot be stored.
        """
        number = learner.progress
        if number == self._number:
            return None
        roster, delta, racers = learner.roster, dict[str, bytes | None](), []
        for racer in roster.racers.values():
            state = learner.model_state(racer)
            known = self._stored.get(racer.name)
            if known is None or known[0] != state:
                data = learner.dumped(racer)
                delta[MODEL + racer.name] = data
                known = self._stored[racer.name] = (state, sha256(data).digest())
            racers.append(_served(racer, learner.arena.states[racer.name], known[1]))
        for gone in self._stored.keys() - roster.racers.keys():
            del self._stored[gone]
        names = {MODEL + name for name in roster.racers}
        delta |= dict.fromkeys(self._there - names - {HEAD})
        self._there = names
        delta[HEAD] = self._head(learner, number, tuple(racers), now_ms)
        self._number = number
        return msgspec.json.encode(number), delta

    def _head(self, learner: Learner, number: Number, racers: tuple[ServedRacer, ...], now_ms: int) -> bytes:
        roster = learner.roster
        head = SnapshotHead(
            number,
            now_ms,
            learner.fields.field_id,
            learner.examples,
            learner.position,
            roster.champion,
            roster.previous,
            tuple(sorted(roster.quarantined)),
            roster.threshold,
            roster.lineup,
            roster.routing,
            roster.prior.snapshot()["prior"],
            racers,
            learner.paused,
            learner.pinned,
        )
        meta = {"snapshot_of": self._pipeline, "number": number}
        return dump(msgspec.msgpack.encode(head), keys=self._keys, meta=meta)


def _served(racer: Racer, alias: str, digest: bytes) -> ServedRacer:
    return ServedRacer(
        racer.name,
        racer.version,
        racer.updates,
        racer.definition,
        racer.learns,
        racer.twin_of,
        racer.challenge,
        racer.begun,
        racer.since,
        alias,
        digest,
    )


# -- the follower's side ---------------------------------------------------------------------------------


class Opened(NamedTuple):
    """A snapshot whose head was found to be right; its models are bytes yet."""

    head: SnapshotHead
    codec: Codec
    changed: Mapping[str, bytes]
    """The models whose bytes are other than those that are served, by name of the racer."""


class SnapshotReader:
    """A roster that takes newer snapshots, and never an older one.

    `roster` is the one that scorers read.  `own` is the field of this process' file, `source` has others.
    """

    def __init__(
        self, pipeline: str, keys: SigningKeys, own: RaceField, source: FieldSource, roster: Roster
    ) -> None:
        self._pipeline = pipeline
        self._keys = keys
        self._own = own
        self._source = source
        self._roster = roster
        self._codec: tuple[str, Codec] | None = None
        """The codec of the last snapshot's field, by id: to make one tries every model."""
        self.number: Number = (0, 0)
        """Of what is served: nothing below it is taken."""
        self.head: SnapshotHead | None = None
        """Of the snapshot that is served; None where a learner's own models are."""

    def serve_learner(self, learner: Learner) -> None:
        """Take note that the roster holds a learner's own models, as far as it has come."""
        self.number, self.head = learner.progress, None

    def number_of(self, meta: bytes) -> Number:
        """Return the number that a store gives for its snapshot: not signed, only worth a look.

        Raises SnapshotError where it gives none.
        """
        try:
            number: Number = _decode_number(meta)
        except msgspec.MsgspecError as error:
            raise SnapshotError(
                "signature",
                f"the store's snapshot has no number: {error}",
                hint="look for what else writes there",
            ) from None
        return number

    def opened(self, entries: StateEntries) -> Opened:
        """Check a snapshot up to its models.  Raises SnapshotError; nothing has changed then."""
        head = self._head(entries)
        served = {} if self.head is None else {racer.name: racer.digest for racer in self.head.racers}
        changed: dict[str, bytes] = {}
        for racer in head.racers:
            data = entries.get(MODEL + racer.name, b"")
            if sha256(data).digest() != racer.digest:
                raise SnapshotError(
                    "signature",
                    f"the bytes of `{racer.name}` are not those that the snapshot names",
                    hint="find out who else can write to the store",
                )
            if served.get(racer.name) != racer.digest:
                changed[racer.name] = data
        return Opened(head, self._codec_of(head.field_id), changed)

    def _head(self, entries: StateEntries) -> SnapshotHead:
        data = entries.get(HEAD, b"")
        try:
            meta = meta_of(data, keys=self._keys)
        except ModelError as error:
            raise SnapshotError("signature", error.message, hint=error.hint) from error
        if meta.get("snapshot_of") != self._pipeline:
            raise SnapshotError(
                "signature",
                f"the snapshot is not of {self._pipeline} but of {meta.get('snapshot_of')}",
                hint="find out who else can write to the store",
            )
        number = meta["number"]
        if tuple(number) < self.number:
            raise SnapshotError(
                "older",
                f"the snapshot is of {number}, and what is served here of {list(self.number)}",
                hint="nothing to do if the store went back: the leader publishes again",
            )
        try:
            packed, _ = load(data, keys=self._keys, allowed=frozenset())
            return _decode_head(packed)
        except (ModelError, msgspec.MsgspecError) as error:
            raise SnapshotError("model", f"the snapshot's head cannot be read: {error}") from error

    def _codec_of(self, field_id: str) -> Codec:
        if self._codec is None or self._codec[0] != field_id:
            try:
                field = self._own if field_id == self._own.field_id else self._source.field(field_id)
                self._codec = field_id, self._source.codec(field)
            except ModelError as error:
                raise SnapshotError("field", error.message, hint=error.hint) from error
        return self._codec[1]

    def model(self, opened: Opened, name: str) -> Any:
        """Return a changed model.

        Raises SnapshotError where it names what its field's models do not, or cannot be built.
        """
        try:
            return opened.codec[1](opened.changed[name])
        except ModelError as error:
            raise SnapshotError("model", f"`{name}`: {error.message}", hint=error.hint) from error

    def serve(self, opened: Opened, models: Mapping[str, Any]) -> None:
        """Put a snapshot in place, with its changed models: all at one moment."""
        head, roster = opened.head, self._roster
        racers = {}
        for one in head.racers:
            model = models[one.name] if one.name in models else roster.racers[one.name].model
            racers[one.name] = Racer(
                one.name,
                model,
                version=one.version,
                updates=one.updates,
                definition=one.definition,
                learns=one.learns,
                twin_of=one.twin_of,
                challenge=one.challenge,
                begun=one.begun,
                since=one.since,
            )
        roster.racers = racers
        roster.champion, roster.previous = head.champion, head.previous
        roster.quarantined = set(head.quarantined)
        roster.threshold, roster.lineup, roster.routing = head.threshold, head.lineup, head.routing
        roster.prior.restore({"prior": head.prior})
        roster.revision += 1
        self.number, self.head = head.number, head
