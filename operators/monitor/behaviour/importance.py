"""How much the champion's loss grows when a feature says nothing any more: permutation importance, live.

Lives here: the permutation, the mean over stops, what it may cost.  Never here: tests of a model
(`model_tests.py`), the attribution of one answer to its features.

The measure is Breiman's ("Random Forests", 2001, section 10), model-agnostic as in Fisher, Rudin and
Dominici ("All Models are Wrong, but Many are Useful", 2019), and its mean over a stream fades as in the
incremental one of Fumagalli, Muschalik, Hüllermeier and Hammer ("Incremental Permutation Feature Importance
(iPFI)", 2023).  Each row gets the value of another row of the sample; where that has none, the feature is
left out.  A feature whose loss another one carries too seems to matter less than it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import msgspec

from operators.monitor.behaviour.sample import PART_EVERY, STOP_EVERY, Champion, Questions, RecentRows
from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import Rows
from operators.race.arena import Moment
from operators.race.losses import Loss, ScaledError, loss_of
from operators.state import StateEntries, WholeState
from topics.errors import DefinitionError
from topics.messages import Example, FeatureValues

__all__ = ["Importance", "ImportanceMonitor", "permuted"]

ROWS_MAX = 1_000
FEATURES_MAX = 1_000


@dataclass(frozen=True)
class Importance:
    """How the importance of features is measured: what it costs, how long it remembers.

    In 1,024 examples the champion scores `rows` rows once for each of `features` features, an eighth of them
    every 128 examples, and once as they are at each of these stops: 1.4 scores an example by default.

    `rows`
        Rows of the sample, of those since the stop before.
    `features`
        Features that are permuted at a stop; with more than that they take turns.
    `fading`
        What a stop counts of the next one of the same feature, in the mean over stops.
    """

    rows: int = 50
    features: int = 20
    fading: float = 0.9

    def __post_init__(self) -> None:
        """Refuse limits that cannot work.  Raises DefinitionError."""
        for name, most in (("rows", ROWS_MAX), ("features", FEATURES_MAX)):
            given: object = getattr(self, name)
            least = 2 if name == "rows" else 1
            if type(given) is not int or not least <= given <= most:
                raise DefinitionError(
                    f"importance: {name}={given!r}", hint=f"give a number from {least} to {most}"
                )
        if not 0.0 <= self.fading < 1.0:
            raise DefinitionError(
                f"importance: fading={self.fading!r}", hint="give 0.9, or less to forget faster"
            )

    def monitor(self, context: MonitorContext) -> ImportanceMonitor:
        """Return the monitor of these settings."""
        return ImportanceMonitor(self, context)


class _Measured(msgspec.Struct):
    """What was measured of one feature."""

    stops: int = 0
    last: float = 0.0
    sum: float = 0.0
    """Fading."""
    weight: float = 0.0


class _State(msgspec.Struct):
    champion: str
    version: int
    examples: int
    done: str
    """The feature that had the last turn."""
    features: dict[str, _Measured]


class ImportanceMonitor(WholeState):
    """Permutes features in rounds of `STOP_EVERY` examples; begins anew with another champion."""

    stops: Sequence[int] = (PART_EVERY,)

    def __init__(self, settings: Importance, context: MonitorContext) -> None:
        self._settings, self._context = settings, context
        self._sample, self._round = RecentRows(settings.rows), Questions()
        self._state = _State("", 0, 0, "", {})

    def observe(self, rows: Rows) -> None:
        """Sample examples."""
        self._dirty = True
        self._sample.add(rows.examples)

    def stop(self, at: Moment) -> None:
        """Measure the features whose turn it is."""
        if at.examples % PART_EVERY:
            return
        if at.examples % STOP_EVERY == 0:
            self._round.begin(self._sample, self._turn())
            self._dirty = True
        rows = self._round.rows
        if not (features := self._round.part()):
            return
        self._dirty = True
        context, state = self._context, self._state
        champion = Champion(context.task, context.roster)
        if (state.champion, state.version) != (champion.name, champion.version):
            state = self._state = _State(champion.name, champion.version, 0, "", {})
        loss = loss_of(context.task, context.objective, context.threshold)
        if isinstance(loss, ScaledError):
            for row in rows:
                loss.update(row.label)
        before = [loss(row.label, champion.score(row.features)) for row in rows]
        for feature in features:
            state.done = feature
            asked = permuted(rows, feature, f"{context.pipeline}:{at.examples}:{feature}")
            increase = _increase(loss, champion, rows, before, asked)
            if increase is not None:
                measured, fading = state.features.setdefault(feature, _Measured()), self._settings.fading
                measured.stops += 1
                measured.last = increase
                measured.sum = fading * measured.sum + increase
                measured.weight = fading * measured.weight + 1.0
        state.examples = at.examples

    def _turn(self) -> list[str]:
        """Return the features whose turn it is: those after the last one, round and round."""
        names = sorted({name for row in self._sample.rows for name in row.features})
        after = sum(name <= self._state.done for name in names)
        return [*names[after:], *names[:after]][: self._settings.features]

    def forget(self, name: str) -> None:
        """Do nothing: figures begin anew when another one is champion."""

    def report(self) -> dict[str, Any]:
        """Return by how much the loss grows without each feature, the most important first."""
        state = self._state
        if not state.examples:
            return {}
        told = {
            name: {"importance": one.sum / one.weight, "last": one.last, "stops": one.stops}
            for name, one in state.features.items()
        }
        ordered = sorted(told, key=lambda name: (-told[name]["importance"], name))
        tested = {"champion": state.champion, "version": state.version, "examples": state.examples}
        return tested | {"features": {name: told[name] for name in ordered}}

    def signals(self) -> Mapping[str, float]:
        """Return nothing: no importance is wrong."""
        return {}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        measured = msgspec.msgpack.encode(self._state)
        return {"sample": self._sample.encoded(), "round": self._round.encoded(), "measured": measured}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._sample.restore(entries["sample"])
        self._round.restore(entries.get("round"))
        self._state = msgspec.msgpack.decode(entries["measured"], type=_State)
        self._dirty = False


def permuted(rows: Sequence[Example], feature: str, seed: str) -> list[FeatureValues]:
    """Return the features of rows with the values of one of them in an order that the seed draws.

    >>> rows = [
    ...     Example(f"e{n}", "k", n, n, True, {"x": n}, {}, 0.5, "champion", "a", 0, n, n, 1, n)
    ...     for n in range(5)
    ... ]
    >>> sorted(row["x"] for row in permuted(rows, "x", "seed"))
    [0, 1, 2, 3, 4]
    """
    drawn = sorted(rows, key=lambda row: (crc32(f"{seed}:{row.event_id}".encode()), row.event_id))
    made: list[FeatureValues] = []
    for row, other in zip(rows, drawn, strict=True):
        x = dict(row.features)
        x.pop(feature, None)
        if feature in other.features:
            x[feature] = other.features[feature]
        made.append(x)
    return made


def _increase(
    loss: Loss,
    champion: Champion,
    rows: Sequence[Example],
    before: Sequence[float | None],
    asked: Sequence[FeatureValues],
) -> float | None:
    """Return the mean increase of the loss over rows that have one with and without; None where none has."""
    total, count = 0.0, 0
    for row, was, x in zip(rows, before, asked, strict=True):
        if was is None or (now := loss(row.label, champion.score(x))) is None:
            continue
        total, count = total + (now - was), count + 1
    return total / count if count else None
