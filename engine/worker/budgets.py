"""Candidates that take longer than they may: measured here, written into the examples log, judged there.

Lives here: the median time that each racer's score and lesson of one event take, and the scoring times of a
challenger on its way up, by the guards of its canary.  Never here: what follows (`operators/race/arena.py`,
`operators/serving/canary.py`): time is no function of a log, so what was measured becomes a record of it.

Strategy: the stopwatch sums seconds by racer over a turn of the loop; over the rows of that turn they are one
value.  The median over the last `TURNS` turns that had rows knows nothing of a pause of the machine.  A guard
names its own window, in events: each counts with the mean of its turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

from operators.models.scoring import Racer
from operators.race.routing import LatencyGuard, Timed
from topics.messages import Slow

__all__ = ["Budgets", "Latencies"]

TURNS = 51
"""Turns over which the median is taken."""
TURNS_MIN = 11
ROWS_MIN = 100
"""Rows before anything is said of a racer: the first ones warm up."""
LEARNING = ("learn", "score_and_learn")
SCORING = ("score", "score_and_learn")
LOOKS = 20
"""Times that the narrowest window is looked at while it fills anew: a look sorts all of them."""


class Budgets:
    """The times of the racers that have a budget.

    >>> from operators.models.scoring import Racer
    >>> budgets, tree = Budgets({"tree": 2.0}), Racer("tree", None, version=3)
    >>> for _ in range(11):
    ...     budgets.measure({("score", "tree"): 0.02, ("learn", "tree"): 0.03}, scored=10, learned=10)
    >>> [(slow.model_name, slow.median_ms, slow.limit_ms) for slow in budgets.over({"tree": tree}, 5)]
    [('tree', 5.0, 2.0)]
    >>> budgets.over({"tree": tree}, 6)
    []
    """

    def __init__(self, limits_ms: Mapping[str, float]) -> None:
        """`limits_ms` are the budgets of candidates, by name."""
        self.limits_ms = limits_ms
        self._spent_ms: dict[tuple[str, str], deque[float]] = {}
        """By what was done and the racer's name: milliseconds a row, turn by turn."""
        self._rows: dict[tuple[str, str], int] = {}
        self._versions: dict[str, int] = {}
        """The version of each racer that the times are of ..."""
        self._told: set[str] = set()
        """... and those that it was told of."""

    def measure(self, seconds: Mapping[tuple[str, str], float], *, scored: int, learned: int) -> None:
        """Add the seconds of one turn, by what was done and whose model did it, and its rows."""
        for (step, name), spent_s in seconds.items():
            rows = learned if step in LEARNING else scored
            if rows:
                values = self._spent_ms.setdefault((step, name), deque(maxlen=TURNS))
                values.append(1_000.0 * spent_s / rows)
                self._rows[step, name] = self._rows.get((step, name), 0) + rows

    def over(self, racers: Mapping[str, Racer], now_ms: int) -> list[Slow]:
        """Return the racers that are over their budget, each version once."""
        self._follow({racer.name: racer.version for racer in racers.values()})
        found = []
        for racer in racers.values():
            limit_ms = self.limits_ms.get(racer.definition)
            spent_ms = self._median_ms(racer.name)
            if limit_ms is None or spent_ms <= limit_ms or racer.name in self._told:
                continue
            self._told.add(racer.name)
            rows = max(count for (_, name), count in self._rows.items() if name == racer.name)
            found.append(Slow(racer.name, racer.version, now_ms, spent_ms, limit_ms, rows))
        return found

    def _follow(self, versions: dict[str, int]) -> None:
        """Drop the times of racers that have left, and of those that have another model since."""
        before, self._versions = self._versions, versions
        changed = {name for name, version in before.items() if versions.get(name) != version}
        if changed:
            self._told -= changed
            for of_step in [key for key in self._spent_ms if key[1] in changed]:
                del self._spent_ms[of_step], self._rows[of_step]

    def _median_ms(self, name: str) -> float:
        """Return the median time of a score and of a lesson together; 0.0 while too little is known."""
        return sum(
            median(values)
            for (step, named), values in self._spent_ms.items()
            if named == name and len(values) >= TURNS_MIN and self._rows[step, named] >= ROWS_MIN
        )


class Latencies:
    """The scoring times of one challenger on its way up; another canary or version is measured anew.

    >>> guards = (LatencyGuard(2.0, window=100), LatencyGuard(2.0, quantile=0.9, window=50))
    >>> latencies, tree = Latencies(Timed("tree", 1, guards), version=3), Racer("tree", None, version=3)
    >>> for ms in (1.0, 5.0) * 10:
    ...     latencies.measure({("score", "tree"): ms * 10 / 1000}, scored=10)
    >>> [(slow.guard, slow.median_ms, slow.rows) for slow in latencies.over(7)]
    [('latency at 0.9', 5.0, 50)]
    >>> latencies.over(8)
    []
    """

    def __init__(self, timed: Timed, version: int) -> None:
        """`timed` says who is guarded, and by what; `version` is that of its model."""
        self.of = timed, version
        self._turns: deque[tuple[float, int]] = deque()
        """Milliseconds a score in each turn, and how many there were, newest last."""
        self._rows = self._unlooked = 0
        self._widest = max(guard.window for guard in timed.guards)
        self._look_every = min(guard.window for guard in timed.guards) / LOOKS
        self._told: set[str] = set()

    def measure(self, seconds: Mapping[tuple[str, str], float], *, scored: int) -> None:
        """Add the seconds of one turn, by what was done and whose model did it, and its rows."""
        spent_s = sum(seconds.get((step, self.of[0].name), 0.0) for step in SCORING)
        if not scored or not spent_s:
            return
        self._turns.append((1_000.0 * spent_s / scored, scored))
        self._rows += scored
        self._unlooked += scored
        while self._rows - self._turns[0][1] >= self._widest:
            self._rows -= self._turns.popleft()[1]

    def over(self, now_ms: int) -> list[Slow]:
        """Return the guards that are broken, each once."""
        if self._unlooked < self._look_every:
            return []
        self._unlooked = 0
        timed, version = self.of
        found = []
        for guard in timed.guards:
            if guard.named in self._told or self._rows < guard.window:
                continue
            spent_ms = self._quantile_ms(guard)
            if spent_ms > guard.limit_ms:
                self._told.add(guard.named)
                found.append(
                    Slow(timed.name, version, now_ms, spent_ms, guard.limit_ms, guard.window, guard.named)
                )
        return found

    def _quantile_ms(self, guard: LatencyGuard) -> float:
        """Return the smallest time of the window that so many of its scores, or more, do not exceed."""
        left, times = guard.window, []
        for spent_ms, rows in reversed(self._turns):
            times.append((spent_ms, min(rows, left)))
            left -= times[-1][1]
            if not left:
                break
        below = 0
        for spent_ms, rows in sorted(times):
            below += rows
            if below >= guard.quantile * guard.window:
                return spent_ms
        return 0.0
