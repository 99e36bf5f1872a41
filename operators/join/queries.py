"""Which events a person should label: the most doubtful of each window of event time (active learning).

Lives here: what a definition may ask for, how doubtful an answer is, the best of each open window.  Never
here: the message that asks (`engine/machines/asking.py`), how a label comes back (as any other: `join.py`).

    events         x  .4  .1  |  .9  .3  .8  .2  |       doubt of each answer
    windows        |-- per --|-- per --|                 the `max` most doubtful of a window are asked for
    watermark                     ^ passes the end       when it is over, the most doubtful first

Chosen in hindsight of the window, not one by one: no threshold to tune, never more than `max`, and the same
however batches are cut.  The price is that a question comes up to `per` and `grace` late.

    uncertainty    binary: 1 - |2 p - 1|; several classes: 1 - (largest - second largest probability)
    disagreement   the spread of all candidates' scores: largest minus smallest, the largest of all classes

(B. Settles, "Active learning literature survey", 2009, sections 3.1 and 3.2.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappush, heappushpop, nlargest
from typing import Final, Literal, get_args
from zlib import crc32

import msgspec
from msgspec import Struct

from operators.state import StateEntries, WholeState
from topics.durations import duration_ms
from topics.errors import DefinitionError
from topics.messages import Prediction, Score, Task

__all__ = ["Doubtful", "Queries", "QueryWindows", "doubt"]

QUERIES_MAX: Final = 10_000
"""Events of one window: each is kept with its features."""
BY = Literal["uncertainty", "disagreement"]


@dataclass(frozen=True)
class Queries:
    """Which events a person is asked to label: the most doubtful of each window of event time.

    `by`
        `"uncertainty"` of the answer that was served, or `"disagreement"` of the candidates about it.
    `per`
        How long a window is.
    `max`
        How many events of a window are asked for, over all partitions.
    """

    by: BY = "uncertainty"
    per: str | int = "1h"
    max: int = 100

    def __post_init__(self) -> None:
        """Raise DefinitionError for what cannot be meant."""
        if self.by not in get_args(BY):
            raise DefinitionError(
                f"queries are by {self.by!r}", hint=f"by one of {', '.join(map(repr, get_args(BY)))}"
            )
        if not 1 <= self.max <= QUERIES_MAX:
            raise DefinitionError(
                f"queries ask for {self.max} events a window", hint=f"give 1 to {QUERIES_MAX:,}"
            )
        if self.per_ms < 1:
            raise DefinitionError(f"queries have windows of {self.per!r}", hint='give a span such as "1h"')

    @property
    def per_ms(self) -> int:
        """Return the length of a window in milliseconds."""
        return duration_ms(self.per)

    def check(self, task: Task, candidates: int, wait_ms: int, *, inside: bool) -> None:
        """Raise DefinitionError for questions that nobody could answer, or that have no doubt in them."""
        if inside:
            raise DefinitionError(
                "queries ask for labels, and events carry theirs",
                hint="leave `queries` out, or send labels to a topic of their own",
            )
        if self.by == "uncertainty" and task == "regression":
            raise DefinitionError(
                "a predicted number says nothing of its uncertainty",
                hint='ask with Queries(by="disagreement"), with two models or more',
            )
        if self.by == "disagreement" and candidates < 2:
            raise DefinitionError("one model cannot disagree", hint='race another, or by="uncertainty"')
        if self.per_ms >= wait_ms:
            raise DefinitionError(
                f"queries have windows of {self.per!r}, and labels come within {wait_ms} ms",
                hint="give shorter windows, or a longer `wait`: a question needs time for its answer",
            )

    def share(self, partition: int, partitions: int) -> int:
        """Return how many events of a window one of so many partitions asks for.

        >>> [Queries(max=7).share(partition, 3) for partition in range(3)]
        [3, 2, 2]
        """
        return self.max // partitions + (partition < self.max % partitions)


def doubt(by: BY, served: Score, scores: Mapping[str, Score]) -> float | None:
    """Return how doubtful an answer is, larger is more; None where nothing can be said.

    >>> doubt("uncertainty", 0.5, {}), doubt("uncertainty", {"a": 0.6, "b": 0.3, "c": 0.1}, {})
    (1.0, 0.7)
    >>> doubt("disagreement", None, {"one": 0.25, "other": 0.75, "new": None})
    0.5
    """
    if by == "uncertainty":
        if served is None:
            return None
        if not isinstance(served, dict):
            return 1 - abs(2 * served - 1)
        first, *others = nlargest(2, served.values()) or [0.0]
        return 1 - (first - (others[0] if others else 0.0))
    said = [score for score in scores.values() if score is not None]
    if len(said) < 2:
        return None
    if not any(isinstance(one, dict) for one in said):
        return max(said) - min(said)  # type: ignore[type-var,operator]
    classes = {name for one in said if isinstance(one, dict) for name in one}
    by_class = [[one.get(name, 0.0) for one in said if isinstance(one, dict)] for name in classes]
    return max((max(column) - min(column) for column in by_class), default=None)


class Doubtful(Struct, frozen=True, array_like=True):
    """One answer that may be asked about; the more doubtful, the larger."""

    doubt: float
    lot: int
    """Decides between equal ones: a checksum of the event's id."""
    event_id: str
    answer: bytes
    """The prediction as it was sent."""
    key: str
    scores: dict[str, Score]

    def __lt__(self, other: Doubtful) -> bool:
        return (self.doubt, self.lot, self.event_id) < (other.doubt, other.lot, other.event_id)


class _State(Struct, array_like=True):
    settings: str
    closed_to: int
    windows: dict[int, list[Doubtful]]


_encode_answer = msgspec.json.Encoder().encode


class QueryWindows(WholeState):
    """The most doubtful answers of each window that is not over; `count` of a window are kept."""

    def __init__(self, queries: Queries, count: int) -> None:
        self._queries, self._count = queries, count
        self._settings = f"{queries!r} {count}"
        self._clear()

    def _clear(self) -> None:
        self._windows: dict[int, list[Doubtful]] = {}
        """Heaps by number of the window, the least doubtful first."""
        self._closed_to = -(1 << 62)
        """Windows before this one are over."""

    @property
    def next_deadline(self) -> int | None:
        """Return the watermark, ms, beyond which a window with something in it is over; None: none has."""
        return (min(self._windows) + 1) * self._queries.per_ms - 1 if self._windows else None

    def offer(self, answer: Prediction, key: str, scores: Mapping[str, Score]) -> bool:
        """Take an answer; return False where its window is over."""
        number = answer.event_time // self._queries.per_ms
        if number < self._closed_to:
            return False
        value = doubt(self._queries.by, answer.prediction_score, scores)
        if value is None or not self._count:
            return True
        held = self._windows.setdefault(number, [])
        lot = crc32(answer.event_id.encode())
        if len(held) >= self._count and (held[0].doubt, held[0].lot) > (value, lot):
            return True
        one = Doubtful(value, lot, answer.event_id, _encode_answer(answer), key, dict(scores))
        self._dirty = True
        if len(held) < self._count:
            heappush(held, one)
        else:
            heappushpop(held, one)
        return True

    def close(self, watermark: int) -> Iterable[tuple[int, list[Doubtful]]]:
        """Return the windows that are over, (beginning in ms, the most doubtful first), in their order."""
        number = watermark // self._queries.per_ms
        if number <= self._closed_to:
            return ()
        self._closed_to = number
        self._dirty = True
        over = sorted(one for one in self._windows if one < number)
        return [(one * self._queries.per_ms, sorted(self._windows.pop(one), reverse=True)) for one in over]

    def erase(self, key: str) -> None:
        """Forget the answers to events of a key."""
        for number, held in list(self._windows.items()):
            kept = sorted(one for one in held if one.key != key)
            self._dirty = self._dirty or len(kept) != len(held)
            if kept:
                self._windows[number] = kept
            else:
                del self._windows[number]

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        windows = {number: sorted(held) for number, held in sorted(self._windows.items())}
        return {"all": msgspec.msgpack.encode(_State(self._settings, self._closed_to, windows))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; what other settings have left, or none, begins anew."""
        self._clear()
        if "all" in entries:
            state = msgspec.msgpack.decode(entries["all"], type=_State)
            if state.settings == self._settings:
                self._closed_to, self._windows = state.closed_to, state.windows
        self._dirty = False
