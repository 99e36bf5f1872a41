"""Requests that wait for the answer to their own record.

Lives here: which answer is whose.  Never here: HTTP, Kafka, deadlines (`predict.py`).

An id may be asked for twice at once, and an answer may be read before the broker has said where its event
lies.  So an answer is kept for every request with its id until the request knows its place.

    request    begin e1           published: partition 2, offset 40
    topic               e1 of 39 (an older record)   e1 of 40
                        kept                         is it
"""

from __future__ import annotations

import asyncio

from topics.messages import Prediction

__all__ = ["Posted", "Requests"]

Place = tuple[int, int]
"""Partition and offset of an event."""


class Posted:
    """One event that somebody waits for; `answer` is resolved with its prediction."""

    def __init__(self, event_id: str) -> None:
        self.event_id = event_id
        self.place: Place | None = None
        """None until the broker has taken it."""
        self.answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._early: dict[Place, Prediction] = {}
        """Answers to records of this id that came before the place was known."""

    def published(self, place: Place) -> None:
        """Take the place of the event."""
        self.place = place
        if place in self._early:
            self._resolve(self._early[place])

    def answered(self, place: Place, answer: Prediction) -> None:
        """Take an answer to a record of this id."""
        if self.place is None:
            self._early[place] = answer
        elif self.place == place:
            self._resolve(answer)

    def _resolve(self, answer: Prediction) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class Requests:
    """All requests under way, `requests_max` at once."""

    def __init__(self, requests_max: int) -> None:
        self.requests_max = requests_max
        self._waiting: dict[str, list[Posted]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Return whether there is no room for one more."""
        return self._count >= self.requests_max

    def begin(self, event_id: str) -> Posted:
        """Return a new request, which `end` must follow."""
        request = Posted(event_id)
        self._waiting.setdefault(event_id, []).append(request)
        self._count += 1
        return request

    def answered(self, partition: int, answer: Prediction) -> None:
        """Hand an answer that counts to those who wait for its id."""
        for request in self._waiting.get(answer.event_id, ()):
            request.answered((partition, answer.event_offset), answer)

    def end(self, request: Posted) -> None:
        """Forget a request."""
        waiting = self._waiting[request.event_id]
        waiting.remove(request)
        self._count -= 1
        if not waiting:
            del self._waiting[request.event_id]
