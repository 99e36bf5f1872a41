"""A challenger goes up step by step before it is champion, and back to zero when something breaks.

Lives here: the steps, the watches beside them.  Never here: when a swap is due (`arena.py` asks), whether a
challenger is too slow (the shell measures, the arena retires it, and its canary ends).

    due        canary.started, the first step's share of the keys
    hold over  canary.stepped, the next share; at 1.0 canary.done and model.promoted
    broken     canary.aborted, share 0: what was proven is forgotten, evidence starts anew

All candidates score every event, whoever answers, so each watch sees every example, not only the share: the
challenger's loss minus the champion's, by an interval that may be looked at after each.  A watch breaks where
the whole interval is above what its guard allows.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from operators.race.arena import Evidenced, Moment
from operators.race.losses import Loss, loss_of
from operators.race.routing import Canary, Guard
from operators.serving.intervals import MeanInterval
from operators.serving.policy_machine import ENTERING, LossByName, PolicyMachine, PolicyState, Setting
from topics.durations import duration_ms
from topics.messages import Decision, Example, Task

__all__ = ["CanaryMachine"]

HOLDS_MAX = 3
"""A challenger that is no better than the champion after so many holds of one step has had its time."""
ALL_ROWS = Guard(0.0)
"""Beside the guards of the definition: the evidence must not turn."""


class _Canary(msgspec.Struct):
    """The challenger that goes up."""

    name: str
    champion: str
    step: int
    """Which share it has."""
    watches: list[MeanInterval]
    """Challenger's loss minus champion's, moved from [-1, 1] to [0, 1]: all rows, then a guard each."""
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


class _CanaryState(PolicyState):
    runs: int = 0
    """Canaries so far: each has keys of its own."""
    up: _Canary | None = None


class CanaryMachine(PolicyMachine[_CanaryState]):
    """Canaries, one at a time.

    >>> from operators.models.scoring import Racer, Roster
    >>> from operators.race.arena import Arena
    >>> from operators.race.evidence import Promotion
    >>> roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    >>> setting = Setting("shop", Arena("shop", 0, roster, Promotion()), 0)
    >>> canary = CanaryMachine(Canary(steps=(0.1, 1.0), hold=500), setting, "binary", 0.5)
    >>> [decision.type for decision in canary.begin(Moment(7, 0, 0), "b", {"effect": 0.1})]
    ['canary.started']
    >>> roster.routing.shares, canary.begin(Moment(8, 0, 0), "b", {})
    ((('b', 0.1), ('a', 0.9)), [])
    """

    kind = "canary"

    def __init__(self, policy: Canary, setting: Setting, task: Task, threshold: float) -> None:
        super().__init__(policy, setting, _CanaryState())
        self._policy = policy
        self._guards = (ALL_ROWS, *policy.guards)
        self._losses: list[Loss | None] = [
            None if guard.loss is None else loss_of(task, guard.loss, threshold) for guard in self._guards
        ]
        self._hold_ms = duration_ms(policy.hold) if isinstance(policy.hold, str) else None
        self._arena.canary = self.begin

    @property
    def paired(self) -> bool:
        """Return whether another swap may come due: not while one is under way."""
        return self._state.up is None

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
            self._route({state.up.name: share, state.up.champion: 1.0 - share}, run=state.runs)
        return share

    def _reached(self, at: Moment) -> list[Decision]:
        """Make the challenger champion if it has everything."""
        up = self._state.up
        if up is None or self._policy.steps[up.step] < 1.0:
            return []
        done = self._write(at, "canary.done", up.name, "last step", self._told(up.watches[0]))
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
        if up is None:
            return False
        self._dirty = True
        up.examples += 1
        up.time = max(up.time, example.label_time)
        broken = False
        for guard, loss, watch in zip(self._guards, self._losses, up.watches, strict=True):
            if guard.slice is not None and example.features.get(guard.slice[0]) != guard.slice[1]:
                continue
            # Of a score that a former model of the name gave, there is no loss.
            ours, theirs = losses.get(up.name), losses.get(up.champion)
            if loss is not None and ours is not None and theirs is not None:
                ours, theirs = (loss(example.label, example.scores[name]) for name in (up.name, up.champion))
            if ours is not None and theirs is not None:
                watch.add((min(max(ours - theirs, -1.0), 1.0) + 1.0) / 2.0)
                broken = broken or _low(watch) > guard.worse
        return broken or self._held(up)

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
        for guard, watch in zip(self._guards, up.watches, strict=True):
            if _low(watch) > guard.worse:
                reason = "evidence turned" if guard is ALL_ROWS else f"guard: {guard.named}"
                return [self._abort(at, reason, watch, guard.worse)]
        if not self._held(up):
            return []
        if up.watches[0].interval().middle > 0.5:
            up.holds += 1
            if up.holds < HOLDS_MAX:
                return []
            return [self._abort(at, f"no better after {HOLDS_MAX} holds", up.watches[0], 0.0)]
        up.step, up.holds = up.step + 1, 0
        up.stepped_time, up.stepped_examples = up.time, up.examples
        share = self._share()
        if share == 1.0:
            return self._reached(at)
        return [self._write(at, "canary.stepped", up.name, f"share {share:g}", self._told(up.watches[0]))]

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
        return [self._abort(at, reason, up.watches[0], 0.0)]

    def end(self, at: Moment, reason: str) -> list[Decision]:
        """Take back a challenger that is on its way up."""
        up = self._state.up
        return [] if up is None else [self._abort(at, reason, up.watches[0], 0.0)]

    def _abort(self, at: Moment, reason: str, watch: MeanInterval, worse: float) -> Decision:
        up = self._state.up
        assert up is not None
        # One that has left the roster is told of by who answers in its place.
        name = up.name if up.name in self._roster.racers else self._roster.champion
        evidence = {**self._told(watch), "challenger": up.name, "allowed": worse}
        self._down()
        return self._write(at, "canary.aborted", name, reason, evidence)

    def _told(self, watch: MeanInterval) -> Evidenced:
        up = self._state.up
        assert up is not None
        found = watch.interval()
        return {
            "share": self._policy.steps[up.step],
            "examples": up.examples,
            "compared": watch.count,
            "worse": 2.0 * found.middle - 1.0,
            "low": 2.0 * found.low - 1.0,
            "high": 2.0 * found.high - 1.0,
        }


def _low(watch: MeanInterval) -> float:
    """Return the least by which the challenger is worse than the champion."""
    return 2.0 * watch.interval().low - 1.0
