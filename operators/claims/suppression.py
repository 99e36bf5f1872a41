"""What stands in the logs already when an owner replays from its checkpoint: it must not be written again.

Lives here: the answers, examples and quarantines logged after the checkpoint, and the identities of records
on internal topics.  Never here: reading the logs (`takeover.py`), what a replay of the internal topics can
still make (`engine/rekeying/router.py`, `engine/rekeying/enricher.py`).

An answer that is logged is used again, features and score.  A record of an internal topic need not be: it
follows from a log.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from topics.errors import ClaimError
from topics.messages import Example, Prediction, Quarantine
from topics.rekeying import RekeyedLabel, RekeyingId, RekeyingMessage, message_id

__all__ = ["SUPPRESSED_MAX", "LoggedMessages", "Suppression"]

SUPPRESSED_MAX = 2_000_000
"""Records a replay may have to leave out, about 1 KB each, or some 200 bytes on internal topics: some minutes
without a checkpoint."""


class LoggedMessages:
    """Records logged after the checkpoint; each is passed over once.

    >>> from topics.rekeying import RekeyedValues
    >>> logged = LoggedMessages()
    >>> logged.add(RekeyedValues(1, 0, 2, 40, False, {"0": 3}))
    >>> logged.once(("values", 1, 2, 40)), logged.once(("values", 1, 2, 40))
    (True, False)
    """

    def __init__(self, logged_max: int = SUPPRESSED_MAX) -> None:
        self._logged_max = logged_max
        self.ids: dict[RekeyingId, str] = {}
        """Each with the event id of a label; asked at every event whether there are any."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def empty(self) -> bool:
        """Return whether the replay has caught up with the log."""
        return not self.ids

    def add(self, message: RekeyingMessage) -> None:
        """Take a record that counts.  Raises ClaimError beyond the limit."""
        found = message_id(message)
        if found is None:
            return
        if len(self.ids) >= self._logged_max:
            raise ClaimError(
                f"more than {self._logged_max} records were re-keyed since the checkpoint",
                hint="restore a newer checkpoint, or raise HEADRACE_REPLAY_MAX (200 bytes of memory each)",
            )
        self.ids[found] = message.event_id if isinstance(message, RekeyedLabel) else ""

    def once(self, found: RekeyingId) -> bool:
        """Return, once, whether this record is logged."""
        return self.ids.pop(found, None) is not None

    def forget(self, possible: Callable[[RekeyingId, str], bool]) -> None:
        """Forget what a replay can make no more; `possible` gets a record and a label's event id."""
        self.ids = {found: event_id for found, event_id in self.ids.items() if possible(found, event_id)}


class Suppression:
    """What earlier owners logged after the checkpoint: a replay must not write it again.

    An entry belongs to one event record, by its offset; the id must be the same too.  It is forgotten
    when the replay makes it again, or can make it no more (`passed`).

    >>> from topics.messages import Prediction
    >>> suppression = Suppression()
    >>> answer = Prediction("p:e1", "e1", 5, 6, "m", 1, 0, "champion", 0.7, True, "champion", {}, 40, 2, 0)
    >>> suppression.add(answer)
    >>> suppression.answered("e1", 40).prediction_score
    0.7
    >>> suppression.answered("e1", 40) is None, suppression.empty
    (True, True)
    """

    def __init__(self, suppressed_max: int = SUPPRESSED_MAX) -> None:
        self.suppressed_max = suppressed_max
        self.replaying = False
        """Whether answers, examples or quarantines are left that a replay would make again."""
        self._answers: dict[int, Prediction] = {}
        self._examples: dict[int, str] = {}
        self._quarantines: set[tuple[int, str]] = set()
        self._answers_due: list[int] = []
        self._quarantines_due: list[tuple[int, str]] = []
        self._examples_due: list[tuple[int, int, int]] = []
        """Heap of (event offset, label offset, key): when the example's last event was read."""
        self._labels_due: list[tuple[int, int]] = []
        """Heap of (label offset, key): examples whose events were read, but not their label."""
        self._still_open: list[int] = []
        """Examples whose offsets were read, but whose event still waits for a label."""
        self.rekeyed = LoggedMessages(suppressed_max)
        """Records of the internal topics, where events travel to other keys."""

    def __len__(self) -> int:
        return len(self._answers) + len(self._examples) + len(self._quarantines) + len(self.rekeyed)

    @property
    def empty(self) -> bool:
        """Return whether the replay has caught up with the log."""
        return not (self.replaying or self.rekeyed.ids)

    def add(self, logged: Prediction | Example | Quarantine | RekeyingMessage) -> None:
        """Take a record that counts.  Raises ClaimError beyond `suppressed_max` records."""
        if not isinstance(logged, Prediction | Example | Quarantine):
            self.rekeyed.add(logged)
            return
        if len(self) >= self.suppressed_max:
            raise ClaimError(
                f"more than {self.suppressed_max} records were logged since the checkpoint",
                hint="restore a newer checkpoint, or raise HEADRACE_REPLAY_MAX (about 1 KB of memory each)",
            )
        self.replaying = True
        offset = logged.event_offset
        if isinstance(logged, Prediction):
            self._answers[offset] = logged
            heappush(self._answers_due, offset)
        elif isinstance(logged, Example):
            self._examples[offset] = logged.event_id
            heappush(self._examples_due, (max(offset, logged.expired_at_offset), logged.label_offset, offset))
        else:
            self._quarantines.add((offset, logged.model_name))
            heappush(self._quarantines_due, (offset, logged.model_name))

    def answered(self, event_id: str, event_offset: int) -> Prediction | None:
        """Return the logged answer to the event record at `event_offset`, once: use it, do not send it."""
        found = self._answers.get(event_offset)
        if found is None or found.event_id != event_id:
            return None
        del self._answers[event_offset]
        self._tidy()
        return found

    def exampled(self, event_id: str, event_offset: int) -> bool:
        """Return, once, whether the example of the event record at `event_offset` is logged."""
        if self._examples.get(event_offset) != event_id:
            return False
        del self._examples[event_offset]
        self._tidy()
        return True

    def quarantined(self, model_name: str, event_offset: int) -> bool:
        """Return, once, whether the failure of this model on the event at `event_offset` is logged."""
        if (event_offset, model_name) not in self._quarantines:
            return False
        self._quarantines.remove((event_offset, model_name))
        self._tidy()
        return True

    def passed(self, events_position: int, labels_position: int, waits: Callable[[str], bool]) -> None:
        """Forget what a replay that has read up to these positions can make no more.

        An answer and a quarantine: their event was read.  An example: its event, its label and the
        event that ended its wait were read, and `waits(event_id)` says that the join does not wait for
        a label of it.  (Offsets alone are not enough: in another order of the two topics a label can
        come and go before its event, which then is open for an implicit or a second label.)
        """
        while self._answers_due and self._answers_due[0] < events_position:
            self._answers.pop(heappop(self._answers_due), None)
        while self._quarantines_due and self._quarantines_due[0][0] < events_position:
            self._quarantines.discard(heappop(self._quarantines_due))
        while self._examples_due and self._examples_due[0][0] < events_position:
            _, label_offset, key = heappop(self._examples_due)
            heappush(self._labels_due, (label_offset, key))
        while self._labels_due and self._labels_due[0][0] < labels_position:
            self._still_open.append(heappop(self._labels_due)[1])
        held = [key for key in self._still_open if key in self._examples]
        self._still_open = [key for key in held if waits(self._examples[key])]
        for key in set(held).difference(self._still_open):
            del self._examples[key]
        self._tidy()

    def _tidy(self) -> None:
        """Let go of the order of entries once none is left; it can be large and is never asked again."""
        self.replaying = bool(self._answers or self._examples or self._quarantines)
        if not self.replaying:
            for order in (self._answers_due, self._quarantines_due, self._examples_due, self._labels_due):
                order.clear()
            self._still_open.clear()
