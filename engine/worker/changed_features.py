"""A checkpoint of a definition with other features: what of it this one goes on with.

Lives here: asking windows and join what they keep of their entries, and telling the user.  Never here:
whether features may change (`engine/definition/pipeline.py`), what entries hold (`operators/windows`,
`operators/join`).

    windows     a group goes on if its name is the same (`Group.name`), any other begins empty
    join        answers that wait go on; each knows the keys under which its label enters, in the new order
    the rest    as it is
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from engine.definition.pipeline import Change
from operators.join.entries import END_NAME, FIRST_NAME, with_keys
from operators.join.pending import entries_apart
from operators.state import StateDelta, StateEntries, StoredEntries, named, under
from operators.windows.features import Features

__all__ = ["carried_over", "difference"]

log = structlog.get_logger("headrace")


def carried_over(
    entries: StateEntries,
    features: Features,
    stored: StoredEntries,
    changes: Iterable[Change],
    partition: int,
) -> dict[str, bytes]:
    """Return a checkpoint's entries as a scorer with `features` restores them, and log what begins empty.

    `stored` are the entries of the join that a restore leaves on disk: they are among those returned where
    their keys change.
    """
    found = features.carried_over(under("features", entries))
    join, after = under("join", entries), features.plan.label_keys
    if found.label_keys != after:
        # All at once, this once: every answer gets other keys.
        join |= dict(entries_apart(stored, FIRST_NAME, END_NAME))
        for name, data in join.items():
            if name.startswith(FIRST_NAME):
                join[name] = with_keys(data, found.label_keys, after)
    log.warning(
        "features changed",
        partition=partition,
        changes=[str(change) for change in changes],
        filling=list(found.filling),
        keys=found.keys,
        keys_dropped=found.keys_dropped,
    )
    rest = {name: data for name, data in entries.items() if not name.startswith(("features/", "join/"))}
    return rest | named({"features": found.entries, "join": join})


def difference(old: StateEntries, new: StateEntries) -> StateDelta:
    """Return the delta that makes `new` of `old`."""
    gone: StateDelta = {name: None for name in old if name not in new}
    return gone | {name: data for name, data in new.items() if old.get(name) != data}
