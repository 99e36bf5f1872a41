"""One race: all candidates that learn the same examples, and everything that judges them.

Lives here: the parts of a race put together for a field, what a command, a change of the field and a failed
candidate do to it, its state.  Never here: which record of a log is next, and whether it counts
(`learner.py`); what an example does (`operators/race/learning.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.machines.field_records import FieldRecords, FieldSource, about_change, refusal
from engine.machines.watching import Watching
from operators.drift.detectors import Detectors
from operators.language.alerts import alert_names, learner_alerts
from operators.models.digest import digest
from operators.models.mixture import Mixture
from operators.models.parameters import model_text
from operators.models.scoring import Prior, Racer, Roster
from operators.monitor.acks import Acks
from operators.monitor.learner_alerts import LearnerAlerts
from operators.monitor.monitors import MonitorContext, Monitors, Reporting
from operators.monitor.worst import WorstMonitor
from operators.race.approval import Approvals
from operators.race.arena import THE_FILE, Arena, Moment, Objection
from operators.race.commands import Commands
from operators.race.evaluation import Evaluation
from operators.race.evidence import Evidence
from operators.race.field import MONITOR, FieldStep, RaceField
from operators.race.good_versions import GoodVersions
from operators.race.learning import Learning, Observer
from operators.race.losses import loss_of
from operators.race.opening import Opening
from operators.serving.policy_machine import Setting
from operators.serving.routes import routing_of
from operators.state import Operator, StateDelta, StateEntries
from operators.stopwatch import Stopwatch
from operators.trust.sources import Finding, Sources
from operators.versions.challenges import Challenges
from operators.versions.release import Releases, with_twins
from topics.messages import Block, Decision, Example, FeatureValue, FieldChange, Quarantine, Slow, Task

__all__ = ["Race"]

MODEL = "model/"


class Race:
    """The candidates of one race, and all that judges them.

    `field` is that of our file; the race may have begun with another, and end with a third.  `source` has the
    models of each.  `roster` is live, the same object all the time: a scorer of the same process may read it.
    """

    TELLS = True
    """Whether people are told of what happens in it."""
    WATCHED = True
    """Whether it has the monitors of its field; races that share a log share these."""
    alerts: LearnerAlerts | None

    def __init__(
        self,
        *,
        pipeline: str,
        task: Task,
        field: RaceField,
        source: FieldSource,
        partition: int = 0,
        warmup_offset: int = 0,
        wait_ms: int = 0,
        stopwatch: Stopwatch | None = None,
        roster: Roster | None = None,
        constants: Mapping[str, FeatureValue] | None = None,
        key: str = "",
        begins: RaceField | None = None,
        observers: Sequence[Observer] = (),
        entries: StateEntries | None = None,
    ) -> None:
        """`partition` is that of the examples, `wait_ms` how long after its event a label may come.

        `roster` is one that scorers read already: it holds this race from here on.  `constants` are what
        every score takes for the values of features.  `key` is whose race it is, where each key has its own.
        It `begins` with this field; None: our file's.  `observers` see every example, and are no part of the
        race.  `entries`: go on from this state.
        """
        self._pipeline, self._task, self._partition, self.key = pipeline, task, partition, key
        self._warmup_offset, self._wait_ms = warmup_offset, wait_ms
        self._stopwatch = stopwatch or Stopwatch()
        self._source, self._watchers = source, observers
        self.fields = FieldRecords(field, source)
        """Which field holds."""
        self.roster = roster or Roster(task, (), field.first_champion)
        self.roster.constants = constants or {}
        self.policy_revision = 0
        """Of the last table of a serving policy that has ended: tables after it have higher ones."""
        self._stored: dict[str, tuple[int, int, bool, tuple[str, ...]]] = {}
        """Models as of the last delta: name -> (version, updates, quarantined, whom it weighs)."""
        self._keeps = True
        """Whether good versions are kept."""
        self._gone: StateDelta = {}
        """Entries of parts that were there before all was folded again."""
        if entries is not None:
            self.restore(entries)
            return
        if begins is not None:
            self.fields.begin(begins)
        self._begin(begins or field)

    def _begin(self, field: RaceField, *, blank: bool = False) -> None:
        """Build every part anew, for a race that begins with this field; `blank`: its models come after."""
        roster, promotion = self.roster, field.promotion
        self._codec = self._source.codec(field)
        racers = [
            Racer(
                name,
                None if blank else self._source.fresh(field, name),
                version=number,
                learns=candidate.learns,
            )
            for number, (name, candidate) in enumerate(field.candidates.items(), 1)
        ]
        copied = lambda model: None if blank else self._load(self._dump(model))  # noqa: E731
        roster.racers = {racer.name: racer for racer in with_twins(racers, field.candidates, copied)}
        roster.champion, roster.previous, roster.quarantined = field.first_champion, (), set()
        roster.prior = Prior(self._task)
        roster.threshold = field.threshold
        roster.revision += 1
        self.arena = Arena(self._pipeline, self._partition, roster, promotion, field.challenges, self.key)
        self.evaluation = Evaluation(
            self._task,
            field.metrics,
            self._dump,
            self._load,
            threshold=field.threshold,
            warmup_offset=self._warmup_offset,
        )
        self.detectors = Detectors(field.drift, self._dump, self._load)
        self.good = GoodVersions(self._dump, self._load, roster)
        self.approvals = Approvals(
            promotion, self.arena, self._task, field.threshold, self.evaluation.churn, self._worse_where_found
        )
        self.acks = Acks(self._pipeline, alert_names(field.alerts)) if self.TELLS else None
        self.commands = Commands(self.arena, self.good, self.approvals, self.acks)
        self.releases = Releases(self.arena, field.candidates, self.good.copied)
        self.challenges = Challenges(
            self.arena, field.challenges, self.good.copied, self.evaluation.recent_loss
        )
        self.evidence = Evidence(promotion, opening=field.champion is not None)
        self.opening = None if field.opens is None else Opening(field.opens)
        self.monitors = Monitors(
            field.monitors if self.WATCHED else (),
            MonitorContext(self._pipeline, self._task, field.threshold, promotion.loss, roster),
        )
        self._watch(field)
        self.sources = Sources(field.sources, self._task, promotion.loss, field.threshold, self.arena.counts)
        self.commands.sources = self.sources
        self.learning = Learning(
            self._task,
            self.arena,
            self.evaluation,
            self.detectors,
            self.evidence,
            loss_of(self._task, promotion.loss, field.threshold),
            field.threshold,
            self._stopwatch,
            opening=self.opening,
        )
        self.alerts = None
        if self.TELLS:
            watched = learner_alerts(field.alerts)
            self.alerts = LearnerAlerts(
                self._pipeline, watched, roster, self.arena.counts, self.monitors.signals
            )
        self.learning.alerts = self.alerts
        self._accompany()
        self._route(field)

    def _worse_where_found(self, champion: str, name: str) -> dict[str, float]:
        """Return by how much a candidate is worse than the champion in each bad slice that was found."""
        self.monitors.look()
        worst = self.monitors.parts.get("worst")
        return worst.worse_where_found(champion, name) if isinstance(worst, WorstMonitor) else {}

    def _watch(self, field: RaceField) -> None:
        """Watch for shift as the field says, from here on and anew."""
        self.watching: Watching | None = None
        if field.watch is not None:
            self.watching = Watching(field.watch, self._pipeline, self._task, self.arena, self._stopwatch)

    def _route(self, field: RaceField) -> None:
        """Answer by the field's policy from here on; its tables have higher revisions than those before."""
        self.routing = self.learning.routing = routing_of(
            field.serving,
            Setting(self._pipeline, self.arena, self._wait_ms, self.policy_revision),
            task=self._task,
            threshold=field.threshold,
            objective=field.promotion.loss,
            dump=self._dump,
            load=self._load,
        )
        self._gather()

    def _gather(self) -> None:
        """List the parts that a checkpoint holds."""
        parts = (
            self.arena,
            self.learning,
            self.evaluation,
            self.detectors,
            self.evidence,
            self.good,
            self.commands,
            self.releases,
            self.routing,
            self.fields,
            self.challenges,
            self.opening,
            self.approvals,
            self.monitors,
            self.watching,
            self.sources,
            self.acks,
            self.alerts,
        )
        self._parts: tuple[Operator, ...] = tuple(part for part in parts if part is not None)

    def _accompany(self) -> None:
        """Let those go along with the race whom the field asks for."""
        observers: list[Observer] = [part for part in (self.releases, self.challenges) if part.stops]
        self.arena.approval = self.approvals if self.approvals.asks else None
        if self.approvals.asks or self.approvals.stops:
            observers.append(self.approvals)
        if self.watching is not None:
            observers.append(self.watching)
        if self.alerts is not None and self.alerts.book.alerts:
            observers.append(self.alerts)
        reporting = Reporting(self.monitors, self.arena, self.field.report_every)
        observers += self._watchers
        gatherer = self.monitors if self.monitors.parts else None
        companions = (self.good, reporting) if self._keeps else (reporting,)
        self.learning.accompany(companions, observers, gatherer)

    def keep_no_versions(self) -> None:
        """Keep no good versions from here on: for a log without commands, which would ask for them.

        To keep a model is to look into it, which makes its attributes slower for good (CPython 3.11: a tenth
        of a small model's time).
        """
        self._keeps = False
        self._accompany()

    def _dump(self, value: Any) -> bytes:
        return self._codec[0](value)

    def _load(self, data: bytes) -> Any:
        return self._codec[1](data)

    @property
    def field(self) -> RaceField:
        """Return the field that holds: who races, and how."""
        return self.fields.field

    @property
    def pinned(self) -> bool:
        """Return whether the champion is pinned by a command."""
        return self.arena.pinned

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Return the counts by (metric, label), which the shell exports and clears."""
        return self.learning.counts

    @property
    def examples(self) -> int:
        """Return the number of examples learned."""
        return self.learning.examples

    # -- examples, and whose ---------------------------------------------------------------------

    def learn_trusted(self, examples: Sequence[Example], offset: int) -> list[Decision]:
        """Learn those of some examples, side by side in the log, whose sources are trusted.

        `offset` is that of the first.  Returns what was decided.
        """
        decisions: list[Decision] = []
        start = 0
        for row, example in enumerate(examples):
            left_out, found = self.sources.admit(example)
            if left_out:
                decisions += self._learn_stretch(examples[start:row], offset + start)
                start = row + 1
            if found is not None:
                decisions += self._quarantine_source(found, offset + row)
        return decisions + self._learn_stretch(examples[start:], offset + start)

    def _learn_stretch(self, examples: Sequence[Example], offset: int) -> list[Decision]:
        return self.learning.step(examples, offset) if examples else []

    def _quarantine_source(self, found: Finding, offset: int) -> list[Decision]:
        """Write down that a source's labels are learned no more, and pause where these are too many."""
        arena, champion = self.arena, self.roster.champion
        reason = f"{found.test} of labels of `{found.source}` is far from that of the others"
        evidence = {name: value for name, value in found._asdict().items() if name != "pauses"}

        def act(at: Moment) -> list[Decision]:
            decisions = [arena.write(at, "source.quarantined", champion, reason, evidence=evidence)]
            if found.pauses and not arena.paused:
                arena.paused = True
                why = f"{found.share:.0%} of labels are of quarantined sources"
                decisions.append(arena.write(at, "learning.paused", champion, why))
            return decisions

        return self.learning.act(offset, act)

    # -- what changes it beside examples -------------------------------------------------------------

    def too_slow(self, report: Slow, offset: int) -> list[Decision]:
        """Take out a candidate that is over its budget, or tell a canary of a guard that it breaks."""
        routing = self.routing
        if report.guard:
            return (
                [] if routing is None else self.learning.act(offset, lambda at: routing.too_slow(at, report))
            )
        recent_loss = self.evaluation.recent_loss
        return self.learning.act(offset, lambda at: self.arena.over_budget(at, report, recent_loss))

    def change_field(self, change: FieldChange, offset: int) -> list[Decision]:
        """Fold a change of the field; return the decisions, none for a repeat."""
        fields = self.fields
        step = fields.step(change, self.roster, self._codec)
        fields.count()
        if step is None:
            return []
        about = about_change(step)
        if refused := self.refusal_of(step):
            at, champion = self.learning.moment(offset), self.roster.champion
            about |= refused.evidence
            return [self.arena.write(at, "field.refused", champion, refused.why, evidence=about)]
        decisions = self.learning.change_field(step, offset, about)
        fields.done(step)
        self._codec = self._source.codec(step.after)
        self.releases.follow(step.after.candidates)
        self.challenges.follow(step.after.challenges)
        self.approvals.follow(step.after.promotion, step.after.threshold)
        if "watch" in step.settings:
            decisions += self._change_watch(step.after, offset)
        judged = [model_text(field.promotion.loss) for field in (step.before, step.after)]
        if "threshold" in step.settings or judged[0] != judged[1] or _monitored(step):
            self.monitors.follow(
                step.after.monitors if self.WATCHED else (),
                step.after.threshold,
                step.after.promotion.loss,
                self.learning.time,
            )
        self.sources.follow(step.after.sources, step.after.promotion.loss, step.after.threshold)
        if self.alerts is not None and "alerts" in step.settings:
            self.alerts.follow(learner_alerts(step.after.alerts), self.learning.time)
        if self.acks is not None and "alerts" in step.settings:
            self.acks.follow(alert_names(step.after.alerts))
        if self.alerts is not None and judged[0] != judged[1]:
            self.alerts.other_loss()
        self._accompany()
        if "serving" in step.settings or "threshold" in step.settings or judged[0] != judged[1]:
            decisions += self._change_policy(step.after, offset)
        return decisions

    def _change_watch(self, field: RaceField, offset: int) -> list[Decision]:
        """Watch by other settings, or no more; return what ends with the ones before."""
        decisions: list[Decision] = []
        if (before := self.watching) is not None:
            decisions = self.learning.act(offset, before.end)
            self._gone |= dict.fromkeys(before.snapshot())
        self._watch(field)
        self._gather()
        return decisions

    def _change_policy(self, field: RaceField, offset: int) -> list[Decision]:
        """Answer by another policy, or judged otherwise; return what ends with the one before."""
        decisions: list[Decision] = []
        if (before := self.routing) is not None:
            decisions = self.learning.act(offset, lambda at: before.end(at, THE_FILE))
            self._gone |= dict.fromkeys(before.snapshot())
            self.policy_revision = before.revision
        self._route(field)
        return decisions

    def refusal_of(self, step: FieldStep) -> Objection | None:
        """Return why a change of the field cannot be carried out; None if it can."""
        return refusal(step, self.roster) or self.arena.field_refusal(step.leaving, step.champion)

    def planned(self, change: FieldChange) -> FieldStep | None:
        """Return what a change of the field would do here and now; None where it is a repeat."""
        return self.fields.step(change, self.roster, self._codec)

    def begin_with(self, change: FieldChange) -> None:
        """Take the record that says with which field the race begins, and what its candidates bring."""
        fields, roster = self.fields, self.roster
        fields.count()
        begun = fields.begun(change)
        for racer in roster.racers.values():
            if (name := racer.twin_of or racer.name) in begun:
                model, updates = begun[name]
                racer.model = self.good.copied(model) if racer.twin_of else model
                racer.updates = updates
                self._stored.pop(racer.name, None)
        roster.revision += 1

    def start_over(self, field: RaceField) -> None:
        """Begin the race again, as if nothing had happened, with this field."""
        parts = [name for part in self._parts for name in part.snapshot()]
        self._gone = dict.fromkeys((*parts, *(MODEL + name for name in self._stored)))
        self._stored.clear()  # a model of the same name and version may be another one
        self.policy_revision = 0
        self.fields.begin(field)
        self._begin(field)

    def watched(self, block: Block, offset: int, partitions: Collection[int]) -> list[Decision]:
        """Take what one of the partitions has answered in a span of time; return what is said of shift."""
        if block.answered:
            self.monitors.answered(block)
        if (watching := self.watching) is None:
            return []
        decisions = self.learning.act(offset, lambda at: watching.block(at, block, partitions))
        self.counts.update(watching.watcher.counts)
        watching.watcher.counts.clear()
        return decisions

    def quarantine(self, report: Quarantine, offset: int) -> list[Decision]:
        """Take out a candidate that a scorer saw fail."""
        return self.learning.quarantine(report.model_name, report.reason, offset)

    # -- state ------------------------------------------------------------------------------------

    def model_state(self, racer: Racer) -> tuple[int, int, bool, tuple[str, ...]]:
        """Return what changes with a racer's model: version, updates, whether quarantined, whom it weighs.

        A lesson that failed may have half changed its model: quarantine is a change of its own.
        """
        sick = racer.name in self.roster.quarantined
        return racer.version, racer.updates, sick, _names_of(racer)

    def dumped(self, racer: Racer) -> bytes:
        """Return a racer's model as a checkpoint stores it, signed."""
        return self._dump(racer.model)

    def digests(self) -> dict[str, str]:
        """Return the structural digest of every candidate's model, by name."""
        return {name: digest(candidate.model) for name, candidate in self.roster.racers.items()}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: an entry per model, and one or more per part."""
        entries = {MODEL + name: self._dump(c.model) for name, c in self.roster.racers.items()}
        for part in self._parts:
            entries.update(part.snapshot())
        return entries

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call; a model only if it has learned."""
        candidates = self.roster.racers
        changed, self._gone = self._gone, {}
        changed |= {MODEL + name: None for name in self._stored if name not in candidates}
        for name, candidate in candidates.items():
            now = self.model_state(candidate)
            if self._stored.get(name) != now:
                changed[MODEL + name] = self._dump(candidate.model)
                self._stored[name] = now
        for name in self._stored.keys() - candidates.keys():
            del self._stored[name]
        for part in self._parts:
            changed.update(part.delta())
        return changed

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; the roster stays the same object, with other models in it."""
        self.fields.restore(entries)
        self._begin(self.field, blank=True)
        self.arena.restore(entries)
        for name, candidate in self.roster.racers.items():
            candidate.model = self._load(entries[MODEL + name])
        for part in self._parts[1:]:
            part.restore(entries)
        self._accompany()  # what is open of another field's settings has its looks too
        self._stored = {name: self.model_state(racer) for name, racer in self.roster.racers.items()}


def _monitored(step: FieldStep) -> bool:
    """Return whether a change of the field is one of its monitors."""
    return any(part.startswith(MONITOR) for part in step.settings)


def _names_of(racer: Racer) -> tuple[str, ...]:
    """Return whom a blend weighs: one that leaves takes its weight along, whatever was learned since."""
    return tuple(racer.model.weights) if isinstance(racer.model, Mixture) else ()
