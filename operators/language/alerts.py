"""Alerts as a definition says them: what is watched, from where on it counts, and what is told.

Lives here: `Alert` and its conditions as users write them, what is refused at once.  Never here: which
signals there are (`signals.py`), when an alert begins and ends (`operators/monitor/alerts.py`), what is new
in the events (`operators/rules/novelty.py`), the way to people (`engine/alerts`).

    Alert(when=signal("lag_records") > 10_000, for_="5m", severity="critical")
    Alert(when=new_category("carrier"))
    Alert(when=decided("model.over_budget"))
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from math import isfinite
from typing import Final, Literal, NamedTuple, get_args

from operators.language.signals import SIGNALS, SignalScope
from topics.durations import Duration, duration_ms
from topics.errors import DefinitionError
from topics.messages import AlertChannel, AlertSeverity, DecisionType

__all__ = [
    "USUAL_ALERTS",
    "Alert",
    "Bound",
    "ChangedSchema",
    "NewCategory",
    "NoveltyPlan",
    "OnDecision",
    "Signal",
    "alert_names",
    "changed_schema",
    "checked_alerts",
    "decided",
    "learner_alerts",
    "new_category",
    "novelty_plan",
    "signal",
    "usual_alerts",
]

Sign = Literal[">", "<"]

ALERTS_MAX: Final = 100
"""Alerts of one pipeline: each is looked at again and again."""
LEARNING_MAX: Final = 1_000_000
"""Events from which what is usual is learned: with more, a partition learns for ever."""
CATEGORIES_MAX: Final = 100_000
"""Categories of one field that are remembered: about 100 bytes each, in every partition."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")


@dataclass(frozen=True)
class Signal:
    """A number that is watched; compared with a bound it is a condition.

    >>> signal("loss_ratio") > 1.2
    signal('loss_ratio') > 1.2
    """

    name: str

    def __gt__(self, bound: float) -> Bound:
        return Bound(self.name, ">", bound)

    def __lt__(self, bound: float) -> Bound:
        return Bound(self.name, "<", bound)

    def __repr__(self) -> str:
        return f"signal({self.name!r})"


@dataclass(frozen=True)
class Bound:
    """A signal beyond a bound: `signal("lag_records") > 10_000`."""

    signal: str
    sign: Sign
    bound: float

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        given: object = self.bound
        if isinstance(given, bool) or not isinstance(given, int | float) or not isfinite(given):
            raise DefinitionError(
                f"alerts: {self!r}: a signal is compared with a number",
                hint='write signal("lag_records") > 10_000',
            )

    def __bool__(self) -> bool:
        """Refuse `and`, `or` and chains, which would drop one of two conditions in silence."""
        raise DefinitionError(
            f"alerts: {self!r} is one condition and cannot be joined with another",
            hint="write two alerts",
        )

    def broken(self, value: float) -> bool:
        """Return whether a value lies beyond the bound."""
        return value > self.bound if self.sign == ">" else value < self.bound

    @property
    def scope(self) -> SignalScope:
        """Return who keeps the signal."""
        return SIGNALS[self.signal].scope

    def __repr__(self) -> str:
        return f"signal({self.signal!r}) {self.sign} {self.bound!r}"


@dataclass(frozen=True)
class NewCategory:
    """A value of a field of text that was not there in the first events of a partition."""

    fields: tuple[str, ...]
    learning: int
    categories_max: int


@dataclass(frozen=True)
class ChangedSchema:
    """A key of the JSON object that was never there, or one that always was and is gone."""

    learning: int


@dataclass(frozen=True)
class OnDecision:
    """A decision of one of these types."""

    types: tuple[str, ...]

    @property
    def scope(self) -> SignalScope:
        """Return who decides."""
        return "learner"


Condition = Bound | NewCategory | ChangedSchema | OnDecision
MOMENTS = (NewCategory, ChangedSchema, OnDecision)
"""What happens once and has no end."""


def signal(name: str) -> Signal:
    """Return a number that is watched, to be compared: `signal("loss_ratio") > 1.2`.

    Raises DefinitionError for a name that is none.
    """
    if name not in SIGNALS:
        raise DefinitionError(f"there is no signal {name!r}", hint=f"signals are {', '.join(SIGNALS)}")
    return Signal(name)


def new_category(*fields: str, learning: int = 1_000, categories_max: int = 10_000) -> NewCategory:
    """Return the condition that a text field has a value that its first `learning` events did not have.

    A field with more than `categories_max` values is told once and watched no more.
    """
    if not fields or any(not isinstance(name, str) for name in fields):
        raise DefinitionError(
            "alerts: new_category of nothing", hint='name the fields: new_category("carrier")'
        )
    if len(set(fields)) < len(fields):
        raise DefinitionError("alerts: a field is named twice", hint="name each field once")
    _check_count("learning", learning, LEARNING_MAX)
    _check_count("categories_max", categories_max, CATEGORIES_MAX)
    return NewCategory(fields, learning, categories_max)


def changed_schema(*, learning: int = 1_000) -> ChangedSchema:
    """Return the condition that the keys of the events' JSON are other ones than in the first `learning`."""
    _check_count("learning", learning, LEARNING_MAX)
    return ChangedSchema(learning)


def decided(*types: str) -> OnDecision:
    """Return the condition that a decision of one of these types is written; each is told once."""
    known = get_args(DecisionType)
    for one in types:
        if one not in known:
            raise DefinitionError(
                f"alerts: there is no decision {one!r}", hint=f"decisions are {', '.join(known)}"
            )
    if not types:
        raise DefinitionError("alerts: decided() of nothing", hint='write decided("model.over_budget")')
    return OnDecision(types)


def _check_count(name: str, value: int, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise DefinitionError(f"alerts: {name}={value!r}", hint=f"give a number of 1 to {most}")


@dataclass(frozen=True)
class Alert:
    """What somebody is told, when, and how.

    `when`
        The condition: `signal(NAME) > NUMBER` (or `<`), `new_category(FIELD)`, `changed_schema()` or
        `decided(TYPE)`.
    `for_`
        For how long a signal must lie beyond its bound before somebody is told.  Signals of the learner count
        in label time, those of a worker by its clock.
    `severity`
        `"info"`, `"warning"` or `"critical"`.
    `channel`
        `"log"`, `"webhook"` or `"alertmanager"`, or several; None is every one that is set up.
    `says`
        What happened, in words; made from the condition where it is left out.
    `runbook`
        An address where it says what to do.
    `name`
        What ids, metrics and channels call it; made from the condition where it is left out.
    """

    _: KW_ONLY
    when: Condition
    for_: Duration = "0s"
    severity: AlertSeverity = "warning"
    channel: AlertChannel | Sequence[AlertChannel] | None = None
    says: str = ""
    runbook: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        """Check what needs no event type."""
        if not isinstance(self.when, Condition):
            raise DefinitionError(
                f"alerts: when={self.when!r} is no condition",
                hint='write when=signal("lag_records") > 10_000, new_category(...), changed_schema() or '
                "decided(...)",
            )
        if not self.name:
            object.__setattr__(self, "name", _made_name(self.when))
        place = f"alert `{self.name}`"
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(
                f"{place}: the name is part of ids and labels",
                hint="1 to 80 of the characters A-Z a-z 0-9 _ . -",
            )
        if self.severity not in get_args(AlertSeverity):
            raise DefinitionError(
                f"{place}: severity is {self.severity!r}", hint=f"one of {', '.join(get_args(AlertSeverity))}"
            )
        given = self.channel
        channels = (given,) if isinstance(given, str) else () if given is None else tuple(given)
        for one in channels:
            if one not in get_args(AlertChannel):
                raise DefinitionError(
                    f"{place}: channel is {one!r}", hint=f"one of {', '.join(get_args(AlertChannel))}"
                )
        object.__setattr__(self, "channel", channels or None)
        if self.for_ms and isinstance(self.when, MOMENTS):
            raise DefinitionError(
                f"{place}: for_={self.for_!r} of what happens once",
                hint="leave for_ out; it is for signals, which lie beyond a bound for a while",
            )

    @property
    def for_ms(self) -> int:
        """Return `for_` in milliseconds."""
        return duration_ms(self.for_)

    @property
    def channels(self) -> tuple[AlertChannel, ...]:
        """Return the channels that are named; none where it goes to all."""
        return self.channel or ()  # type: ignore[return-value]  # made a tuple above

    @property
    def scope(self) -> SignalScope | None:
        """Return who watches the condition; None where scorers do, event by event."""
        return self.when.scope if isinstance(self.when, Bound | OnDecision) else None


def _made_name(when: Condition) -> str:
    match when:
        case Bound(name):
            return name
        case NewCategory():
            return "new_category"
        case ChangedSchema():
            return "changed_schema"
        case OnDecision(types):
            return types[0]


USUAL_ALERTS: tuple[Alert, ...] = (
    Alert(when=signal("shift") > 0),
    Alert(when=signal("loss_ratio") > 1.2),
    Alert(when=signal("quarantined") > 0),
    Alert(when=signal("prior_share") > 0.05, severity="critical"),
    Alert(when=decided("model.over_budget")),
    Alert(when=signal("lag_records") > 10_000, for_="5m"),
    Alert(when=signal("dead_letter_share") > 0.05, for_="1m"),
    Alert(when=signal("label_completeness") < 0.5, for_="10m"),
    Alert(when=signal("checkpoint_age_ms") > 120_000),
    Alert(when=signal("store_away_ms") > 30_000, severity="critical"),
    Alert(when=signal("skew") > 0.01),
)
"""What is told where a pipeline says nothing of alerts."""


def usual_alerts() -> tuple[Alert, ...]:
    """Return the alerts of a pipeline that says nothing: `[*usual_alerts(), Alert(...)]` adds to them."""
    return USUAL_ALERTS


class NoveltyPlan(NamedTuple):
    """What scorers watch event by event, of all alerts together."""

    categories: tuple[str, ...]
    schema: bool
    learning: int
    categories_max: int
    alerts: Mapping[str, Alert]
    """The alert of each field whose categories are watched, and under "" that of the schema."""

    def __str__(self) -> str:
        """Return what the state of a scorer depends on."""
        return f"{self.categories} {self.schema} {self.learning} {self.categories_max}"


def checked_alerts(given: Sequence[Alert] | None, *, keyed: bool) -> tuple[Alert, ...]:
    """Return the alerts of a pipeline, the usual ones for None.

    `keyed` says that each key has a race of its own: what a learner watches is not offered there.  Raises
    DefinitionError for what is no alert, for two of one name, and for too many.
    """
    if given is None:
        return tuple(one for one in USUAL_ALERTS if not keyed or one.scope != "learner")
    listed: object = given
    if not isinstance(listed, Sequence) or any(not isinstance(one, Alert) for one in given):
        raise DefinitionError(
            f"alerts={given!r} is no list of alerts",
            hint='write alerts=[Alert(when=new_category("carrier"))]; () tells nothing',
        )
    if len(given) > ALERTS_MAX:
        raise DefinitionError(f"{len(given)} alerts", hint=f"give at most {ALERTS_MAX}")
    names = [one.name for one in given]
    for one in given:
        if names.count(one.name) > 1:
            raise DefinitionError(f"two alerts are called `{one.name}`", hint='give one of them name="..."')
        if keyed and one.scope == "learner":
            offered = ", ".join(name for name, told in SIGNALS.items() if told.scope != "learner")
            raise DefinitionError(
                f"alert `{one.name}`: {one.when!r} is of one race, and with `per` each key has its own",
                hint=f"with `per` there are {offered}",
            )
    return tuple(given)


def learner_alerts(given: Sequence[Alert] | None) -> tuple[Alert, ...]:
    """Return those alerts that a learner watches; of the usual ones for None."""
    return tuple(one for one in (USUAL_ALERTS if given is None else given) if one.scope == "learner")


def alert_names(given: Sequence[Alert] | None) -> frozenset[str]:
    """Return the names of all alerts, whoever watches them; of the usual ones for None."""
    return frozenset(one.name for one in (USUAL_ALERTS if given is None else given))


def novelty_plan(alerts: Sequence[Alert]) -> NoveltyPlan | None:
    """Return what scorers watch, None for nothing.  Raises DefinitionError for alerts that do not agree."""
    by_field: dict[str, Alert] = {}
    learning, categories_max = set(), set()
    for alert in alerts:
        when = alert.when
        if isinstance(when, Bound | OnDecision):
            continue
        learning.add(when.learning)
        if isinstance(when, NewCategory):
            categories_max.add(when.categories_max)
        for name in when.fields if isinstance(when, NewCategory) else ("",):
            if name in by_field:
                raise DefinitionError(
                    f"alerts `{by_field[name].name}` and `{alert.name}` tell the same",
                    hint="keep one of them",
                )
            by_field[name] = alert
    if not by_field:
        return None
    if len(learning) > 1 or len(categories_max) > 1:
        raise DefinitionError(
            "alerts: `learning` and `categories_max` hold for all fields of a pipeline",
            hint="give every new_category and changed_schema the same",
        )
    fields = tuple(name for name in by_field if name)
    return NoveltyPlan(
        fields, "" in by_field, learning.pop(), categories_max.pop() if categories_max else 1, by_field
    )
