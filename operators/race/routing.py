"""Who answers: the serving policies that a definition may name, and what a running one does.

Lives here: what a user writes, every refusal of it, the protocol of the state machine behind a policy.  Never
here: those state machines (`operators/serving`), the pick of one event (`operators/models/table.py`).

    Shadow      the champion answers, the others are scored beside it
    Canary      a challenger that has proven better gets a growing share of the keys before it is champion;
                guards take it back: by loss, by scoring time, by failed scores
    Split       fixed shares by key, until an interval for the difference excludes zero
    Switchback  two arms take turns by blocks of event time, likewise
    Bandit      shares follow the rewards, by a policy of River
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

from river import bandit, proba, stats

from operators.models.table import Table
from operators.race.losses import (
    LossByName,
    Objective,
    check_objective,
    judged_by,
    loss_max,
    loss_of,
    objective_name,
)
from operators.state import Operator
from topics.durations import duration_ms
from topics.errors import DefinitionError
from topics.messages import Decision, Example, FeatureValue, Slow, Task

if TYPE_CHECKING:
    from operators.race.arena import Moment

__all__ = [
    "BANDITS",
    "Bandit",
    "Canary",
    "CanaryGuard",
    "FailureGuard",
    "Guard",
    "LatencyGuard",
    "Policy",
    "Routing",
    "Serve",
    "Shadow",
    "Split",
    "Switchback",
    "Timed",
    "arms_of",
    "check_backup",
    "check_canary",
    "check_guards",
    "check_serving",
]

Outcome = Literal["shared", "served"]
"""Whether the label is the same whoever answers (a flight is late or not), or follows from the answer that
was served (a click): then only the served one's outcome counts, and nothing is compared but arms."""

SHARES_TOLERANCE = 1e-9
EXPLORE_MAX = 0.5
WINDOW_MAX = 100_000
"""Events of a guard's window: times and failures of so many are kept."""
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
        By which loss: all that `Promotion(loss=...)` takes; None is the one of the promotion.
    `slice`
        A feature and its value: the rows to look at; `"found"`, of a veto alone: those of each slice that the
        search for worse slices has found, since then; None is all.
    `difference_max`
        Of a canary's guard: the most by which two losses of one row count as apart; what is further apart is
        cut there.  None is the largest loss: 1, or the largest cost of a cost matrix.  A River metric that
        has none (`MSE`, `LogLoss`) needs it.
    `name`
        What decisions call it; empty: its loss and slice.
    """

    worse: float
    loss: Objective | None = None
    slice: tuple[str, FeatureValue] | Literal["found"] | None = None
    difference_max: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        if self.loss is not None:
            check_objective(self.loss, "guard.loss")
        if not 0.0 <= self.worse < math.inf:
            raise DefinitionError(f"guard.worse is {self.worse}", hint="give units of the loss, 0 or more")
        _check_difference("guard.difference_max", self.difference_max)

    @property
    def named(self) -> str:
        """Return what it looks at, in words."""
        rows = f" where {self.slice[0]} is {self.slice[1]!r}" if isinstance(self.slice, tuple) else ""
        return self.name or f"{objective_name(self.loss)}{rows}"

    def looks_at(self, features: Mapping[str, FeatureValue]) -> bool:
        """Return whether it looks at a row; at those of slices that are found the search looks for it."""
        if isinstance(self.slice, tuple):
            return features.get(self.slice[0]) == self.slice[1]
        return self.slice is None


@dataclass(frozen=True)
class LatencyGuard:
    """How long a challenger on its way up may take to score an event, as the leading worker measures it.

    `limit_ms`
        Milliseconds that a score may take.
    `quantile`
        Of the scoring times of the window: 0.5 is their median.  Events of one turn of the worker's loop
        count with the mean of that turn.
    `window`
        Latest events that are measured, of this canary; before there are so many nothing is said.
    `name`
        What decisions call it; empty: `latency`, with the quantile.
    """

    limit_ms: float
    quantile: float = 0.5
    window: int = 1_000
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        if not 0.0 < self.limit_ms < math.inf:
            raise DefinitionError(f"latency.limit_ms is {self.limit_ms}", hint="give milliseconds above 0")
        if not 0.0 < self.quantile < 1.0:
            raise DefinitionError(f"latency.quantile is {self.quantile}", hint="give a share such as 0.99")
        _check_window("latency.window", self.window)

    @property
    def named(self) -> str:
        """Return what it looks at, in words."""
        return self.name or f"latency at {self.quantile:g}"


@dataclass(frozen=True)
class FailureGuard:
    """How many scores of a challenger on its way up may fail: it raises, or gives no finite number.

    While its canary lasts, such a score costs it the event, which the fallback chain answers, and not its
    place in the race.

    `share`
        Of the latest examples, the share that may lack its score.
    `window`
        Latest examples of events that were answered since its canary began.
    `name`
        What decisions call it; empty: `failures`.
    """

    share: float
    window: int = 1_000
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        if not 0.0 <= self.share < 1.0:
            raise DefinitionError(f"failures.share is {self.share}", hint="give a share such as 0.01")
        _check_window("failures.window", self.window)

    @property
    def named(self) -> str:
        """Return what it looks at, in words."""
        return self.name or "failures"


CanaryGuard = Guard | LatencyGuard | FailureGuard
_Guard = TypeVar("_Guard", Guard, LatencyGuard, FailureGuard)


def check_guards(
    guards: Iterable[Guard],
    feature_types: Mapping[str, type],
    task: Task,
    threshold: float = 0.5,
    *,
    searched: bool = False,
) -> None:
    """Raise DefinitionError for a guard that would look at nothing, or by a loss that the task has not.

    `searched` says that worse slices are looked for, and what is found may be looked at.
    """
    for guard in guards:
        given: object = guard.slice
        if isinstance(given, str) and not (searched and given == "found" and guard.loss is None):
            raise DefinitionError(
                f"a guard looks at rows by {guard.slice!r}",
                hint="give a feature and its value; or, for a veto beside slices=[...] or worst=Worst(), "
                'slice="found" without a loss',
            )
        if isinstance(guard.slice, tuple) and guard.slice[0] not in feature_types:
            raise DefinitionError(
                f"a guard looks at rows by `{guard.slice[0]}`, which is no feature",
                hint=f"name one of: {', '.join(list(feature_types)[:10])}",
            )
        if isinstance(guard.loss, str) and task == "regression":
            raise DefinitionError(
                f"a guard compares by `{guard.loss}`, and a regression has no such loss",
                hint="leave loss out: it is the one of the promotion",
            )
        if guard.loss is not None:
            loss_of(task, guard.loss, threshold, "guard.loss")


@dataclass(frozen=True)
class Canary:
    """A challenger that evidence has proven goes up step by step, and back to zero when something breaks.

    `steps`
        The shares of keys that it answers, one after the other; the last is 1.0, and is the swap.
    `hold`
        How long each step lasts: a number of examples, or a span of label time (`"1d"`).
    `guards`
        What takes it back, beside the loss over all rows: a `Guard` (worse than the champion), a
        `LatencyGuard` (slow) or a `FailureGuard` (scores that fail) each.
    `error`
        Probability that a canary no worse than its guards say is ever taken back for its losses.
    `difference_max`
        The most by which two losses of one row count as apart over all rows, as in `Guard`.
    """

    steps: Sequence[float] = (0.01, 0.05, 0.25, 1.0)
    hold: int | str = "1d"
    guards: Sequence[CanaryGuard] = ()
    error: float = 0.05
    difference_max: float | None = None

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
        _check_difference("canary.difference_max", self.difference_max)
        for guard in self.guards:
            if not isinstance(guard, CanaryGuard):
                raise DefinitionError(
                    f"canary.guards has {guard!r}",
                    hint="give Guard(0.02), LatencyGuard(5.0) or FailureGuard(0.01) each",
                )
        names = [guard.named for guard in self.guards]
        if twice := [name for name in names if names.count(name) > 1]:
            raise DefinitionError(
                f"canary.guards has `{twice[0]}` twice", hint="give each a name of its own: name=..."
            )

    def guards_of(self, kind: type[_Guard]) -> tuple[_Guard, ...]:
        """Return the guards of one kind, in order."""
        return tuple(guard for guard in self.guards if isinstance(guard, kind))


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


def check_canary(
    canary: Canary, objective: Objective, feature_types: Mapping[str, type], task: Task, *, inside: bool
) -> None:
    """Refuse guards that cannot be kept, where the race is by `objective`.  Raises DefinitionError.

    `inside` says whether labels come inside events, where answers and lessons take turns.
    """
    guards = canary.guards_of(Guard)
    check_guards(guards, feature_types, task)
    for where, loss, given, worse in (
        ("canary.difference_max", objective, canary.difference_max, 0.0),
        *(
            (
                f"guard.difference_max of `{guard.named}`",
                guard.loss or objective,
                guard.difference_max,
                guard.worse,
            )
            for guard in guards
        ),
    ):
        most = loss_max(task, loss) if given is None else given
        if most is None:
            raise DefinitionError(
                f"{where} is missing, and {judged_by(task, loss)} has no largest value",
                hint="say by how much two losses of one row may count as apart, as in difference_max=60.0",
            )
        if worse >= most:
            raise DefinitionError(
                f"guard.worse is {worse:g}, and no two losses count as further apart than {most:g}",
                hint="give less, or another difference_max",
            )
    if inside and canary.guards_of(FailureGuard):
        raise DefinitionError(
            "a FailureGuard is given and labels come inside events: a model that fails has stopped learning",
            hint="leave it out: the first failure quarantines, and takes the canary back",
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


def _check_difference(name: str, value: float | None) -> None:
    if value is not None and not 0.0 < value < math.inf:
        raise DefinitionError(f"{name} is {value}", hint="give units of the loss, above 0")


def _check_window(name: str, value: int) -> None:
    if not 1 <= value <= WINDOW_MAX:
        raise DefinitionError(f"{name} is {value}", hint=f"give events, from 1 to {WINDOW_MAX:,}")


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


class Timed(NamedTuple):
    """Whose scoring time is guarded."""

    name: str
    run: int
    """Number of the canary: each is measured anew."""
    guards: tuple[LatencyGuard, ...]


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

    @property
    def timed(self) -> Timed | None:
        """Return whose scoring time is guarded now; a worker measures it, and writes what breaks a guard."""
        ...

    def too_slow(self, at: Moment, report: Slow) -> list[Decision]:
        """Act on a time that a worker has measured; return what was decided."""
        ...

    def end(self, at: Moment, reason: str) -> list[Decision]:
        """Make room for another policy; return what was under way and ends here."""
        ...

    def observe(self, example: Example, losses: LossByName) -> bool:
        """Add one example, with the loss of each candidate; return whether `act` has something to do."""
        ...

    def act(self, at: Moment) -> list[Decision]:
        """Do what is due at the last example; return what was decided, if anything."""
        ...

    def decided(self, at: Moment, decisions: Sequence[Decision]) -> list[Decision]:
        """Follow what was decided about candidates; return what follows from it."""
        ...
