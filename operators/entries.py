"""The state of several operators under one roof: their entries, each under the operator's name.

Lives here: putting names in front of entries, and taking them off, for one operator or for all.
Never here: what an entry holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from operators.state import Operator, StateDelta, StateEntries

__all__ = ["delta_of", "named", "restore_into", "snapshot_of", "under"]

Data = TypeVar("Data", bytes, bytes | None)


def named(parts: Mapping[str, Mapping[str, Data]]) -> dict[str, Data]:
    """Return the entries of all parts as one mapping.

    >>> named({"join": {"a": b"1"}, "hold": {"a": b"2"}})
    {'join/a': b'1', 'hold/a': b'2'}
    """
    return {f"{part}/{name}": data for part, entries in parts.items() for name, data in entries.items()}


def under(part: str, entries: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the entries of one part, under the part's own names.

    >>> under("join", {"join/a": b"1", "hold/a": b"2"})
    {'a': b'1'}
    """
    cut = len(part) + 1
    return {name[cut:]: data for name, data in entries.items() if name.startswith(f"{part}/")}


def snapshot_of(parts: Mapping[str, Operator]) -> dict[str, bytes]:
    """Return the whole state of all parts."""
    return named({name: part.snapshot() for name, part in parts.items()})


def delta_of(parts: Mapping[str, Operator]) -> StateDelta:
    """Return what changed in any part since its last delta."""
    return named({name: part.delta() for name, part in parts.items()})


def restore_into(parts: Mapping[str, Operator], entries: StateEntries) -> None:
    """Replace the state of each part by its own entries."""
    for name, part in parts.items():
        part.restore(under(name, entries))
