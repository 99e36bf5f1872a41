"""The learner's half of watching: blocks and labels in, one verdict on shift out.

Lives here: when a block of all partitions is complete, what opens, updates and ends a verdict.  Never here:
the sample of a block (`sampler.py`), what follows from a verdict (a decision record, an alert).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from operators.drift.watch import Watch
from operators.state import StateEntries, WholeState
from topics.messages import Block, Example, Task

__all__ = ["Shift", "ShiftChange", "ShiftKind", "Watcher"]

ShiftKind = Literal["covariate_shift", "label_shift", "concept_drift", "pipeline_fault"]
ShiftChange = Literal["found", "updated", "ended"]


class Shift(Struct, frozen=True, omit_defaults=True):
    """One verdict, as it stands at the end of a block; all that belong together have the same `shift_id`."""

    shift_id: str
    """Pipeline and number of the block at which it was found."""
    change: ShiftChange
    """`found`, `updated` (another kind, or true losses that came) or `ended`."""
    verdict: ShiftKind
    since_ms: int
    """Event time from which on blocks are unusual."""
    decided_ms: int
    """End of the block at which this was said."""
    until_ms: int | None = None
    """Event time at which it ended; None while it lasts."""
    features: tuple[str, ...] = ()
    """Features that explain it, the most unusual first."""
    pace: Literal["sudden", "gradual"] = "sudden"
    reference_loss: float | None = None
    """Mean loss of the reference."""
    estimated_loss: float | None = None
    """Mean loss since, as estimated from the scores, before labels."""
    true_loss: float | None = None
    """Mean loss by the labels that have come since."""
    act: str = ""
    """What to do about it."""
    evidence: dict[str, float] = {}
    """What it rests on, by name: statistics of the last block, e-values, thresholds."""


class _State(Struct):
    blocks: int = 0
    newest: int | None = None


class Watcher(WholeState):
    """What one learner knows of its pipeline's blocks.

    `fold_block` takes blocks in the order of the log, `observe` examples in the same order; both decide
    nothing by clocks or batches, so a replay gives the same verdicts.
    """

    def __init__(self, watch: Watch, name: str, task: Task) -> None:
        """`name` is the pipeline's: it seeds projections and permutations."""
        self._watch, self._name, self._task = watch, name, task
        self._state = _State()

    def fold_block(self, block: Block) -> list[Shift]:
        """Take the next block of a partition; return what is to be said, mostly nothing."""
        self._state.blocks += 1
        self._state.newest = block.number
        self._dirty = True
        return []

    def observe(self, examples: Sequence[Example], losses: Sequence[float | None]) -> None:
        """Take labelled examples with the loss of what was served; None where there was no opinion."""

    def rebase(self) -> None:
        """Start the reference over with the next block: what serves was made of another span."""
        self._state = _State()
        self._dirty = True

    @property
    def open(self) -> Shift | None:
        """Return the verdict that lasts, if any."""
        return None

    def signals(self) -> dict[str, float]:
        """Return what alerts may ask for, by name."""
        return {}

    def report(self) -> dict[str, object]:
        """Return the figures of the last block, for people."""
        return {"blocks": self._state.blocks}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"watch": msgspec.msgpack.encode(self._state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._state = msgspec.msgpack.decode(entries["watch"], type=_State)
        self._dirty = False
