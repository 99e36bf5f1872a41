"""A challenger goes up step by step before it is champion, and back to zero when something breaks.

Lives here: the steps, the watches beside them.  Never here: when a swap is due (`arena.py` asks), clocks
(`engine/worker/budgets.py` measures, and a record of the log says what breaks a guard).

    due        canary.started, the first step's share of the keys
    hold over  canary.stepped, the next share; at 1.0 canary.done and model.promoted
    broken     canary.aborted, share 0: what was proven is forgotten, evidence starts anew

All candidates score every event, whoever answers, so each watch sees every example, not only the share: the
challenger's loss minus the champion's, by an interval that may be looked at after each.  A watch breaks where
the whole interval is above what its guard allows.

A failed score says less than a loss: it is missing in the example.  Where a `FailureGuard` counts them, the
table tells scorers to tolerate them, and the guard breaks when there are more in the window than its share of
a whole window.  Without one, the first failure is quarantined, and ends the canary as its challenger leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from operators.race.arena import Evidenced, Moment
from operators.race.losses import GuardLosses, LossByName, Objective, loss_max
from operators.race.routing import Canary, FailureGuard, Guard, LatencyGuard, Timed
from operators.serving.intervals import Interval, MeanInterval
from operators.serving.policy_machine import ENTERING, PolicyMachine, PolicyState, Setting
from operators.state import StateEntries
from topics.durations import duration_ms
from topics.messages import Decision, Example, Slow, Task

__all__ = ["CanaryMachine"]

HOLDS_MAX = 3
"""A challenger that is no better than the champion after so many holds of one step has had its time."""
TURNED = "evidence turned"
"""What breaks the watch over all rows."""


class _Canary(msgspec.Struct):
    """The challenger that goes up."""

    name: str
    champion: str
    step: int
    """Which share it has."""
    watches: list[MeanInterval]
    """Challenger's loss minus champion's, cut and moved to [0, 1]: all rows, then a guard each."""
    time: int
    """Largest label time so far, ms."""
    stepped_time: int
    """The same when the step began."""
    examples: int = 0
    """Examples since the start."""
    stepped_examples: int = 0
    """The same when the step began."""
    holds: int = 0
    """Holds of this step that are over."""
    revision: int = 0
    """Of its first table ..."""
    answered: int = 0
    """... and how many examples were answered by that one or a later one ..."""
    failed: list[int] = []
    """... and which of these lack its score, by number: those of the widest window."""


class _CanaryState(PolicyState):
    runs: int = 0
    """Canaries so far: each has keys of its own."""
    up: _Canary | None = None
    scales: list[tuple[float, float, float]] = msgspec.field(default_factory=list)
    """Of guards by a loss of a regression."""


class CanaryMachine(PolicyMachine[_CanaryState]):
    """Canaries, one at a time.

    >>> from operators.models.scoring import Racer, Roster
    >>> from operators.race.arena import Arena
    >>> from operators.race.evidence import Promotion
    >>> roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    >>> setting = Setting("shop", Arena("shop", 0, roster, Promotion()), 0)
    >>> canary = CanaryMachine(Canary(steps=(0.1, 1.0), hold=500), setting, "binary", 0.5, "brier")
    >>> [decision.type for decision in canary.begin(Moment(7, 0, 0), "b", {"effect": 0.1})]
    ['canary.started']
    >>> roster.routing.shares, canary.begin(Moment(8, 0, 0), "b", {})
    ((('b', 0.1), ('a', 0.9)), [])
    """

    kind = "canary"

    def __init__(
        self, policy: Canary, setting: Setting, task: Task, threshold: float, objective: Objective
    ) -> None:
        """`objective` is the one of the promotion."""
        super().__init__(policy, setting, _CanaryState())
        self._policy = policy
        # Beside the guards of the definition: the evidence must not turn.
        all_rows = Guard(0.0, difference_max=policy.difference_max, name=TURNED)
        self._guards = (all_rows, *policy.guards_of(Guard))
        self._most = [
            loss_max(task, guard.loss or objective) if guard.difference_max is None else guard.difference_max
            for guard in self._guards
        ]
        """Of each guard: where a difference of two losses is cut."""
        self._losses = GuardLosses(task, [guard.loss for guard in self._guards], threshold)
        self._failures = policy.guards_of(FailureGuard)
        self._latencies = policy.guards_of(LatencyGuard)
        self._hold_ms = duration_ms(policy.hold) if isinstance(policy.hold, str) else None
        self._arena.canary = self.begin

    @property
    def paired(self) -> bool:
        """Return whether another swap may come due: not while one is under way."""
        return self._state.up is None

    @property
    def timed(self) -> Timed | None:
        """Return the challenger whose scoring time is guarded, while one is on its way up."""
        up = self._state.up
        return Timed(up.name, self._state.runs, self._latencies) if up and self._latencies else None

    # -- up ---------------------------------------------------------------------------------------

    def begin(self, at: Moment, name: str, evidence: Evidenced) -> list[Decision]:
        """Begin with a challenger whose swap is due, unless one is under way."""
        state = self._state
        if state.up is not None:
            return []
        state.runs += 1
        error = self._policy.error / len(self._guards)
        watches = [MeanInterval(error) for _ in self._guards]
        state.up = _Canary(name, self._roster.champion, 0, watches, at.time, at.time)
        started = self._write(at, "canary.started", name, "evidence", {"share": self._share(), **evidence})
        return [started, *self._reached(at)]

    def _share(self) -> float:
        """Set the table of the present step; return the challenger's share."""
        state = self._state
        assert state.up is not None
        share = self._policy.steps[state.up.step]
        if share < 1.0:
            tolerated = (state.up.name,) if self._failures else ()
            shares = {state.up.name: share, state.up.champion: 1.0 - share}
            self._route(shares, run=state.runs, tolerated=tolerated)
            state.up.revision = state.up.revision or state.revision
        return share

    def _reached(self, at: Moment) -> list[Decision]:
        """Make the challenger champion if it has everything."""
        up = self._state.up
        if up is None or self._policy.steps[up.step] < 1.0:
            return []
        done = self._write(at, "canary.done", up.name, "last step", self._told())
        self._down()
        if self._arena.pinned:
            return [done]
        return [done, self._arena.crown(up.name, at, self.kind, evidence=done.evidence)]

    def _down(self) -> None:
        self._state.up = self._state.table = self._roster.routing = None
        self._dirty = True

    def observe(self, example: Example, losses: LossByName) -> bool:
        """Show an example to every watch; return whether one broke or the hold is over."""
        up = self._state.up
        broken = up is not None and self._watch(up, example, losses)
        if self._losses.scaled:
            self._losses.update(example.label)
            self._dirty = True
        return up is not None and (broken or self._held(up))

    def _watch(self, up: _Canary, example: Example, losses: LossByName) -> bool:
        """Add an example to every watch that looks at it; return whether one broke."""
        self._dirty = True
        up.examples += 1
        up.time = max(up.time, example.label_time)
        broken = False
        # Of a score that a former model of the name gave, there is no loss.
        both = {name: losses[name] for name in (up.name, up.champion) if name in losses}
        for number, (guard, watch) in enumerate(zip(self._guards, up.watches, strict=True)):
            if not guard.looks_at(example.features):
                continue
            by_name = self._losses.of(number, example.label, example.scores, both)
            ours, theirs = by_name.get(up.name), by_name.get(up.champion)
            if ours is None or theirs is None or math.isnan(ours - theirs):
                continue
            watch.add((min(max((ours - theirs) / self._unit(number), -1.0), 1.0) + 1.0) / 2.0)
            broken = broken or self._worse(number)[0] > guard.worse
        if self._failures and example.policy == self.kind and example.policy_revision >= up.revision:
            up.answered += 1
            if example.propensity is None or up.name not in example.scores:
                widest = max(guard.window for guard in self._failures)
                up.failed = [one for one in up.failed if one > up.answered - widest] + [up.answered]
                broken = broken or self._failing() is not None
        return broken

    def _unit(self, number: int) -> float:
        """Return where a guard cuts a difference of two losses."""
        return self._most[number] or 1.0  # a definition without a largest loss is refused

    def _worse(self, number: int) -> Interval:
        """Return by how much the challenger is worse than the champion, as a guard sees it."""
        assert self._state.up is not None
        unit, found = self._unit(number), self._state.up.watches[number].interval()
        return Interval(*((2.0 * end - 1.0) * unit for end in found))

    def _failing(self) -> tuple[FailureGuard, int] | None:
        """Return the guard that more failures break than it allows, and how many there are in its window."""
        up = self._state.up
        assert up is not None
        for guard in self._failures:
            failed = sum(one > up.answered - guard.window for one in up.failed)
            if failed > guard.share * guard.window:
                return guard, failed
        return None

    def _held(self, up: _Canary) -> bool:
        """Return whether the present hold is over."""
        holds = up.holds + 1
        if self._hold_ms is None:
            return up.examples - up.stepped_examples >= int(self._policy.hold) * holds
        return up.time - up.stepped_time >= self._hold_ms * holds

    # -- what follows -----------------------------------------------------------------------------

    def act(self, at: Moment) -> list[Decision]:
        """Take the challenger back where a watch broke; else give it the next share where it is better."""
        up = self._state.up
        if up is None or not self._roster.healthy(up.name) or self._roster.champion != up.champion:
            return []  # `decided` ends it
        for number, guard in enumerate(self._guards):
            if self._worse(number).low > guard.worse:
                told = self._told(number) | {"allowed": guard.worse}
                return [self._abort(at, f"guard: {guard.named}" if number else TURNED, told)]
        if (failing := self._failing()) is not None:
            return [self._abort_failing(at, *failing)]
        if not self._held(up):
            return []
        if self._worse(0).middle > 0.0:
            up.holds += 1
            if up.holds < HOLDS_MAX:
                return []
            return [self._abort(at, f"no better after {HOLDS_MAX} holds", self._told() | {"allowed": 0.0})]
        up.step, up.holds = up.step + 1, 0
        up.stepped_time, up.stepped_examples = up.time, up.examples
        share = self._share()
        if share == 1.0:
            return self._reached(at)
        return [self._write(at, "canary.stepped", up.name, f"share {share:g}", self._told())]

    def too_slow(self, at: Moment, report: Slow) -> list[Decision]:
        """Take back a challenger whose scores were measured to take longer than a guard allows."""
        up, racer = self._state.up, self._roster.racers.get(report.model_name)
        guard = next((one for one in self._latencies if one.named == report.guard), None)
        if up is None or racer is None or guard is None or up.name != racer.name:
            return []
        if racer.version != report.model_version:
            return []
        told = self._progress() | {
            "latency_ms": report.median_ms,
            "quantile": guard.quantile,
            "window": report.rows,
            "allowed": report.limit_ms,
        }
        return [self._abort(at, f"guard: {guard.named}", told)]

    def decided(self, at: Moment, decisions: Sequence[Decision]) -> list[Decision]:
        """End a canary whose challenger cannot answer any more, or whose champion is another now."""
        up = self._state.up
        if up is None:
            return []
        entered = {one.model_name for one in decisions if one.type in ENTERING}
        if up.name in entered or not self._roster.healthy(up.name):
            reason = "challenger left"
        elif self._roster.champion != up.champion:
            reason = "another champion"
        else:
            return []
        return [self._abort(at, reason, self._told() | {"allowed": 0.0})]

    def end(self, at: Moment, reason: str) -> list[Decision]:
        """Take back a challenger that is on its way up."""
        told = {} if self._state.up is None else self._told() | {"allowed": 0.0}
        return [self._abort(at, reason, told)] if told else []

    def _abort_failing(self, at: Moment, guard: FailureGuard, failed: int) -> Decision:
        up = self._state.up
        assert up is not None
        window = min(up.answered, guard.window)
        told: Evidenced = {"failed": failed, "window": window, "allowed": guard.share * guard.window}
        return self._abort(at, f"guard: {guard.named}", self._progress() | told)

    def _abort(self, at: Moment, reason: str, told: Evidenced) -> Decision:
        up = self._state.up
        assert up is not None
        # One that has left the roster is told of by who answers in its place.
        name = up.name if up.name in self._roster.racers else self._roster.champion
        self._down()
        return self._write(at, "canary.aborted", name, reason, told | {"challenger": up.name})

    def _told(self, number: int = 0) -> Evidenced:
        """Return how far it came, and what a watch has seen: that over all rows, or of a guard."""
        up = self._state.up
        assert up is not None
        found = self._worse(number)
        return self._progress() | {
            "compared": up.watches[number].count,
            "worse": found.middle,
            "low": found.low,
            "high": found.high,
        }

    def _progress(self) -> Evidenced:
        up = self._state.up
        assert up is not None
        return {"share": self._policy.steps[up.step], "examples": up.examples}

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        self._state.scales = self._losses.scales()
        return super().snapshot()

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state, unless it is another policy's."""
        super().restore(entries)
        if self._state.scales:
            self._losses.restore(self._state.scales)
