"""Two arms take turns by blocks of event time, until one is proven better.

Lives here: rewards by pair of blocks, and the decision.  Never here: whose turn it is (`table.py`), the
interval (`intervals.py`).

    event time   |---- block 0 ----|---- block 1 ----|---- block 2 ----|---- block 3 ----|
    answers      |wash|     b      |wash|     a      |wash|     a      |wash|     b      |
    pair         |<--- mean of a minus mean of b --->|<--- mean of a minus mean of b --->|

A pair is one witness: which of its two blocks an arm has is a coin, so the difference is right on average
whatever else the hours bring, and the pairs before say nothing about it.  It is counted when the labels of
its last event cannot come any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from operators.race.arena import Evidenced, Moment
from operators.race.losses import LossByName
from operators.race.routing import Switchback
from operators.serving.intervals import Interval, MeanInterval
from operators.serving.policy_machine import PolicyMachine, PolicyState, Scale, Setting
from topics.durations import duration_ms
from topics.messages import Decision, Example

__all__ = ["SwitchbackMachine"]

PAIRS_OPEN_MAX = 10_000
"""Pairs that wait for labels; beyond, the oldest is counted as it is."""


class _Sums(msgspec.Struct):
    """Number and sum of the rewards of both arms in a pair of blocks."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    sums: list[float] = msgspec.field(default_factory=lambda: [0.0, 0.0])


class _SwitchbackState(PolicyState):
    differences: MeanInterval = msgspec.field(default_factory=lambda: MeanInterval(0.05))
    """Of the differences of pairs, moved from [-1, 1] to [0, 1]."""
    open: dict[int, _Sums] = msgspec.field(default_factory=dict)
    """Pairs that wait for labels, by number."""
    counted_to: int = 0
    """Pairs before this one have been counted."""
    time: int = 0
    """Largest label time so far, ms."""
    examples: int = 0
    one_sided: int = 0
    """Pairs in which only one arm had outcomes: left out."""
    late: int = 0
    """Outcomes of pairs that had been counted: left out."""


class SwitchbackMachine(PolicyMachine[_SwitchbackState]):
    """A switchback that runs.

    >>> from operators.models.scoring import Racer, Roster
    >>> from operators.race.arena import Arena
    >>> from operators.race.evidence import Promotion
    >>> roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    >>> setting = Setting("shop", Arena("shop", 0, roster, Promotion()), 0)
    >>> switchback = SwitchbackMachine(Switchback(("a", "b"), block="1h"), setting)
    >>> hours = [roster.routing.pick("k", "e", hour * 3_600_000).name for hour in range(4)]
    >>> sorted(hours[:2]), sorted(hours[2:])
    (['a', 'b'], ['a', 'b'])
    >>> switchback.interval().excludes_zero
    False
    """

    kind = "switchback"

    def __init__(self, policy: Switchback, setting: Setting) -> None:
        super().__init__(policy, setting, _SwitchbackState())
        self._policy = policy
        self._scale = Scale(policy.outcome, *policy.reward)
        self._block_ms, self._washout_ms = duration_ms(policy.block), duration_ms(policy.washout)
        self._state.differences = MeanInterval(policy.error)
        self._share()

    def _share(self) -> None:
        arms = self._healthy(self._policy.arms)
        self._route(dict.fromkeys(arms, 0.5), unit="block", block_ms=self._block_ms)

    def observe(self, example: Example, losses: LossByName) -> bool:
        """Add the reward of the arm whose turn it was; return whether a pair is complete."""
        state = self._state
        if state.over:
            return False
        self._dirty = True
        state.time = max(state.time, example.label_time)
        since_ms = example.event_time % self._block_ms
        if self._picked(example) and since_ms >= self._washout_ms and example.model_name in self._policy.arms:
            reward = self._scale.reward(example, losses)
            pair = example.event_time // (2 * self._block_ms)
            if reward is not None and pair < state.counted_to:
                state.late += 1
            elif reward is not None:
                sums = state.open.setdefault(pair, _Sums())
                arm = self._policy.arms.index(example.model_name)
                sums.counts[arm] += 1
                sums.sums[arm] += reward
        return bool(state.open) and self._complete(min(state.open))

    def _complete(self, pair: int) -> bool:
        state, end = self._state, 2 * (pair + 1) * self._block_ms
        return end + self._setting.wait_ms <= state.time or len(state.open) > PAIRS_OPEN_MAX

    def act(self, at: Moment) -> list[Decision]:
        """Count complete pairs, and decide if the interval excludes zero."""
        state = self._state
        while state.open and self._complete(pair := min(state.open)):
            sums = state.open.pop(pair)
            state.counted_to = pair + 1
            if not all(sums.counts):
                state.one_sided += 1
                continue
            state.examples += sum(sums.counts)
            first, second = (total / count for total, count in zip(sums.sums, sums.counts, strict=True))
            state.differences.add((first - second + 1.0) / 2.0)
        found = self.interval()
        if state.differences.count < self._policy.min_pairs or not found.excludes_zero:
            return []
        better = self._policy.arms[found.high < 0.0]
        if not self._roster.healthy(better):
            return []
        evidence: Evidenced = {
            **self._scale.told("difference", found),
            "error": self._policy.error,
            "pairs": state.differences.count,
            "pairs_one_sided": state.one_sided,
            "examples": state.examples,
            "examples_late": state.late,
        }
        reason = f"{self._policy.arms[0]} minus {self._policy.arms[1]}: interval excludes zero"
        return self._win(at, self._write(at, "switchback.decided", better, reason, evidence))

    def interval(self) -> Interval:
        """Return where the first arm's reward minus the second's lies, on average over the pairs so far."""
        found = self._state.differences.interval()
        return Interval(2.0 * found.low - 1.0, 2.0 * found.high - 1.0, 2.0 * found.middle - 1.0)

    def decided(self, at: Moment, decisions: Sequence[Decision]) -> list[Decision]:  # noqa: ARG002
        """Stop taking turns while an arm cannot answer; begin anew with an arm that is another model."""
        changed = self._changed(self._policy.arms, decisions)
        if changed is not None:
            if changed:
                self._state.differences = MeanInterval(self._policy.error)
                self._state.open.clear()
            self._share()
        return []
