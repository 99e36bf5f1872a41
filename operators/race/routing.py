"""Who answers: the serving policies that a definition may name, and what a running one does.

Lives here: what a user writes, every refusal of it, the protocol of the state machine behind a policy.  Never
here: those state machines (`operators/serving`), the pick of one event (`operators/models/table.py`).

    Shadow      the champion answers, the others are scored beside it
    Canary      a challenger that has proven better gets a growing share of the keys before it is champion
    Split       fixed shares by key, until an interval for the difference excludes zero
    Switchback  two arms take turns by blocks of event time, likewise
    Bandit      shares follow the rewards, by a policy of River
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from river import bandit, proba, stats

from operators.models.table import Table
from operators.race.losses import LossName
from operators.state import Operator
from topics.durations import duration_ms
from topics.errors import DefinitionError
from topics.messages import Decision, Example, FeatureValue, Task

if TYPE_CHECKING:
    from operators.race.arena import Moment

__all__ = [
    "Bandit",
    "Canary",
    "Guard",
    "Policy",
    "Routing",
    "Serve",
    "Shadow",
    "Split",
    "Switchback",
    "arms_of",
    "check_backup",
    "check_guards",
    "check_serving",
]

Outcome = Literal["shared", "served"]
"""Whether the label is the same whoever answers (a flight is late or not), or follows from the answer that
was served (a click): then only the served one's outcome counts, and nothing is compared but arms."""

SHARES_TOLERANCE = 1e-9
EXPLORE_MAX = 0.5
BANDITS: dict[type, tuple[type, ...]] = {
    bandit.EpsilonGreedy: (stats.base.Univariate,),
    bandit.UCB: (stats.base.Univariate, proba.Beta, proba.Gaussian),
    bandit.ThompsonSampling: (proba.Beta, proba.Gaussian),
}
"""Policies of River whose whole state is the reward of each arm and how often it was rewarded, and what can
hold the rewards for each."""


@dataclass(frozen=True)
class Shadow:
    """The champion answers every event; the others are scored beside it."""


@dataclass(frozen=True)
class Guard:
    """How much worse than the champion a candidate may be on some rows.

    `worse`
        The mean loss there may be this much above the champion's, in units of the loss.
    `loss`
        By which loss: `"brier"`, `"log"` or `"zero_one"`; None is the one of the promotion.
    `slice`
        A feature and its value: the rows to look at; None is all.
    """

    worse: float
    loss: LossName | None = None
    slice: tuple[str, FeatureValue] | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        if not 0.0 <= self.worse < 1.0:
            raise DefinitionError(f"guard.worse is {self.worse}", hint="give a part of the loss, from 0 to 1")

    @property
    def named(self) -> str:
        """Return what it looks at, in words."""
        rows = f" where {self.slice[0]} is {self.slice[1]!r}" if self.slice is not None else ""
        return f"{self.loss or 'loss'}{rows}"


def check_guards(guards: Iterable[Guard], feature_types: Mapping[str, type], task: Task) -> None:
    """Raise DefinitionError for a guard that would look at nothing, or by a loss that the task has not."""
    for guard in guards:
        if guard.slice is not None and guard.slice[0] not in feature_types:
            raise DefinitionError(
                f"a guard looks at rows by `{guard.slice[0]}`, which is no feature",
                hint=f"name one of: {', '.join(list(feature_types)[:10])}",
            )
        if guard.loss is not None and task == "regression":
            raise DefinitionError(
                f"a guard compares by `{guard.loss}`, and a regression has no such loss",
                hint="leave loss out: it is the one of the promotion",
            )


@dataclass(frozen=True)
class Canary:
    """A challenger that evidence has proven goes up step by step, and back to zero when something breaks.

    `steps`
        The shares of keys that it answers, one after the other; the last is 1.0, and is the swap.
    `hold`
        How long each step lasts: a number of examples, or a span of label time (`"1d"`).
    `guards`
        Where it must not be worse than the champion: a `Guard` each, beside the loss over all rows.
    `error`
        Probability that a canary no worse than its guards say is ever taken back.
    """

    steps: Sequence[float] = (0.01, 0.05, 0.25, 1.0)
    hold: int | str = "1d"
    guards: Sequence[Guard] = ()
    error: float = 0.05

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "guards", tuple(self.guards))
        steps = self.steps
        if not steps or list(steps) != sorted(set(steps)) or steps[0] <= 0.0 or steps[-1] != 1.0:
            raise DefinitionError(
                f"canary.steps are {steps}",
                hint="give growing shares that end with 1.0, as in (0.01, 0.1, 1.0)",
            )
        _check_span("canary.hold", self.hold)
        _check_error("canary.error", self.error)


@dataclass(frozen=True)
class Split:
    """Fixed shares of the traffic for each arm, until one is better than all others.

    `shares`
        Candidates and their shares, which add up to 1.
    `unit`
        `"key"`: all events of a key have one arm; `"event"`: each event is assigned alone.
    `outcome`
        `"shared"`: the reward is 1 minus the loss of the answer; `"served"`: the reward is the label.
    `reward`
        Smallest and largest label, where the label is the reward; labels beyond are cut.
    `error`
        Probability that an arm wins that is not better, however often and long one looks.
    `min_examples`
        Rewards that each arm has before anything is decided.
    """

    shares: Mapping[str, float]
    unit: Literal["key", "event"] = "key"
    outcome: Outcome = "shared"
    reward: tuple[float, float] = (0.0, 1.0)
    error: float = 0.05
    min_examples: int = 1_000

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        total = math.fsum(self.shares.values())
        if len(self.shares) < 2 or min(self.shares.values()) <= 0.0 or abs(total - 1.0) > SHARES_TOLERANCE:
            raise DefinitionError(
                f"split.shares are {dict(self.shares)}",
                hint="give two arms or more with shares above 0 that add up to 1",
            )
        _check_choice("split.unit", self.unit, ("key", "event"))
        _check_outcome("split", self.outcome, self.reward)
        _check_error("split.error", self.error)
        _check_count("split.min_examples", self.min_examples)


@dataclass(frozen=True)
class Switchback:
    """Two arms take turns by blocks of event time: each has one block of a pair, in random order.

    For events that influence one another (drivers of a city, a shared budget), where no key is on its own.

    `arms`
        The two candidates.
    `block`
        Length of a block.
    `washout`
        The first part of each block is answered and not counted: what the arm before has left behind.
    `outcome`
        What an outcome is worth, as in `Split`.
    `reward`
        Smallest and largest label, as in `Split`.
    `error`
        Probability that an arm wins that is not better, however often and long one looks.
    `min_pairs`
        Pairs of blocks before anything is decided.
    """

    arms: tuple[str, str]
    block: str | int = "1h"
    washout: str | int = "6m"
    outcome: Outcome = "shared"
    reward: tuple[float, float] = (0.0, 1.0)
    error: float = 0.05
    min_pairs: int = 20

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        object.__setattr__(self, "arms", tuple(self.arms))
        if len({*self.arms}) != 2 or len(list(self.arms)) != 2:
            raise DefinitionError(f"switchback.arms are {self.arms}", hint="name two candidates")
        block_ms, washout_ms = duration_ms(self.block), duration_ms(self.washout)
        if not washout_ms < block_ms:
            raise DefinitionError(
                f"switchback.washout {self.washout!r} leaves nothing of a block of {self.block!r}",
                hint="give a shorter one",
            )
        _check_outcome("switchback", self.outcome, self.reward)
        _check_error("switchback.error", self.error)
        _check_count("switchback.min_pairs", self.min_pairs)


@dataclass(frozen=True)
class Bandit:
    """Shares follow the rewards, by one of River's bandit policies.

    `policy`
        `bandit.EpsilonGreedy`, `bandit.UCB` or `bandit.ThompsonSampling`, which is cloned.
    `arms`
        Candidates it chooses among; empty: all that race.
    `explore`
        Share of the events that is spread evenly over all arms whatever the policy says: what makes every
        policy measurable afterwards.
    `every`
        Rewards between two tables.
    `outcome`
        As in `Split`; `"shared"` rewards every arm with each label, as all of them score every event.
    `reward`
        Smallest and largest label, as in `Split`.
    """

    policy: Any = field(repr=False)  # River's own fails before the first reward
    arms: Sequence[str] = ()
    explore: float = 0.01
    every: int = 100
    outcome: Outcome = "shared"
    reward: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        object.__setattr__(self, "arms", tuple(self.arms))
        if type(self.policy) not in BANDITS:
            raise DefinitionError(
                f"bandit.policy is {type(self.policy).__name__}",
                hint=f"give one of: {', '.join(f'bandit.{kind.__name__}' for kind in BANDITS)}",
            )
        reward_obj, fitting = self.policy.reward_obj, BANDITS[type(self.policy)]
        if not isinstance(reward_obj, fitting):
            raise DefinitionError(
                f"the reward_obj of bandit.policy is {type(reward_obj).__name__}",
                hint=f"give one such as {' or '.join(kind.__name__ for kind in fitting)}",
            )
        if getattr(self.policy, "reward_scaler", None) is not None:
            raise DefinitionError(
                "bandit.policy has a reward_scaler", hint="leave it out: rewards are in [0, 1] already"
            )
        if not 0.0 < self.explore <= EXPLORE_MAX:
            raise DefinitionError(f"bandit.explore is {self.explore}", hint="give a share in (0, 0.5]")
        _check_count("bandit.every", self.every)
        _check_outcome("bandit", self.outcome, self.reward)


Policy = Shadow | Canary | Split | Switchback | Bandit


@dataclass(frozen=True)
class Serve:
    """Until when an answer is worth waiting for.

    `deadline`
        An event that is older than this when its turn comes is answered by the backup: the worker's clock
        against the record's timestamp.
    `backup`
        The candidate that answers then, one that is quick; after it the prior.
    """

    deadline: str | int
    backup: str

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        if not duration_ms(self.deadline):
            raise DefinitionError(f"deadline is {self.deadline!r}", hint='give a span such as "20ms"')

    @property
    def deadline_ms(self) -> int:
        """Return the deadline in milliseconds."""
        return duration_ms(self.deadline)


# -- what is refused ----------------------------------------------------------------------------------


def check_serving(policy: Policy, names: Iterable[str], task: Task) -> None:
    """Refuse a policy that does not fit the candidates `names` or the task.  Raises DefinitionError."""
    known = list(names)
    for arm in arms_of(policy):
        if arm not in known:
            raise DefinitionError(
                f"serving names `{arm}`, which is no model", hint=f"name one of: {', '.join(known)}"
            )
    if getattr(policy, "outcome", "shared") == "served" and task == "multiclass":
        raise DefinitionError(
            'serving has outcome="served" and the task is multiclass: a class is no reward',
            hint='use outcome="shared", or a binary or regression task whose label is the reward',
        )


def check_backup(serve: Serve, models: Mapping[str, Any], *, inside: bool) -> None:
    """Refuse a deadline that cannot be kept.  Raises DefinitionError.

    `inside` says whether labels come inside events, where answers and lessons take turns.
    """
    own = [name for name, model in models.items() if hasattr(model, "predict_one")]
    if serve.backup not in own:
        raise DefinitionError(
            f"deadline.backup is `{serve.backup}`, which is no model that scores by itself",
            hint=f"name one of: {', '.join(own)}",
        )
    if inside:
        raise DefinitionError(
            "a deadline is given and labels come inside events, which are learned one after the other",
            hint="leave the deadline out, or let labels come on a topic of their own",
        )


def arms_of(policy: Policy) -> tuple[str, ...]:
    """Return the candidates that a policy names."""
    match policy:
        case Split():
            return tuple(policy.shares)
        case Switchback() | Bandit():
            return tuple(policy.arms)
    return ()


def _check_span(name: str, value: int | str) -> None:
    size = duration_ms(value) if isinstance(value, str) else value
    if size < 1:
        raise DefinitionError(f"{name} is {value!r}", hint='give a number of examples or a span such as "1d"')


def _check_error(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise DefinitionError(f"{name} is {value}", hint="give a probability such as 0.05")


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise DefinitionError(f"{name} is {value}", hint="give 1 or more")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise DefinitionError(f"{name} is {value!r}", hint=f"give one of: {', '.join(choices)}")


def _check_outcome(name: str, outcome: str, reward: tuple[float, float]) -> None:
    _check_choice(f"{name}.outcome", outcome, ("shared", "served"))
    if not -math.inf < reward[0] < reward[1] < math.inf:
        raise DefinitionError(f"{name}.reward is {reward}", hint="give the smallest and the largest label")


# -- what a running policy does -----------------------------------------------------------------------


class Routing(Operator, Protocol):
    """The state machine behind a policy, folded by the learner; its table is `roster.routing`."""

    @property
    def paired(self) -> bool:
        """Return whether evidence by pairs may swap now: the label does not depend on who answered."""
        ...

    @property
    def table(self) -> Table | None:
        """Return the table that holds now; None: the champion answers all."""
        ...

    @property
    def revision(self) -> int:
        """Return the number of the last table; the next policy's go on from it."""
        ...

    def end(self, at: Moment, reason: str) -> list[Decision]:
        """Make room for another policy; return what was under way and ends here."""
        ...

    def observe(self, example: Example, losses: Mapping[str, float | None]) -> bool:
        """Add one example, with the loss of each candidate; return whether `act` has something to do."""
        ...

    def act(self, at: Moment) -> list[Decision]:
        """Do what is due at the last example; return what was decided, if anything."""
        ...

    def decided(self, at: Moment, decisions: Sequence[Decision]) -> list[Decision]:
        """Follow what was decided about candidates; return what follows from it."""
        ...
