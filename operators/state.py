"""What every operator promises.

An operator remembers something between events.  It takes values in log order, returns
values, never reads a clock and never calls the next step.  The suite in
`tests/promises/test_contract.py` finds every class of `operators/` that has these three methods
and checks: equal inputs give equal outputs, inputs are left as they were, and
snapshot -> restore -> continue equals continue, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

__all__ = ["Operator", "StateDelta", "StateEntries", "StoredEntries"]

StateEntries = Mapping[str, bytes]
"""The whole state of an operator: entry name -> bytes."""
StateDelta = dict[str, bytes | None]
"""What changed: entry name -> new bytes, or None where the entry is gone."""


class Operator(Protocol):
    """State as named entries, so that a checkpoint writes only what changed."""

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state.  Changes nothing, `delta()` included."""
        ...

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last `delta()` or `restore()`.

        Applying every delta in order to an empty mapping gives `snapshot()`.
        """
        ...

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state by `entries` (of an operator built with equal arguments)."""
        ...


class StoredEntries(Protocol):
    """The entries of an operator as the last committed checkpoint holds them, for one that has too many.

    Names are ordered by code point.
    """

    def get(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of these entries that are there."""
        ...

    def scan(self, after: str, before: str, count: int) -> list[str]:
        """Return the first `count` names between `after` and `before`, both excluded, in order."""
        ...

    def count(self, prefix: str) -> int:
        """Return how many names begin with `prefix`."""
        ...
