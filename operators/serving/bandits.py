"""Shares follow the rewards, by one of River's bandit policies.

Lives here: rewards into River's policy, and its pulls into a table.  Never here: a policy of our own.

River's policies pull one arm at a time, with a random generator of their own; a scorer needs who answers as
a function of a table.  So a table is what the policy does as it stands: it is asked `PULLS` times, and how
often it says an arm is the arm's share, but for the part that is spread evenly (`explore`).  Between two
tables no share moves, so the propensity on a prediction is exact.  Rewards that come in batches cost a
bandit little (O. Chapelle, L. Li, "An empirical evaluation of Thompson sampling", 2011, section 4).

A Beta distribution takes rewards of 0 or 1: one in between is tossed for, by hash of the event id
(S. Agrawal, N. Goyal, "Analysis of Thompson sampling for the multi-armed bandit problem", 2012,
algorithm 2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from river import bandit, proba

from operators.models.table import number_of, share_of
from operators.race.arena import Moment
from operators.race.losses import LossByName
from operators.race.routing import Bandit
from operators.serving.policy_machine import (
    PolicyMachine,
    PolicyState,
    Scale,
    Setting,
    reward_of_loss,
)
from operators.state import StateEntries
from topics.messages import Decision, Example

__all__ = ["BanditMachine"]

PULLS = 200
"""Pulls for one table, some 0.3 ms: shares are told in steps of half a percent."""
SEED_BITS = 32


class _BanditState(PolicyState):
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    """Rewards of each arm."""
    rewards: dict[str, bytes] = msgspec.field(default_factory=dict)
    """River's reward object of each arm, stored."""
    waiting: int = 0
    """Examples rewarded since the last table."""


class BanditMachine(PolicyMachine[_BanditState]):
    """A bandit that runs.

    `dump` and `load` turn River's reward objects into bytes and back.

    >>> import pickle
    >>> from operators.models.scoring import Racer, Roster
    >>> from operators.race.arena import Arena
    >>> from operators.race.evidence import Promotion
    >>> roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    >>> setting = Setting("shop", Arena("shop", 0, roster, Promotion()), 0)
    >>> policy = Bandit(bandit.UCB(0.1), explore=0.02, every=1)
    >>> machine = BanditMachine(policy, setting, pickle.dumps, pickle.loads)
    >>> example = Example("e", "k", 0, 9, True, {}, {}, 0.5, "arm", "a", 0, 0, 0, 1, 0)
    >>> machine.observe(example, {"a": 0.9, "b": 0.1}), machine.act(Moment(7, 0, 0))
    (True, [])
    >>> [(name, round(share, 2)) for name, share in roster.routing.shares]
    [('a', 0.01), ('b', 0.99)]
    """

    kind = "bandit"

    def __init__(
        self,
        policy: Bandit,
        setting: Setting,
        dump: Callable[[Any], bytes],
        load: Callable[[bytes], Any],
    ) -> None:
        super().__init__(policy, setting, _BanditState())
        self._policy = policy
        self._scale = Scale(policy.outcome, *policy.reward)
        self._salt = f"{setting.pipeline}/bandit"
        self._dump, self._load = dump, load
        self._bandit = policy.policy.clone()
        self._tossed = isinstance(policy.policy.reward_obj, proba.Beta)
        self._share()

    @property
    def _arms(self) -> list[str]:
        return self._healthy(self._known)

    @property
    def _known(self) -> Sequence[str]:
        """Return the candidates that may be arms, in order of start."""
        return self._policy.arms or [
            name for name, state in self._arena.states.items() if state in {"champion", "challenger"}
        ]

    def _share(self) -> None:
        """Set the next table from what the policy does as it stands."""
        arms, river = self._arms, self._bandit
        seed = self._policy.policy.seed or 0
        river._rng.seed(number_of(f"{self._salt}/{seed}", str(self._state.revision)) >> SEED_BITS)
        if isinstance(river, bandit.ThompsonSampling):
            for arm in arms:  # each gets a seed when it is first asked for
                river._rewards[arm]
        pulled = Counter(river.pull(arms) for _ in range(PULLS if len(arms) > 1 else 0))
        even, left = self._policy.explore / max(len(arms), 1), 1.0 - self._policy.explore
        self._route({arm: even + left * pulled[arm] / PULLS for arm in arms}, unit="event")

    def observe(self, example: Example, losses: LossByName) -> bool:
        """Reward the arms that an example tells of; return whether the next table is due."""
        state = self._state
        if self._policy.outcome == "shared":
            rewards = {name: reward_of_loss(losses.get(name)) for name in state.routed}
        elif self._picked(example) and example.model_name in state.routed:
            rewards = {example.model_name: self._scale.reward(example, losses)}
        else:
            return False
        place = share_of(f"{self._salt}/toss", example.event_id) if self._tossed else 0.0
        for name, reward in rewards.items():
            if reward is not None:
                self._bandit.update(name, place < reward if self._tossed else reward)
        state.waiting += 1
        self._dirty = True
        return state.waiting >= self._policy.every

    def act(self, at: Moment) -> list[Decision]:  # noqa: ARG002
        """Set the next table."""
        self._state.waiting = 0
        self._share()
        return []

    def decided(self, at: Moment, decisions: Sequence[Decision]) -> list[Decision]:  # noqa: ARG002
        """Share among the arms that can answer; one that is another model now is tried anew."""
        changed = self._changed(self._known, decisions)
        if changed is not None:
            for name in changed:
                self._bandit._rewards.pop(name, None)
                self._bandit._n -= self._bandit._counts.pop(name, 0)
            self._share()
        return []

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        river = self._bandit
        self._state.counts = dict(river._counts)
        self._state.rewards = {name: self._dump(reward) for name, reward in river._rewards.items()}
        return super().snapshot()

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state, unless it is another policy's."""
        super().restore(entries)
        river = self._bandit = self._policy.policy.clone()
        river._counts.update(self._state.counts)
        river._n = sum(self._state.counts.values())
        river._rewards.update({name: self._load(data) for name, data in self._state.rewards.items()})
        self._state.counts, self._state.rewards = {}, {}
