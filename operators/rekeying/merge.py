"""The merge of several sources into one sequence, by time: items are held until every source has passed them.

Lives here: the held items, the progress of each source, which items are released.  Never here: what is
ordered (`topics/rekeying.py`), how sources tell their progress, clocks.

    source 0   10    30          progress 40      |
    source 1      20       50    progress 35      |   horizon = 35: [10 20 30] go, 50 is held

    source 0   40         >45         |   source 1 has nothing more to read: it is idle,
    source 1   ~30                35  |   so 40 goes at 45 by source 0 alone; 35 then is late

Each source promises by its progress that nothing up to that time will follow.  The horizon is the
smallest progress of the sources that are not idle, and never goes back; what it reaches goes, in
order.  If all are idle, everything goes, and what still comes goes at once.  What comes at or before
the horizon is late: it goes at once, and is marked.

All of this follows from the sequence of calls alone, so a log folded into it gives the same
again, however it is cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from operators.state import Changes, StateDelta, StateEntries
from topics.rekeying import Order

__all__ = ["NEVER", "Merge", "Taken"]

NEVER = -(2**62)
"""Before all times: the progress of a source that has sent none yet."""

Item = TypeVar("Item", bound=Struct)


class Taken(NamedTuple, Generic[Item]):
    """One item that is released."""

    order: Order
    item: Item
    late: bool
    """Whether it came after the horizon had passed it."""


class _MergeMeta(Struct, frozen=True, array_like=True):
    horizon: int
    sources: tuple[tuple[int, bool], ...]


class Merge(Generic[Item]):
    """Structs of `item_type` (or a tagged union) from `sources` sources, in the order of `Order`.

    With more than `held_max` items held, the oldest are released, and the horizon moves with them; None is no
    bound, where the senders keep one.

    >>> class Reading(Struct):
    ...     value: float
    >>> merge = Merge(2, Reading)
    >>> merge.offer(Order(10, 0, 0, 0), Reading(1.5))
    []
    >>> merge.offer(Order(5, 0, 1, 0), Reading(2.5))
    []
    >>> merge.progress(0, 20, idle=False)
    []
    >>> [taken.item.value for taken in merge.progress(1, 12, idle=False)]
    [2.5, 1.5]
    >>> merge.offer(Order(11, 0, 1, 1), Reading(3.5))[0].late
    True
    """

    def __init__(self, sources: int, item_type: Any, *, held_max: int | None = None) -> None:
        self.horizon = NEVER
        """Everything up to this time has gone."""
        self.forced = 0
        """Items that went because `held_max` was reached."""
        self._held_max = held_max
        self._progress = [NEVER] * sources
        self._idle = [False] * sources
        self._all_idle = False
        self._heap: list[Order] = []
        self._items: dict[Order, Item] = {}
        self._changes = Changes[Order]()
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(item_type).decode

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, order: object) -> bool:
        return order in self._items

    @property
    def held(self) -> Iterable[tuple[Order, Item]]:
        """Return the held items, in no order."""
        return self._items.items()

    def idle(self, source: int) -> bool:
        """Return whether `source` is idle, so that no other source waits for it."""
        return self._idle[source]

    def offer(self, order: Order, item: Item) -> list[Taken[Item]]:
        """Hold one item; return the released items.  A second item of the same order is ignored."""
        if order.time <= self.horizon:
            return [Taken(order, item, late=True)]
        if self._all_idle:
            return [Taken(order, item, late=False)]
        if order in self._items:
            return []
        heappush(self._heap, order)
        self._items[order] = item
        self._changes.add(order)
        if self._held_max is None or len(self._items) <= self._held_max:
            return []
        self.forced += 1
        self.horizon = self._heap[0].time
        return self._go(self.horizon)

    def progress(self, source: int, time: int, *, idle: bool) -> list[Taken[Item]]:
        """Set a source's progress (it never goes back), and whether it is idle; return the released items."""
        self._progress[source] = max(self._progress[source], time)
        self._idle[source] = idle
        awake = [at for at, sleeps in zip(self._progress, self._idle, strict=True) if not sleeps]
        self._all_idle = not awake
        self.horizon = max(self.horizon, min(awake) if awake else max(self._progress))
        return self._go(self.horizon if awake else None)

    def _go(self, until: int | None) -> list[Taken[Item]]:
        taken: list[Taken[Item]] = []
        heap = self._heap
        while heap and (until is None or heap[0].time <= until):
            order = heappop(heap)
            self._changes.remove(order)
            taken.append(Taken(order, self._items.pop(order), late=False))
        return taken

    def snapshot(self) -> dict[str, bytes]:
        """Return one entry per held item and one for the sources."""
        return {
            "meta": self._meta(),
            **{_name(order): self._encode(item) for order, item in self._items.items()},
        }

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        return {"meta": self._meta(), **self._changes.delta(self._items, _name, self._encode)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the state by that of a merge of as many sources."""
        meta = msgspec.json.decode(entries["meta"], type=_MergeMeta)
        self.horizon = meta.horizon
        self._progress = [at for at, _ in meta.sources]
        self._idle = [idle for _, idle in meta.sources]
        self._all_idle = all(self._idle)
        self._items = {_order(name): self._decode(data) for name, data in entries.items() if name != "meta"}
        self._heap = sorted(self._items)
        self._changes.clear()

    def _meta(self) -> bytes:
        return self._encode(_MergeMeta(self.horizon, tuple(zip(self._progress, self._idle, strict=True))))


def _name(order: Order) -> str:
    return ".".join(map(str, order))


def _order(name: str) -> Order:
    return Order(*map(int, name.split(".")))
