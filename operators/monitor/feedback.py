"""Whether what is answered narrows: a model that learns from what it showed shows the same ever more.

Lives here: how answers spread over items, block by block.  Never here: who answers (`operators/race`).

What is shown is the item of an answer true, with several classes the answered class itself.  Popular is what
turned out true in the blocks before.  Figures are of one block of `block` labelled examples at a time:

    gini           0: every item is shown as often; near 1: one item is shown alone
    coverage       share of the known items that were shown
    tail_share     share of what was shown outside the head, the most popular fifth of the items
    hit_rate       share of what was shown that turned out true, for head, middle and tail each

(Gini and coverage as in Castells, Hurley and Vargas, "Novelty and Diversity in Recommender Systems", 2022;
hit rate by popularity, and what a loop does to these, in Chia, Tagliabue, Bianchi, He and Ko, "Beyond NDCG",
2022.)  Examples with a label are all that is seen: where labels come for what was shown alone, the stream has
to hold events of other items too, or answers by chance, for these figures to say something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from operators.models.scoring import label_of
from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import Rows
from operators.state import StateEntries, WholeState
from topics.errors import DefinitionError
from topics.messages import Example

__all__ = ["Feedback", "FeedbackMonitor", "gini"]

ITEMS_MAX = 100_000
BLOCKS_KEPT = 50
"""Blocks whose figures are kept, for the trend."""
HEAD, MIDDLE = 0.2, 0.5
"""The most popular share of items that is the head; the share where the tail begins."""


@dataclass(frozen=True)
class Feedback:
    """What is shown to whom, as far as a loop can narrow it.

    `item`
        The feature that names what an answer true shows; empty with several classes: the answered class.
    `block`
        Labelled examples of which figures are made together.
    `items_max`
        Items that are known; what is shown beyond them is counted together and is in no figure.
    """

    item: str = ""
    block: int = 1_000
    items_max: int = 10_000

    def __post_init__(self) -> None:
        """Refuse limits that cannot work.  Raises DefinitionError."""
        for name, least, most in (("block", 10, 1_000_000), ("items_max", 2, ITEMS_MAX)):
            given: object = getattr(self, name)
            if type(given) is not int or not least <= given <= most:
                raise DefinitionError(
                    f"feedback: {name}={given!r}", hint=f"give a number from {least} to {most}"
                )

    def monitor(self, context: MonitorContext) -> FeedbackMonitor:
        """Return the monitor of these settings."""
        return FeedbackMonitor(self, context)


class _State(msgspec.Struct):
    items: dict[str, int] = {}
    """How often each known item turned out true, in blocks that are over."""
    true: dict[str, int] = {}
    """The same, in this block."""
    shown: dict[str, int] = {}
    hits: dict[str, int] = {}
    seen: int = 0
    """Examples of this block."""
    rest: int = 0
    """Answers that showed an item that is not known, in all blocks."""
    number: int = 0
    """Blocks that are over."""
    blocks: list[dict[str, float]] = []
    """The figures of the last ones."""


class FeedbackMonitor(WholeState):
    """Counts what is shown, and works out the figures at the end of each block."""

    stops: Sequence[int] = ()

    def __init__(self, settings: Feedback, context: MonitorContext) -> None:
        self._settings, self._context = settings, context
        self._state = _State()

    def observe(self, rows: Rows) -> None:
        """Count examples, one block after the other."""
        self._dirty = True
        for example in rows.examples:
            self._count(example)
            self._state.seen += 1
            if self._state.seen == self._settings.block:
                self._end()

    def _count(self, example: Example) -> None:
        task, threshold = self._context.task, self._context.threshold
        answer = label_of(task, example.served_score, threshold)
        shown = true = None
        if task == "multiclass":
            shown, true = None if answer is None else str(answer), str(example.label)
        elif (item := example.features.get(self._settings.item)) is not None:
            self._known(name := str(item))
            shown, true = name if answer else None, name if example.label else None
        if true is not None and self._known(true):
            self._add(self._state.true, true)
        if shown is not None:
            if not self._known(shown):
                self._state.rest += 1
                return
            self._add(self._state.shown, shown)
            if shown == true:
                self._add(self._state.hits, shown)

    def _known(self, item: str) -> bool:
        """Return whether an item is known; a new one is from here on, while there is room."""
        items = self._state.items
        if item not in items:
            if len(items) >= self._settings.items_max:
                return False
            items[item] = 0
        return True

    def _add(self, counts: dict[str, int], item: str) -> None:
        counts[item] = counts.get(item, 0) + 1

    def _end(self) -> None:
        """Work out the figures of the block, and begin the next one."""
        state = self._state
        state.blocks = [*state.blocks, figures(state.items, state.shown, state.hits)][-BLOCKS_KEPT:]
        state.number += 1
        for item, count in state.true.items():
            state.items[item] += count
        state.true, state.shown, state.hits, state.seen = {}, {}, {}, 0

    def stop(self, at: object) -> None:
        """Do nothing: it reads no model."""

    def forget(self, name: str) -> None:
        """Do nothing: it is about what was served."""

    def report(self) -> dict[str, Any]:
        """Return the figures of the last block, the trend of the Gini index, and the blocks kept."""
        state = self._state
        if not state.blocks:
            return {}
        return {
            **state.blocks[-1],
            "trend": trend([one["gini"] for one in state.blocks if "gini" in one]),
            "items": len(state.items),
            "rest": state.rest,
            "blocks_seen": state.number,
            "blocks": list(state.blocks),
        }

    def signals(self) -> Mapping[str, float]:
        """Return how narrow the last block was, and by how much that grows from block to block."""
        told = self.report()
        return {name: told[name] for name in ("gini", "coverage", "tail_share", "trend") if name in told}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"items": msgspec.msgpack.encode(self._state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._state = msgspec.msgpack.decode(entries["items"], type=_State)
        self._dirty = False


def figures(items: Mapping[str, int], shown: Mapping[str, int], hits: Mapping[str, int]) -> dict[str, float]:
    """Return the figures of one block.

    `items` is how often each known item turned out true before; `shown` and `hits` are of the block.
    What needs something that is not there is left out: everything but `shown` where nothing was shown, what
    goes by popularity where nothing has turned out true yet.

    >>> told = figures({"a": 9, "b": 1, "c": 0, "d": 0, "e": 0}, {"a": 3, "e": 1}, {"a": 3})
    >>> told["coverage"], told["tail_share"], told["hit_rate_head"], told["hit_rate_tail"]
    (0.4, 0.25, 1.0, 0.0)
    """
    total = sum(shown.values())
    told: dict[str, float] = {"shown": float(total)}
    if not total:
        return told
    told["gini"] = gini(shown.get(item, 0) for item in items)
    told["coverage"] = len(shown) / len(items)
    if not any(items.values()):
        return told
    ranked = sorted(items, key=lambda item: (-items[item], item))
    head, middle = max(1, round(HEAD * len(ranked))), max(1, round(MIDDLE * len(ranked)))
    parts = {"head": ranked[:head], "middle": ranked[head:middle], "tail": ranked[middle:]}
    told["tail_share"] = 1.0 - sum(shown.get(item, 0) for item in parts["head"]) / total
    for name, part in parts.items():
        if of_part := sum(shown.get(item, 0) for item in part):
            told[f"hit_rate_{name}"] = sum(hits.get(item, 0) for item in part) / of_part
    return told


def gini(counts: Iterable[int]) -> float:
    """Return the Gini index of counts: 0 where all are alike, 1 - 1/n where one has everything.

    >>> gini([5, 5, 5]), gini([0, 0, 0, 8])
    (0.0, 0.75)
    """
    ordered = sorted(counts)
    size, total = len(ordered), sum(ordered)
    if not total:
        return 0.0
    return sum((2 * place - size - 1) * count for place, count in enumerate(ordered, 1)) / (size * total)


def trend(values: Sequence[float]) -> float:
    """Return the slope of the least-squares line through values, per place; 0 for fewer than three.

    >>> trend([0.25, 0.5, 0.75]), trend([0.5])
    (0.25, 0.0)
    """
    size = len(values)
    if size < 3:
        return 0.0
    middle, mean = (size - 1) / 2, sum(values) / size
    above = sum((place - middle) * (value - mean) for place, value in enumerate(values))
    return above / sum((place - middle) ** 2 for place in range(size))
