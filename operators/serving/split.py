"""A/B: fixed shares of the traffic, until one arm is proven better than all others.

Lives here: rewards by arm, and the decision.  Never here: the interval (`intervals.py`).

    examples      reward of the arm that answered, into the bucket of its key
    every 64      the interval of each difference; the best arm against every other excludes zero?
    then          split.decided, the best arm is champion, the split is over

Which arm a key has depends on a hash of it; which bucket it is in on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import msgspec

from operators.models.table import number_of
from operators.race.arena import Evidenced, Moment
from operators.race.losses import LossByName
from operators.race.routing import Split
from operators.serving.intervals import BUCKETS, ArmSums, Interval, arm_difference
from operators.serving.policy_machine import PolicyMachine, PolicyState, Scale, Setting
from topics.messages import Decision, Example

__all__ = ["SplitMachine"]

CHECK_EVERY = 64
"""Rewards between two looks: a look costs as much as some hundred rewards."""


class _SplitState(PolicyState):
    arms: dict[str, ArmSums] = msgspec.field(default_factory=dict)
    unchecked: int = 0


class SplitMachine(PolicyMachine[_SplitState]):
    """A split that runs.

    >>> from operators.models.scoring import Racer, Roster
    >>> from operators.race.arena import Arena
    >>> from operators.race.evidence import Promotion
    >>> roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    >>> setting = Setting("shop", Arena("shop", 0, roster, Promotion()), 0)
    >>> split = SplitMachine(Split({"a": 0.5, "b": 0.5}, outcome="served"), setting)
    >>> roster.routing.shares, roster.routing.revision
    ((('a', 0.5), ('b', 0.5)), 1)
    """

    kind = "split"

    def __init__(self, policy: Split, setting: Setting) -> None:
        super().__init__(policy, setting, _SplitState())
        self._policy = policy
        self._scale = Scale(policy.outcome, *policy.reward)
        self._salt = f"{setting.pipeline}/split/buckets"
        self._state.arms = {name: ArmSums() for name in policy.shares}
        self._share()

    def _share(self) -> None:
        shares = self._policy.shares
        self._route({name: shares[name] for name in self._healthy([*shares])}, unit=self._policy.unit)

    def observe(self, example: Example, losses: LossByName) -> bool:
        """Add the reward of the arm that answered; return whether it is time to look."""
        state = self._state
        arm = state.arms.get(example.model_name)
        if state.over or arm is None or not self._picked(example):
            return False
        reward = self._scale.reward(example, losses)
        if reward is None:
            return False
        unit = example.key if self._policy.unit == "key" else example.event_id
        arm.add(number_of(self._salt, unit) % BUCKETS, reward)
        state.unchecked += 1
        self._dirty = True
        return state.unchecked >= CHECK_EVERY

    def act(self, at: Moment) -> list[Decision]:
        """Decide if the best arm is proven better than every other one that can answer."""
        state = self._state
        state.unchecked = 0
        arms = {name: state.arms[name] for name in self._healthy([*state.arms])}
        if len(arms) < 2 or min(arm.count for arm in arms.values()) < self._policy.min_examples:
            return []
        best = max(arms, key=lambda name: arms[name].mean)
        found = self.intervals()
        against = {name: found[best, name] for name in arms if name != best}
        if any(interval.low <= 0.0 for interval in against.values()):
            return []
        nearest = min(against, key=lambda name: against[name].low)
        evidence: Evidenced = {
            **self._scale.told("difference", against[nearest]),
            "against": nearest,
            "error": self._policy.error,
        }
        for name, arm in arms.items():
            evidence[f"examples_{name}"] = arm.count
            evidence[f"reward_{name}"] = arm.mean
        return self._win(at, self._write(at, "split.decided", best, "interval excludes zero", evidence))

    def intervals(self) -> dict[tuple[str, str], Interval]:
        """Return the interval of the first arm's reward minus the second's, for all pairs both ways round.

        All of them hold at once, at every moment, but for the policy's `error`.
        """
        pairs = list(combinations(self._state.arms, 2))
        found = {}
        for first, second in pairs:
            arms = self._state.arms[first], self._state.arms[second]
            one = found[first, second] = arm_difference(*arms, self._policy.error / len(pairs))
            found[second, first] = Interval(-one.high, -one.low, -one.middle)
        return found

    def decided(self, at: Moment, decisions: Sequence[Decision]) -> list[Decision]:  # noqa: ARG002
        """Share among the arms that can answer; an arm that is another model now begins anew."""
        changed = self._changed([*self._state.arms], decisions)
        if changed is not None:
            self._state.arms |= {name: ArmSums() for name in changed}
            self._share()
        return []
