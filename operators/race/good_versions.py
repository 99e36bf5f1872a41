"""Good versions: stored states of each racer that one can go back to.

Lives here: when a state is kept, which one is let go, how it is named.  Never here: who asks for one
(`operators/race/commands.py`), what becomes of it (`operators/race/arena.py`), files.

Strategy: after every `GOOD_EVERY` examples that the race has learned, each healthy racer's model is stored as
bytes; of these `GOOD_KEPT` are held, and less where they are large.  Each is an entry of its own, so a
checkpoint writes a model when it was kept and never again:

    good                         which ones there are
    good/tree/3@40000            a model, written once, removed when its turn is over

A good version is called `VERSION@UPDATES`: the version that it was and the labels that it had learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from operators.models.digest import digest
from operators.models.scoring import Racer, Roster
from operators.race.arena import Moment
from operators.state import Changes, StateDelta, StateEntries
from topics.messages import Decision

__all__ = ["GOOD_EVERY", "GOOD_KEPT", "GoodVersion", "GoodVersions"]

GOOD_EVERY = 10_000
"""Examples between two good versions: one of them lies before a mishap that took hours to see."""
GOOD_KEPT = 5
"""Good versions of each racer."""
GOOD_BYTES_MAX = 64 << 20
"""Of one racer's good versions together; the newest is kept whatever its size."""
GOOD = "good"
Place = tuple[str, str]
"""Racer and label of a good version."""


class GoodVersion(msgspec.Struct, frozen=True):
    """A state of a racer that was kept."""

    version: int
    updates: int
    """Labels that it had learned."""
    examples: int
    """Examples that the race had learned."""
    time: int
    """Largest label time so far, ms."""

    @property
    def label(self) -> str:
        """Return its name, `VERSION@UPDATES`."""
        return f"{self.version}@{self.updates}"


class GoodVersions:
    """A ring of good versions for each racer.

    `dump` and `load` turn models into bytes and back.

    >>> import pickle
    >>> from river import linear_model
    >>> roster = Roster("binary", [Racer("a", linear_model.Perceptron(), version=3)], "a")
    >>> good = GoodVersions(pickle.dumps, pickle.loads, roster)
    >>> good.stop(Moment(offset=12, time=7, examples=10_000))
    []
    >>> [one.label for one in good.of("a")], good.model("a", good.of("a")[0]).weights
    (['3@0'], {})
    """

    def __init__(self, dump: Callable[[Any], bytes], load: Callable[[bytes], Any], roster: Roster) -> None:
        self._dump, self._load = dump, load
        self._roster = roster
        self._kept: dict[str, list[GoodVersion]] = {}
        self._models: dict[Place, bytes] = {}
        self._changes = Changes[Place]()
        self._listed = True
        """Whether the list was changed since the last delta."""

    def copied(self, model: Any) -> Any:
        """Return a copy of a model that shares nothing with it."""
        return self._load(self._dump(model))

    @property
    def stops(self) -> Sequence[int]:
        """Return after how many examples it keeps versions."""
        return (GOOD_EVERY,)

    def stop(self, at: Moment) -> list[Decision]:
        """Keep the present state of each healthy racer, where it is time; nothing is decided."""
        if at.examples % GOOD_EVERY == 0:
            for racer in self._roster.racing():
                self._keep(racer, at)
        return []

    def _keep(self, racer: Racer, at: Moment) -> None:
        """Keep a racer's present state, unless it is the last one that was kept."""
        kept = self._kept.setdefault(racer.name, [])
        if kept and (kept[-1].version, kept[-1].updates) == (racer.version, racer.updates):
            return
        good = GoodVersion(racer.version, racer.updates, at.examples, at.time)
        kept.append(good)
        self._models[racer.name, good.label] = self._dump(racer.model)
        self._changes.add((racer.name, good.label))
        self._listed = True
        while len(kept) > GOOD_KEPT or (len(kept) > 1 and self._bytes_of(racer.name) > GOOD_BYTES_MAX):
            self._drop(racer.name, kept.pop(0))

    def _bytes_of(self, name: str) -> int:
        return sum(len(self._models[name, good.label]) for good in self._kept[name])

    def _drop(self, name: str, good: GoodVersion) -> None:
        del self._models[name, good.label]
        self._changes.remove((name, good.label))
        self._listed = True

    def of(self, name: str) -> list[GoodVersion]:
        """Return the good versions of a racer, oldest first."""
        return list(self._kept.get(name, ()))

    def find(self, label: str, name: str | None = None) -> tuple[str, GoodVersion] | None:
        """Return the racer whose good version this is, and the version; None if it is not kept.

        `name`, where given, is the racer that it must be of.
        """
        for racer, kept in self._kept.items():
            for good in kept:
                if good.label == label and name in {None, racer}:
                    return racer, good
        return None

    def model(self, name: str, good: GoodVersion) -> Any:
        """Return the model of a good version, shared with nobody."""
        return self._load(self._models[name, good.label])

    def figures(self, name: str, good: GoodVersion) -> dict[str, float | int | str]:
        """Return what a decision says of a good version that races again."""
        # A copy is looked into: a look slows an object's attributes for good (CPython 3.11).
        return {"restored": good.label, "updates": good.updates, "digest": digest(self.model(name, good))}

    def forget(self, name: str) -> None:
        """Drop the good versions of a racer that has left the race."""
        for good in self._kept.pop(name, ()):
            self._drop(name, good)

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return self._list() | {_entry(place): model for place, model in self._models.items()}

    def delta(self) -> StateDelta:
        """Return what changed since the last call: each model once."""
        if not self._listed:
            return {}
        self._listed = False
        return self._list() | self._changes.delta(self._models, _entry, bytes)

    def _list(self) -> dict[str, bytes]:
        return {GOOD: msgspec.msgpack.encode(self._kept)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._kept = msgspec.msgpack.decode(entries[GOOD], type=dict[str, list[GoodVersion]])
        self._models = {
            (name, good.label): entries[_entry((name, good.label))]
            for name, of_racer in self._kept.items()
            for good in of_racer
        }
        self._changes.clear()
        self._listed = False


def _entry(place: Place) -> str:
    return f"{GOOD}/{place[0]}/{place[1]}"
