"""A serving policy that never ran, played over a log that others wrote: what its tables would have said.

Lives here: the policy's own state machine beside the same race, but without models; which logged outcomes it
may learn from.  Never here: what its tables would have given (`off_policy.py`), reading a log.

    log order      label of e7 ... the machine learns from it, if it may; the next table
    event time     e9 ............ answered by the table as it stands: the chances of each arm

An event is answered by what was learned from labels that had come by its time, and from no later one.

Where the label is the same whoever answers (`outcome="shared"`), the machine learns from every example, as if
its own pick had answered: all candidates' scores are there.  Where it follows from the answer, it may learn
only from events whose logged arm is its own pick, and of those from a share that makes all arms as likely as
the least likely one was,

    kept if  own pick = logged arm  and  hash < (least propensity of the log) / propensity

so that what it learns from is what it would have seen: each event is kept with the same probability, whatever
it is and whoever answered.

    L. Li, W. Chu, J. Langford, X. Wang, "Unbiased offline evaluation of contextual-bandit-based news article
    recommendation algorithms" (WSDM 2011), for logs of equal shares; with rejection for others,
    M. Dudik, D. Erhan, J. Langford, L. Li, "Sample-efficient nonstationary policy evaluation for contextual
    bandits" (UAI 2012): their estimate over kept and rejected events is `off_policy`'s with these chances.

So a policy that learns is as old, at the end, as the events that it has learned from: fewer than the log has.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from operators.drift.detectors import Detectors
from operators.models.scoring import Racer, Roster
from operators.models.table import Pick, share_of
from operators.race.arena import Arena
from operators.race.evaluation import Evaluation
from operators.race.evidence import Evidence
from operators.race.field import RaceField
from operators.race.learning import UNWEIGHED, Learning
from operators.race.losses import loss_of
from operators.race.opening import Opening
from operators.serving.policy_machine import REWARDED, Setting
from operators.serving.routes import routing_of
from topics.messages import Decision, Example, Task

__all__ = ["Replayed", "played"]

OWN = "off-policy"
"""A part of the replay's salts: its picks must not be those of the policy that wrote the log."""
Chances = Mapping[str, float]
"""By arm, the probability that it answers."""


class Replayed(NamedTuple):
    """What a policy would have done."""

    chances: list[Chances]
    """Of each example, by its table as of the event."""
    learned: int
    """Examples that it has learned from."""
    decisions: list[Decision]
    """What would have been decided meanwhile."""


def played(
    pipeline: str, task: Task, field: RaceField, examples: Sequence[Example], *, wait_ms: int, served: bool
) -> Replayed:
    """Play the policy of `field` over the examples of a log, in its order.

    `served` says whether a label follows from the answer that was served.  Without models: no swap is
    proposed or vetoed, no challenger starts by itself.
    """
    race = _Race(pipeline, task, field, wait_ms, served=served)
    if served:
        race.least = min((one.propensity for one in examples if one.propensity), default=1.0)
    by_time = sorted(range(len(examples)), key=lambda number: examples[number].event_time)
    answered = 0
    for number, example in enumerate(examples):
        race.time = max(race.time, example.label_time)
        while answered < len(by_time) and examples[by_time[answered]].event_time <= race.time:
            race.answer(by_time[answered], examples[by_time[answered]])
            answered += 1
        if number not in race.chances:  # its label came before it
            race.answer(number, example)
        race.learn(number, example)
    return Replayed([race.chances[number] for number in range(len(examples))], race.learned, race.decisions)


class _Race:
    """The race of the log without its models, and the policy in it."""

    def __init__(self, pipeline: str, task: Task, field: RaceField, wait_ms: int, *, served: bool) -> None:
        racers = [Racer(name, None, version=n, learns=False) for n, name in enumerate(field.candidates, 1)]
        self._roster = roster = Roster(task, racers, field.first_champion, field.threshold)
        promotion, self._served = field.promotion, served
        arena = Arena(pipeline, 0, roster, promotion)
        self._salt = f"{pipeline}/{OWN}"
        self._learning = Learning(
            task,
            arena,
            Evaluation(task, [], pickle.dumps, pickle.loads, threshold=field.threshold),
            Detectors([], pickle.dumps, pickle.loads),
            Evidence(promotion, opening=field.champion is not None),
            loss_of(task, promotion.loss, field.threshold),
            field.threshold,
            opening=None if field.opens is None else Opening(field.opens),
        )
        self._learning.routing = routing_of(
            field.serving,
            Setting(self._salt, arena, wait_ms),
            task=task,
            threshold=field.threshold,
            objective=promotion.loss,
            dump=pickle.dumps,
            load=pickle.loads,
        )
        self.least = 1.0
        """The least propensity of the log."""
        self.time = 0
        """Largest label time so far, ms."""
        self.chances: dict[int, Chances] = {}
        """Of each example that was answered ..."""
        self._picks: dict[int, tuple[Pick | None, str]] = {}
        """... and who was picked, with what is assigned as a whole, while its label has not come."""
        self.learned = 0
        self.decisions: list[Decision] = []

    def answer(self, number: int, example: Example) -> None:
        """Answer an event by the table as it stands."""
        table = self._roster.routing
        if table is None:
            self.chances[number] = {self._roster.champion: 1.0}
            self._picks[number] = None, example.event_id
            return
        pick = table.pick(example.key, example.event_id, example.event_time)
        self.chances[number] = dict(table.shares)
        self._picks[number] = pick, example.key if table.unit == "key" else example.event_id

    def learn(self, number: int, example: Example) -> None:
        """Learn from an example as this race would have met it."""
        pick, unit = self._picks.pop(number)
        if example.served_by not in UNWEIGHED:
            example = self._as_here(example, pick, unit)
        self.decisions += self._learning.step([example], number)

    def _as_here(self, example: Example, pick: Pick | None, unit: str) -> Example:
        """Return an example as this race would have written it; without a pick where that cannot be known."""
        champion = self._roster.champion
        name = champion if pick is None else pick.name
        role = "champion" if name == champion else "arm"
        unpicked = replace(
            example, model_name=name, served_by=role, policy="", policy_revision=0, propensity=None
        )
        if self._served and (pick is None or not self._kept(example, pick, unit)):
            return unpicked
        self.learned += 1
        if pick is None:
            return unpicked
        return replace(
            unpicked,
            policy=pick.policy,
            policy_revision=pick.revision,
            propensity=pick.propensity,
            served_score=example.scores.get(name),
        )

    def _kept(self, example: Example, pick: Pick, unit: str) -> bool:
        """Return whether the logged answer may stand for this policy's own."""
        if example.propensity is None or example.served_by not in REWARDED:
            return False
        same = example.model_name == pick.name
        return same and share_of(f"{self._salt}/kept", unit) < self.least / example.propensity
