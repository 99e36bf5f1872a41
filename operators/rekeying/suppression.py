"""Which records of the internal topics stand in the log already: a replay makes them, and they are not sent.

Lives here: their identities.  Never here: what they say, when a replay can make one no more (the
makers know: `engine/rekeying/router.py`, `engine/rekeying/enricher.py`).

Unlike an answer (`claims.Suppression`) such a record need not be used again: it follows from a log.
"""

from __future__ import annotations

from collections.abc import Callable

from topics.errors import ClaimError
from topics.rekeying import Hop, HopId, LabelHop, hop_id

__all__ = ["LoggedHops"]

LOGGED_MAX = 2_000_000
"""Records a replay may have to leave out, some 200 bytes each: some minutes without a checkpoint."""


class LoggedHops:
    """Records logged after the checkpoint; each is passed over once.

    >>> from topics.rekeying import ValuesHop
    >>> logged = LoggedHops()
    >>> logged.add(ValuesHop(1, 0, 2, 40, False, {"0": 3}))
    >>> logged.once(("values", 1, 2, 40)), logged.once(("values", 1, 2, 40))
    (True, False)
    """

    def __init__(self, logged_max: int = LOGGED_MAX) -> None:
        self._logged_max = logged_max
        self.ids: dict[HopId, str] = {}
        """Each with the event id of a label; asked at every event whether there are any."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def empty(self) -> bool:
        """Return whether the replay has caught up with the log."""
        return not self.ids

    def add(self, hop: Hop) -> None:
        """Take a record that counts.  Raises ClaimError beyond the limit."""
        found = hop_id(hop)
        if found is None:
            return
        if len(self.ids) >= self._logged_max:
            raise ClaimError(
                f"more than {self._logged_max} records were re-keyed since the checkpoint",
                hint="restore a newer checkpoint, or raise HEADRACE_REPLAY_MAX (200 bytes of memory each)",
            )
        self.ids[found] = hop.event_id if isinstance(hop, LabelHop) else ""

    def once(self, found: HopId) -> bool:
        """Return, once, whether this record is logged."""
        return self.ids.pop(found, None) is not None

    def forget(self, possible: Callable[[HopId, str], bool]) -> None:
        """Forget what a replay can make no more; `possible` gets a record and a label's event id."""
        self.ids = {found: event_id for found, event_id in self.ids.items() if possible(found, event_id)}
