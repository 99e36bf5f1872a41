"""Who serves before anything is proven, where a definition names no champion.

Lives here: the opening of a race: that it has started, and who leads it.  Never here: what ends it
(`learning.py`), the proof of a challenger (`evidence.py`).

Nearly all that users lose, they lose before the first swap, while whoever happens to stand first serves.  So

    blend     a blend of all serves from the first event, and is a champion like any other
    leader    whoever has the lowest sum of losses serves, looked at every LOOK_EVERY examples

until the first verdict, or a person, names a champion.  A start, and a change of the leader, is a decision of
its own and no swap: nothing was proven, and the promise about false swaps does not cover it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from operators.race.blend import OpeningName
from operators.state import StateEntries, WholeState

__all__ = ["Opening"]

LOOK_EVERY = 32
"""Examples between two looks at who leads: a change of hands with each label would teach users nothing."""


class _OpeningState(msgspec.Struct):
    kind: OpeningName
    told: bool = False
    examples: int = 0
    sums: dict[str, float] = {}
    over: bool = False


class Opening(WholeState):
    """The opening of one race.

    >>> opening = Opening("leader")
    >>> opening.add("a", {"a": 0.5, "b": 0.1})
    'a'
    >>> [leads for _ in range(31) if (leads := opening.add("a", {"a": 0.5, "b": 0.1}))]
    ['b']
    >>> opening.end(), opening.add("b", {"a": 0.0, "b": 1.0})
    (None, None)
    """

    def __init__(self, kind: OpeningName) -> None:
        self._state = _OpeningState(kind)

    @property
    def kind(self) -> OpeningName | None:
        """Return how the race opens; None once the opening is over."""
        return None if self._state.over else self._state.kind

    @property
    def sums(self) -> dict[str, float]:
        """Return the sum of losses of every racer, over the examples of which all had an opinion."""
        return self._state.sums

    def add(self, champion: str, losses: Mapping[str, float | None]) -> str | None:
        """Add the losses of one example; return who is to serve, where that must be told, mostly None.

        At the first example that is whoever serves already.
        """
        state = self._state
        if state.over:
            return None
        self._dirty = True
        if not state.told:
            state.told = True
            leads: str | None = champion
        else:
            leads = None
        if state.kind == "blend":
            return leads
        self._sum(losses)
        state.examples += 1
        if state.examples % LOOK_EVERY == 0 and state.sums:
            first = min(state.sums.values())
            if state.sums.get(champion, first + 1.0) > first:
                return min(state.sums, key=state.sums.__getitem__)
        return leads

    def _sum(self, losses: Mapping[str, float | None]) -> None:
        """Add losses to the sums; who is new begins with the largest sum, who has left has none."""
        sums = self._state.sums
        if sums.keys() != losses.keys():
            worst = max(sums.values(), default=0.0)
            sums = self._state.sums = {name: sums.get(name, worst) for name in losses}
        if None not in losses.values():
            for name, loss in losses.items():
                assert loss is not None
                sums[name] += loss

    def end(self) -> None:
        """End the opening: a champion has been named."""
        self._dirty |= not self._state.over
        self._state.over = True

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"opening": msgspec.msgpack.encode(self._state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; there is none where a file named a champion once: that opening is over."""
        if "opening" in entries:
            self._state = msgspec.msgpack.decode(entries["opening"], type=_OpeningState)
        else:
            self._state.over = True
        self._dirty = False
