"""What all policies share while they run: the table, its revisions, the arms that can answer, rewards.

Lives here: the run of a policy, from its first table to its decision.  Never here: what a policy does with
rewards (a file each), what a user writes (`operators/race/routing.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from operators.models.parameters import model_text
from operators.models.table import Table, Unit
from operators.race.arena import Arena, Evidenced, Moment
from operators.race.losses import LossByName
from operators.race.routing import Outcome, Policy, Timed
from operators.serving.intervals import Interval
from operators.state import StateEntries, WholeState
from topics.messages import Decision, DecisionType, Example, Slow

__all__ = ["ENTERING", "PolicyMachine", "PolicyState", "Scale", "Setting", "reward_of_loss"]

ENTRY = "routing"
"""Name of the state in a checkpoint."""
REWARDED = frozenset({"champion", "arm"})
"""Who answers when a pick is followed; every other tier answers in its place, and says nothing about it."""

ENTERING = frozenset({"candidate.entered"})
"""Decisions after which a name stands for another model."""


class Setting(NamedTuple):
    """Where a policy runs."""

    pipeline: str
    arena: Arena
    wait_ms: int
    """How long after an event its label may come, ms."""
    revision: int = 0
    """Of the last table of the policy before, which may be of the same kind: this one's go on from it."""


class Scale(NamedTuple):
    """What an outcome is worth, in [0, 1]."""

    outcome: Outcome
    low: float
    high: float

    def reward(self, example: Example, losses: LossByName) -> float | None:
        """Return the reward of the answer that was served; None without one."""
        if self.outcome == "shared":
            return reward_of_loss(losses.get(example.model_name))
        return min(max((float(example.label) - self.low) / self.range, 0.0), 1.0)

    @property
    def range(self) -> float:
        """Return what a reward of 1 is more than one of 0, in units of the label or of the loss."""
        return 1.0 if self.outcome == "shared" else self.high - self.low

    def told(self, name: str, interval: Interval) -> Evidenced:
        """Return an interval in those units, for a decision."""
        return {
            name: interval.middle * self.range,
            "low": interval.low * self.range,
            "high": interval.high * self.range,
        }


def reward_of_loss(loss: float | None) -> float | None:
    """Return 1 minus a loss, which is cut to [0, 1]."""
    return None if loss is None else 1.0 - min(max(loss, 0.0), 1.0)


class PolicyState(msgspec.Struct):
    """The state of any policy; each adds its own."""

    settings: str = ""
    """Text of the policy: the state of another one is not restored."""
    revision: int = 0
    """Number of the last table."""
    begun: int = 0
    """Revision from which on rewards count."""
    over: bool = False
    """Whether all is decided: the champion answers."""
    table: Table | None = None
    routed: list[str] = []
    """Arms that it was made of."""


State = TypeVar("State", bound=PolicyState)


class PolicyMachine(WholeState, Generic[State]):
    """The state machine of a policy; its table is always that of the roster."""

    kind = ""
    """Name of the policy on predictions."""

    def __init__(self, policy: Policy, setting: Setting, state: State) -> None:
        self._setting = setting
        self._outcome: Outcome = getattr(policy, "outcome", "shared")
        self._arena = setting.arena
        self._roster = setting.arena.roster
        state.settings = model_text(policy)
        state.revision, state.begun = setting.revision, setting.revision + 1
        self._state: State = state

    @property
    def paired(self) -> bool:
        """Return whether evidence by pairs may swap now: the label does not depend on who answered."""
        return self._outcome == "shared"

    @property
    def table(self) -> Table | None:
        """Return the table that holds now; None: the champion answers all."""
        return self._state.table

    @property
    def revision(self) -> int:
        """Return the number of the last table."""
        return self._state.revision

    @property
    def timed(self) -> Timed | None:
        """Return whose scoring time is guarded now."""
        return None

    def too_slow(self, at: Moment, report: Slow) -> list[Decision]:  # noqa: ARG002
        """Act on a time that a worker has measured; return what was decided."""
        return []

    def end(self, at: Moment, reason: str) -> list[Decision]:  # noqa: ARG002
        """Make room for another policy; what this one knows of its arms ends with it."""
        return []

    @abstractmethod
    def observe(self, example: Example, losses: LossByName) -> bool:
        """Add one example, with the loss of each candidate; return whether `act` has something to do."""

    @abstractmethod
    def act(self, at: Moment) -> list[Decision]:
        """Do what is due at the last example; return what was decided."""

    @abstractmethod
    def decided(self, at: Moment, decisions: Sequence[Decision]) -> list[Decision]:
        """Follow what was decided about candidates; return what follows from it."""

    # -- for the policies -------------------------------------------------------------------------

    def _route(
        self,
        shares: Mapping[str, float],
        *,
        unit: Unit = "key",
        block_ms: int = 0,
        run: int = 1,
        tolerated: tuple[str, ...] = (),
    ) -> None:
        """Set the next table: arms and shares; fewer than two arms leave all to the champion."""
        state = self._state
        state.revision += 1
        self._dirty = True
        state.routed = [*shares]
        total = sum(shares.values())
        state.table = (
            Table(
                self.kind,
                f"{self._setting.pipeline}/{self.kind}/{run}",
                state.revision,
                tuple((name, share / total) for name, share in shares.items()),
                unit,
                block_ms,
                tolerated,
            )
            if len(shares) > 1
            else None
        )
        self._roster.routing = state.table

    def _healthy(self, arms: Sequence[str]) -> list[str]:
        return [name for name in arms if self._roster.healthy(name)]

    def _changed(self, arms: Sequence[str], decisions: Sequence[Decision]) -> set[str] | None:
        """Return the arms that are another model since these decisions; None if all are as they were."""
        entered = {one.model_name for one in decisions if one.type in ENTERING} & {*arms}
        if self._state.over or (not entered and self._healthy(arms) == self._state.routed):
            return None
        if entered:
            self._state.begun = self._state.revision + 1
        return entered

    def _picked(self, example: Example) -> bool:
        """Return whether an example was answered as this policy had picked since it began."""
        return (
            example.policy == self.kind
            and example.policy_revision >= self._state.begun
            and example.propensity is not None
            and example.served_by in REWARDED
        )

    def _write(
        self, at: Moment, decision_type: DecisionType, name: str, reason: str, evidence: Evidenced
    ) -> Decision:
        return self._arena.write(at, decision_type, name, reason, evidence=evidence)

    def _win(self, at: Moment, decided: Decision) -> list[Decision]:
        """End the run with its winner as champion, unless another one is pinned."""
        self._state.over = True
        self._state.table = self._roster.routing = None
        self._dirty = True
        winner = decided.model_name
        if winner == self._roster.champion or self._arena.pinned or not self._roster.healthy(winner):
            return [decided]
        return [decided, self._arena.crown(winner, at, self.kind, evidence=decided.evidence)]

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {ENTRY: msgspec.msgpack.encode(self._state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state, unless it is another policy's."""
        if ENTRY in entries:
            settings = msgspec.msgpack.decode(entries[ENTRY], type=PolicyState).settings
            if settings == self._state.settings:
                self._state = msgspec.msgpack.decode(entries[ENTRY], type=type(self._state))
        self._roster.routing = self._state.table
        self._dirty = False
