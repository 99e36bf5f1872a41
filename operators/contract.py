"""What every operator promises.

An operator remembers something between events.  It takes values in log order, returns
values, never reads a clock and never calls the next step.  The suite in
`tests/test_contract.py` finds every class of `operators/` that has these three methods
and checks: equal inputs give equal outputs, inputs are left as they were, and
snapshot -> restore -> continue equals continue, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Operator", "StateDelta", "StateEntries"]

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
