"""Who serves, who shadows, who leaves: the lifecycle of every candidate.

Lives here: the table of states and the only code that changes a `Roster` while it races; every
change is a `Decision`, numbered at its place in the log.  Never here: statistics (`evidence.py`,
`detectors.py`), scores, clocks: times are label times.

Strategy: few things can happen to a candidate, and the table says from which state they may.

    challenger ──promote──> champion ──dethrone──> challenger      the dethroned stays in the race
    challenger, champion, twin ──quarantine──> quarantined         scores and learns no more
    quarantined ──readmit──> challenger, ──rejoin──> twin          from its last good version
    challenger, twin, quarantined ──retire──> retired              leaves the roster

A twin learns for a released candidate (`operators/versions/release.py`) and never serves itself.

A swap by evidence, a command, a rollback and a quarantined champion's succession are one
mechanism, `crown`, with different reasons.  While a champion is pinned, evidence swaps nothing: only
a person's word or a quarantine does, and the quarantine ends the pin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from operators.drift.detectors import Detection
from operators.models.scoring import Racer, Roster
from operators.race.candidates import Challenge, Drifted, challenger_name, start_text
from operators.race.evidence import Promotion, Verdict
from operators.race.field import FieldStep, Newcomer
from operators.state import StateDelta, StateEntries
from topics.durations import duration_ms
from topics.messages import Command, Decision, DecisionType, Slow

__all__ = [
    "ACTOR",
    "THE_FILE",
    "TRANSITIONS",
    "Arena",
    "DecisionLog",
    "Evidenced",
    "Moment",
    "Objection",
    "RecentLoss",
    "listed",
]

State = Literal["challenger", "champion", "twin", "quarantined", "retired"]
Step = Literal["promote", "dethrone", "quarantine", "readmit", "rejoin", "retire"]

TRANSITIONS: dict[tuple[State, Step], State] = {
    ("challenger", "promote"): "champion",
    ("champion", "dethrone"): "challenger",
    ("challenger", "quarantine"): "quarantined",
    ("champion", "quarantine"): "quarantined",
    ("twin", "quarantine"): "quarantined",
    ("quarantined", "readmit"): "challenger",
    ("quarantined", "rejoin"): "twin",
    ("challenger", "retire"): "retired",
    ("twin", "retire"): "retired",
    ("quarantined", "retire"): "retired",
}
"""What is not in the table cannot happen.  The sick stay for the audit until a person retires them."""
STATE_WORDS: dict[State, str] = {
    "challenger": "a challenger",
    "champion": "the champion",
    "twin": "a twin",
    "quarantined": "quarantined",
    "retired": "retired",
}
"""What a candidate is, in a sentence."""

PREVIOUS_MAX = 8
"""Earlier champions remembered for fallback and rollback; older ones have had eight better successors."""
RecentLoss = Callable[[str], float]
"""Racer name -> mean loss in the recent window, infinite if there is none."""
ACTOR = "headrace"
"""The actor of decisions that no command asked for."""
THE_FILE = "the file"
"""The reason of decisions that a changed definition asked for."""
GROWN_AFTER = 4
"""Times `min_examples` that a challenger which must prove itself races at least before the next drift may put
another in its place: alarms come far oftener than proofs."""
REASON_MAX = 500
"""Characters of a reason: errors may quote what was sent."""
Evidenced = dict[str, float | int | str]
"""The figures behind a decision, by name."""


class Objection(NamedTuple):
    """Why what was asked cannot be done, and what can be instead."""

    why: str
    fix: str

    @property
    def evidence(self) -> Evidenced:
        """Return what its decision says beside the reason."""
        return {"fix": self.fix[:REASON_MAX]}


def listed(names: Iterable[str], none: str) -> str:
    """Return names for a sentence; `none` says so where there are none."""
    return ", ".join(f"`{name}`" for name in names) or none


class Moment(NamedTuple):
    """The position in the log at which a decision is taken."""

    offset: int
    """Of the record that led to it."""
    time: int
    """Largest label time so far, ms."""
    examples: int
    """Examples learned so far."""


class DecisionLog:
    """Write decisions, numbered from 0 at each offset.

    >>> log, racer = DecisionLog("flights", 0), Racer("a", None, version=1)
    >>> [log.write(Moment(7, 0, 0), "model.promoted", racer, "evidence").decision_id for _ in range(2)]
    ['flights:0:7:0', 'flights:0:7:1']
    """

    def __init__(self, pipeline: str, partition: int, key: str = "") -> None:
        """`key` is the one whose race it is, where each key has its own."""
        self.name = f"{pipeline}:{partition}:{key}" if key else f"{pipeline}:{partition}"
        self._key = key
        self.numbered = (-1, 0)
        """Offset and number of the last decision; a part of the arena's state."""

    def write(
        self,
        at: Moment,
        decision_type: DecisionType,
        racer: Racer,
        reason: str,
        command: Command | None = None,
        evidence: Evidenced | None = None,
        replaced: Racer | None = None,
    ) -> Decision:
        """Return the next decision at its offset, about a racer as it is now."""
        offset, number = self.numbered
        number = number + 1 if offset == at.offset else 0
        self.numbered = (at.offset, number)
        recorded = dict(evidence or {})
        if command is not None:
            recorded |= {"command_id": command.command_id, "command_time": command.time}
        return Decision(
            f"{self.name}:{at.offset}:{number}",
            decision_type,
            at.time,
            racer.name,
            racer.version,
            at.examples,
            reason[:REASON_MAX],
            command.actor if command is not None and command.actor else ACTOR,
            at.offset,
            from_model=replaced.name if replaced is not None else None,
            from_version=replaced.version if replaced is not None else None,
            evidence=recorded,
            key=self._key,
        )

    def backlog(self, at: Moment, racer: Racer, records: int) -> Decision:
        """Return the warning that `records` of the log wait for the end of a pause.

        The record at this offset is folded after the pause and may lead to decisions then, so this
        one has no number of theirs.
        """
        return Decision(
            f"{self.name}:{at.offset}:backlog",
            "learning.backlog",
            at.time,
            racer.name,
            racer.version,
            at.examples,
            f"{records:,} records logged since the pause are not learned",
            ACTOR,
            at.offset,
            evidence={"records": records},
            key=self._key,
        )


class _RacerState(msgspec.Struct):
    """The state of one candidate in a checkpoint; its model is an entry of its own."""

    name: str
    version: int
    definition: str
    state: State
    updates: int
    learns: bool = True
    twin_of: str = ""
    challenge: str = ""
    since: int = 0
    begun: int = 0


class _ArenaState(msgspec.Struct):
    racers: list[_RacerState]
    champion: str
    previous: tuple[str, ...]
    version_next: int
    last_swap: Moment | None
    last_start: Moment | None
    paused: bool
    numbered: tuple[int, int]
    pinned: bool = False
    lineup: int = 0
    risen: int = 0


def _figures(verdict: Verdict) -> Evidenced:
    """Return the figures of a verdict, as the record of a swap has them."""
    return {
        "evidence": verdict.evidence,
        "threshold": verdict.threshold,
        "effect": verdict.effect,
        "examples": verdict.examples,
        "blocks": verdict.blocks,
        "correlation": verdict.correlation,
        "bar": verdict.bar,
        **({"inflation": verdict.inflation} if verdict.inflation > 1.0 else {}),
        **({"block_wanted": verdict.block_wanted} if verdict.block_wanted else {}),
    }


class Approval(Protocol):
    """What may stand between a proof and the swap."""

    def asked(self, at: Moment, name: str, evidence: Evidenced) -> tuple[bool, list[Decision]]:
        """Return whether `name` may be promoted now, and what was decided on being asked.

        Adds figures to `evidence`.
        """
        ...


class Arena:
    """Decide about candidates and keep the roster in line.

    >>> roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    >>> arena = Arena("flights", 0, roster, Promotion())
    >>> decision = arena.crown("b", Moment(7, 0, 0), "holiday")
    >>> decision.decision_id, decision.type, decision.from_model
    ('flights:0:7:0', 'model.promoted', 'a')
    >>> roster.champion, roster.previous, arena.states
    ('b', ('a',), {'a': 'challenger', 'b': 'champion'})
    """

    def __init__(
        self,
        pipeline: str,
        partition: int,
        roster: Roster,
        promotion: Promotion,
        challenges: Sequence[Challenge] = (),
        key: str = "",
    ) -> None:
        self.roster = roster
        self.paused = False
        self.pinned = False
        self.risen = 0
        """Alarms that the loss has risen."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """Counts by (metric, label), which the shell exports; no part of the state."""
        self.approval: Approval | None = None
        """What stands between a proof and the swap, where the pipeline asks for something."""
        self.states: dict[str, State] = {
            name: "twin" if racer.twin_of else "challenger" for name, racer in roster.racers.items()
        }
        self.states[roster.champion] = "champion"
        self.log = DecisionLog(pipeline, partition, key)
        self._settle(promotion, challenges)
        self._version_next = len(roster.racers) + 1
        self._last_swap: Moment | None = None
        self._last_start: Moment | None = None
        self.canary: Callable[[Moment, str, Evidenced], list[Decision]] | None = None
        """Takes a swap that is due where a challenger goes up step by step; None: it is champion at once."""
        self._saved = b""

    def _settle(self, promotion: Promotion, challenges: Sequence[Challenge]) -> None:
        self._promotion = promotion
        most = promotion.fresh_challengers_max
        on_drift = [
            *([Challenge(Drifted(), max=most)] if most else []),
            *(one for one in challenges if isinstance(one.when, Drifted) and one.start == "fresh"),
        ]
        # Two that say the same are one: the second would take the place of the first's challenger at once.
        self._on_drift = list({repr(one): one for one in on_drift}.values())
        cooldown = promotion.cooldown
        self._cooldown_ms = duration_ms(cooldown) if isinstance(cooldown, str) else None
        self._cooldown_examples = cooldown if isinstance(cooldown, int) else 0

    # -- what can lead to a decision ---------------------------------------------------------------

    def swap(self, at: Moment, proven: Sequence[Verdict]) -> list[Decision]:
        """Promote the best challenger that evidence has proven better, if nothing else forbids it.

        A pinned champion stays.
        """
        if not proven or self.pinned or not self._rested(self._last_swap, at):
            return []
        promotion = self._promotion
        least_opening = promotion.opening_min_examples
        decisions: list[Decision] = []
        for verdict in proven:
            if (
                self.states.get(verdict.name) == "challenger"
                and verdict.examples >= (least_opening if verdict.opening else promotion.min_examples)
                and verdict.effect >= promotion.min_effect
            ):
                figures = _figures(verdict)
                if self.approval is not None:
                    passed, told = self.approval.asked(at, verdict.name, figures)
                    decisions += told
                    if not passed:
                        continue
                return [*decisions, *self.succeed(verdict.name, at, "evidence", figures)]
        return decisions

    def quarantine(self, at: Moment, name: str, reason: str, recent_loss: RecentLoss) -> list[Decision]:
        """Take a candidate that failed out of the race; a champion is succeeded at once.

        The successor is the newest earlier champion that is healthy, else the healthy candidate of
        the lowest recent loss; with nobody left the prior answers.  A pin ends.  Nothing happens to a
        candidate that is unknown or in quarantine already (several scorers may report it).
        """
        state = self.states.get(name)
        if state not in {"champion", "challenger", "twin"}:
            return []
        roster = self.roster
        self._move(name, "quarantine")
        roster.quarantined.add(name)
        roster.previous = tuple(other for other in roster.previous if other != name)
        alias: Evidenced = {"alias": state}
        decisions = [self.write(at, "model.quarantined", name, reason, evidence=alias)]
        if state == "champion":
            if self.pinned:
                decisions.append(self._unpin(at, name, "quarantine"))
            healthy = [other for other, state in self.states.items() if state == "challenger"]
            successors = (*roster.previous, *sorted(healthy, key=recent_loss))
            if successors:
                decisions.append(self.crown(successors[0], at, "quarantine"))
        return decisions

    def over_budget(self, at: Moment, report: Slow, recent_loss: RecentLoss) -> list[Decision]:
        """Take a candidate out of the race that is slower than it may be, with its twin.

        A champion is quarantined, so that the next in line serves; where nobody is left to serve, it stays.
        Nothing happens to one that has left, or is another version by now.
        """
        slow = self.roster.racers.get(report.model_name)
        if slow is None or slow.version != report.model_version or slow.name in self.roster.quarantined:
            return []
        name = slow.twin_of or slow.name
        evidence: Evidenced = {
            "median_ms": report.median_ms,
            "limit_ms": report.limit_ms,
            "rows": report.rows,
        }
        alone = not any(other != name and state == "challenger" for other, state in self.states.items())
        stays = name == self.roster.champion and alone
        reason = f"takes {report.median_ms:.3g} ms an event, {report.limit_ms:g} allowed"
        told = f"{reason}; nobody else could serve" if stays else reason
        decisions = [self.write(at, "model.over_budget", slow.name, told, evidence=evidence)]
        if stays:
            return decisions
        if name == self.roster.champion:
            return decisions + self.quarantine(at, name, reason, recent_loss)
        return decisions + self.retire(at, name, reason)

    def alarms(self, at: Moment, detections: Sequence[Detection], recent_loss: RecentLoss) -> list[Decision]:
        """Write a decision for each alarm of the detectors; a risen loss may start fresh challengers."""
        decisions: list[Decision] = []
        for alarm in detections:
            decisions.append(
                self.write(
                    at,
                    "drift.improved" if alarm.improved else "drift.detected",
                    self.roster.champion,
                    f"{alarm.detector} on {alarm.on}",
                    evidence={
                        "before": alarm.before,
                        "after": alarm.after,
                        "examples": alarm.examples,
                        "detections": alarm.detections,
                    },
                )
            )
            if alarm.pauses and not self.paused:
                self.paused = True
                why = f"{alarm.detector} on {alarm.on}"
                decisions.append(self.write(at, "learning.paused", self.roster.champion, why))
            if alarm.on == "loss" and not alarm.improved:
                self.risen += 1
                if self._on_drift and not self.paused and self.may_start(at):
                    for challenge in self._on_drift:
                        decisions += self.start(at, challenge, "drift", recent_loss)
        return decisions

    def may_start(self, at: Moment) -> bool:
        """Return whether the last start of a challenger is long enough ago for another one after a drift.

        Where it is not, that is counted: nobody starts.
        """
        if self._rested(self._last_start, at):
            return True
        self.counts["challengers", "cooldown"] += 1
        return False

    def backlog(self, at: Moment, records: int) -> Decision:
        """Return the warning that `records` of the log wait for the end of a pause."""
        return self.log.backlog(at, self.roster.racers[self.roster.champion], records)

    def succeed(
        self, name: str, at: Moment, reason: str, evidence: Evidenced, command: Command | None = None
    ) -> list[Decision]:
        """Make `name` the champion, step by step where a canary goes before, and return the decisions."""
        if self.canary is not None:
            return self.canary(at, name, evidence)
        return [self.crown(name, at, reason, evidence, command)]

    def open(self, at: Moment, name: str, kind: str, evidence: Evidenced) -> Decision:
        """Let a candidate serve while nothing is proven; that is no swap, and none of its rules hold."""
        roster = self.roster
        old = roster.racers[roster.champion]
        if name == old.name:
            return self.write(at, "opening.started", name, kind, evidence=evidence)
        self._move(name, "promote")
        if self.states[old.name] == "champion":
            self._move(old.name, "dethrone")
        others = tuple(other for other in (old.name, *roster.previous) if other != name)
        roster.champion, roster.previous = name, others[:PREVIOUS_MAX]
        return self.write(at, "opening.started", name, kind, evidence=evidence, replaced=old)

    # -- how it is done ----------------------------------------------------------------------------

    def pin(self, at: Moment, reason: str, command: Command) -> Decision:
        """Keep the champion against evidence and return the decision."""
        self.pinned = True
        return self.write(at, "champion.pinned", self.roster.champion, reason, command)

    def unpin(self, at: Moment, reason: str, command: Command) -> Decision:
        """Let evidence decide again, from here on, and return the decision."""
        self._last_swap = at
        return self._unpin(at, self.roster.champion, reason, command)

    def _unpin(self, at: Moment, name: str, reason: str, command: Command | None = None) -> Decision:
        self.pinned = False
        return self.write(at, "champion.unpinned", name, reason, command)

    def crown(
        self,
        name: str,
        at: Moment,
        reason: str,
        evidence: Evidenced | None = None,
        command: Command | None = None,
    ) -> Decision:
        """Make `name` the champion and return the decision."""
        roster = self.roster
        old = roster.racers[roster.champion]
        rollback = command is not None and command.command == "rollback"
        others = tuple(other for other in roster.previous if other != name)
        self._move(name, "promote")
        if old.name != name and self.states[old.name] == "champion":
            self._move(old.name, "dethrone")
            if not rollback:
                # A champion that was rolled back is no place to fall back to.
                others = (old.name, *others)
        roster.champion = name
        roster.previous = others[:PREVIOUS_MAX]
        self._last_swap = at
        decision_type: DecisionType = "model.rolled_back" if rollback else "model.promoted"
        return self.write(at, decision_type, name, reason, command, evidence, replaced=old)

    def change(self, at: Moment, step: FieldStep, about: Evidenced) -> list[Decision]:
        """Let racers in and out as a change of the field says; `about` says what changes.

        The caller has asked `field_refusal`.
        """
        decisions = [self.write(at, "field.changed", self.roster.champion, THE_FILE, evidence=about)]
        if step.champion is not None:
            decisions.append(self.crown(step.champion, at, THE_FILE))
        for name in step.leaving:
            decisions += self.retire(at, name, THE_FILE, decision_type="candidate.retired")
        for newcomer in step.newcomers:
            decisions += self._enter(at, newcomer)
        for name, reason in step.refused.items():
            unborn = Racer(name, None, version=0)
            evidence: Evidenced = {"start": start_text(step.after.candidates[name].start)}
            decisions.append(self.log.write(at, "candidate.refused", unborn, reason, evidence=evidence))
        self._settle(step.after.promotion, step.after.challenges)
        return decisions

    def field_refusal(self, leaving: Collection[str], champion: str | None) -> Objection | None:
        """Return why racers cannot leave or a file's champion cannot be it; None if all can."""
        serving = self.roster.champion
        others = [name for name in self.in_state("challenger") if name not in leaving]
        named = listed(others, "nobody else that stays")
        if champion is not None and (self.states.get(champion) != "challenger" or champion in leaving):
            state = self.states.get(champion)
            return Objection(
                f"`{champion}` cannot be the champion: it "
                + (
                    "is not racing yet"
                    if state is None
                    else "leaves"
                    if champion in leaving
                    else f"is {STATE_WORDS[state]}"
                ),
                f"keep champion={serving!r}, or name one that is racing: {named}; one that enters with this "
                "file can be promoted once it races",
            )
        if serving in leaving and champion is None:
            return Objection(
                f"`{serving}` is the champion, and the file has it no more, or another model of that name",
                f"keep it in the file as it was, or name another that is racing, champion=...: {named}",
            )
        return None

    def in_state(self, *states: State) -> list[str]:
        """Return the candidates in one of these states, in order of start."""
        return [name for name, state in self.states.items() if state in states]

    def _enter(self, at: Moment, newcomer: Newcomer) -> list[Decision]:
        """Put a racer of the next version into the roster, and a twin of it if it is to have one."""
        name, roster = newcomer.name, self.roster
        roster.lineup += newcomer.reused
        since = roster.lineup if newcomer.reused else 0
        entering = Racer(name, newcomer.model, version=0, learns=newcomer.learns, since=since)
        racers = [entering]
        if newcomer.twin is not None:
            twin, model = newcomer.twin
            racers.append(Racer(twin, model, version=0, definition=name, twin_of=name, since=since))
        decisions = []
        for racer in racers:
            racer.version, racer.updates = self._version_next, newcomer.updates
            self._version_next += 1
            roster.racers[racer.name] = racer
            self.states[racer.name] = "twin" if racer.twin_of else "challenger"
            evidence = newcomer.evidence
            decisions.append(self.write(at, "candidate.entered", racer.name, THE_FILE, evidence=evidence))
        roster.revision += 1
        return decisions

    def retire(
        self,
        at: Moment,
        name: str,
        reason: str,
        command: Command | None = None,
        decision_type: DecisionType = "challenger.retired",
    ) -> list[Decision]:
        """Take a candidate that does not serve out of the roster, and its twin with it."""
        roster = self.roster
        decisions = []
        for leaving in [name, *(twin.name for twin in roster.racers.values() if twin.twin_of == name)]:
            decisions.append(self.write(at, decision_type, leaving, reason, command))
            self._move(leaving, "retire")
            del roster.racers[leaving], self.states[leaving]
            roster.quarantined.discard(leaving)
            roster.previous = tuple(other for other in roster.previous if other != leaving)
        return decisions

    def readmit(
        self, at: Moment, name: str, reason: str, evidence: Evidenced, command: Command
    ) -> list[Decision]:
        """Let a candidate in again that was in quarantine; where nobody serves, it does."""
        roster = self.roster
        self._move(name, "rejoin" if roster.racers[name].twin_of else "readmit")
        roster.quarantined.discard(name)
        decisions = [self.write(at, "model.released", name, reason, command, evidence)]
        if self.states[name] == "challenger" and self.states[roster.champion] != "champion":
            decisions.append(self.crown(name, at, reason, command=command))
        return decisions

    def renew(self, name: str, model: Any, updates: int) -> Racer:
        """Give a racer another model, as a version of its own, and return the racer as it was."""
        racer = self.roster.racers[name]
        before = Racer(name, None, version=racer.version, updates=racer.updates, definition=racer.definition)
        racer.model, racer.updates, racer.version = model, updates, self._version_next
        self._version_next += 1
        self.roster.revision += 1
        return before

    def take_back(self, name: str, model: Any, updates: int) -> Racer:
        """Let an earlier model of a racer race again; return the racer as it was.

        It is judged by answers given from here on: those before were another model's.
        """
        before = self.renew(name, model, updates)
        self.roster.lineup += 1
        self.roster.racers[name].since = self.roster.lineup
        return before

    def start(
        self,
        at: Moment,
        challenge: Challenge,
        reason: str,
        recent_loss: RecentLoss,
        evidence: Evidenced | None = None,
        copied: Callable[[Any], Any] | None = None,
    ) -> list[Decision]:
        """Start a challenger as a challenge says; in a full field the worst of its challengers makes room.

        Neither the champion does nor, where that is a blend, the challenger that it listens to most, nor one
        that is too young: where all are, nobody starts.
        `copied` returns a copy of a model with what it has learned; without it the challenger has learned
        nothing.  Nobody starts for a candidate that is in quarantine or gone.
        """
        roster, mark = self.roster, repr(challenge)
        of = roster.base_model_of(roster.champion if challenge.of == "champion" else challenge.of)
        if not roster.healthy(of):
            self.counts["challengers", "nobody_to_clone"] += 1
            return []
        decisions = []
        started = [c for c in roster.racing() if c.challenge == mark and c.name not in {roster.champion, of}]
        if len(started) >= challenge.max:
            grown = [c for c in started if self._grown(challenge, c, at)]
            if not grown:
                self.counts["challengers", "field_young"] += 1
                return []
            worst = max(grown, key=lambda racer: recent_loss(racer.name))
            decisions += self.retire(at, worst.name, reason)
        original = roster.racers[of]
        while (name := challenger_name(original.definition, self._version_next)) in roster.racers:
            self._version_next += 1
        roster.racers[name] = Racer(
            name,
            original.model.clone() if copied is None else copied(original.model),
            version=self._version_next,
            updates=0 if copied is None else original.updates,
            definition=original.definition,
            challenge=mark,
            begun=at.examples,
        )
        self.states[name] = "challenger"
        self.counts["challengers", "started"] += 1
        self._version_next += 1
        self._last_start = at
        roster.revision += 1
        return [*decisions, self.write(at, "challenger.started", name, reason, evidence=evidence)]

    def write(
        self,
        at: Moment,
        decision_type: DecisionType,
        name: str,
        reason: str,
        command: Command | None = None,
        evidence: Evidenced | None = None,
        replaced: Racer | None = None,
    ) -> Decision:
        """Return a decision about candidate `name`, numbered at its offset."""
        return self.log.write(
            at, decision_type, self.roster.racers[name], reason, command, evidence, replaced
        )

    def _move(self, name: str, step: Step) -> None:
        """Take one step of the table; KeyError is a bug, never data."""
        self.states[name] = TRANSITIONS[self.states[name], step]
        self.roster.revision += 1

    def _grown(self, challenge: Challenge, racer: Racer, at: Moment) -> bool:
        """Return whether a challenger has raced for long enough to make room for the next.

        Only alarms have no pace of their own, which would say how long each of them races; and a blend that
        is champion listens to a challenger from its first label on, so nobody waits for a proof.
        """
        champion = self.roster.champion
        if not isinstance(challenge.when, Drifted) or self.roster.base_model_of(champion) != champion:
            return True
        return at.examples - racer.begun >= GROWN_AFTER * self._promotion.min_examples

    def _rested(self, last: Moment | None, at: Moment) -> bool:
        if last is None:
            return True
        if self._cooldown_ms is None:
            return at.examples - last.examples >= self._cooldown_examples
        return at.time - last.time >= self._cooldown_ms

    # -- state -------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state but the models: who races, in which state, since when."""
        roster = self.roster
        state = _ArenaState(
            [
                _RacerState(
                    c.name,
                    c.version,
                    c.definition,
                    self.states[c.name],
                    c.updates,
                    c.learns,
                    c.twin_of,
                    c.challenge,
                    c.since,
                    c.begun,
                )
                for c in roster.racers.values()
            ],
            roster.champion,
            roster.previous,
            self._version_next,
            self._last_swap,
            self._last_start,
            self.paused,
            self.log.numbered,
            self.pinned,
            roster.lineup,
            self.risen,
        )
        return {"arena": msgspec.msgpack.encode(state)}

    def delta(self) -> StateDelta:
        """Return the state if it changed since the last call."""
        entries = self.snapshot()
        if entries["arena"] == self._saved:
            return {}
        self._saved = entries["arena"]
        return dict(entries)

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state.  Models are entries of their own: the caller puts them in place."""
        self._saved = entries["arena"]
        state = msgspec.msgpack.decode(entries["arena"], type=_ArenaState)
        roster = self.roster
        models = {name: candidate.model for name, candidate in roster.racers.items()}
        roster.racers.clear()
        for racer in state.racers:
            roster.racers[racer.name] = Racer(
                racer.name,
                models.get(racer.name),
                version=racer.version,
                updates=racer.updates,
                definition=racer.definition,
                learns=racer.learns,
                twin_of=racer.twin_of,
                challenge=racer.challenge,
                begun=racer.begun,
                since=racer.since,
            )
        self.states = {racer.name: racer.state for racer in state.racers}
        roster.quarantined = {name for name, state in self.states.items() if state == "quarantined"}
        roster.champion, roster.previous, roster.lineup = state.champion, state.previous, state.lineup
        roster.revision += 1
        self._version_next = state.version_next
        self._last_swap, self._last_start = state.last_swap, state.last_start
        self.paused = state.paused
        self.log.numbered = state.numbered
        self.pinned = state.pinned
        self.risen = state.risen
