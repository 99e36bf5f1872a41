"""Who serves, who shadows, who leaves: the lifecycle of every candidate.

Lives here: the table of states and the only code that changes a `Roster` while it races; every
change is a `Decision`, numbered at its place in the log.  Never here: statistics (`evidence.py`,
`detectors.py`), scores, clocks: times are label times.

Strategy: four things can happen to a candidate, and the table says from which state they may.

    challenger ──promote──> champion ──dethrone──> challenger      the dethroned stays in the race
    challenger, champion ──quarantine──> quarantined               scores and learns no more
    challenger, quarantined ──retire──> retired                    leaves the roster

A swap by evidence, a command, a rollback and a quarantined champion's succession are one
mechanism, `_crown`, with different reasons.  While a champion is pinned, evidence swaps nothing: only
a person's word or a quarantine does, and the quarantine ends the pin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple
from zlib import crc32

import msgspec

from operators.drift.detectors import Detection
from operators.models.scoring import Racer, Roster
from operators.race.evidence import Promotion, Verdict
from operators.state import StateDelta, StateEntries
from topics.durations import duration_ms
from topics.messages import Command, Decision, DecisionType

__all__ = ["ACTOR", "TRANSITIONS", "Arena", "Evidenced", "Minutes", "Moment"]

State = Literal["challenger", "champion", "quarantined", "retired"]
Step = Literal["promote", "dethrone", "quarantine", "retire"]

TRANSITIONS: dict[tuple[State, Step], State] = {
    ("challenger", "promote"): "champion",
    ("champion", "dethrone"): "challenger",
    ("challenger", "quarantine"): "quarantined",
    ("champion", "quarantine"): "quarantined",
    ("challenger", "retire"): "retired",
    ("quarantined", "retire"): "retired",
}
"""What is not in the table cannot happen.  The sick stay for the audit until a person retires them."""

PREVIOUS_MAX = 8
"""Earlier champions remembered for fallback and rollback; older ones have had eight better successors."""
COMMANDS_MAX = 1_024
"""Command ids remembered to ignore repeats; retries come within seconds, not a thousand commands later."""
RecentLoss = Callable[[str], float]
"""Racer name -> mean loss in the recent window, infinite if there is none."""


ACTOR = "headrace"
"""The actor of decisions that no command asked for."""
REASON_MAX = 500
"""Characters of a reason: errors may quote what was sent."""
Evidenced = dict[str, float | int | str]
"""The figures behind a decision, by name."""


class Moment(NamedTuple):
    """The position in the log at which a decision is taken."""

    offset: int
    """Of the record that led to it."""
    time: int
    """Largest label time so far, ms."""
    examples: int
    """Examples learned so far."""


class Minutes:
    """Write decisions, numbered from 0 at each offset.

    >>> minutes, racer = Minutes("flights", 0), Racer("a", None, version=1)
    >>> [minutes.write(Moment(7, 0, 0), "model.promoted", racer, "evidence").decision_id for _ in range(2)]
    ['flights:0:7:0', 'flights:0:7:1']
    """

    def __init__(self, pipeline: str, partition: int) -> None:
        self.log = f"{pipeline}:{partition}"
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
            f"{self.log}:{at.offset}:{number}",
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
        )


class _RacerState(msgspec.Struct):
    """The state of one candidate in a checkpoint; its model is an entry of its own."""

    name: str
    version: int
    definition: str
    state: State
    updates: int
    learns: bool = True


class _ArenaState(msgspec.Struct):
    racers: list[_RacerState]
    champion: str
    previous: tuple[str, ...]
    version_next: int
    last_swap: Moment | None
    last_start: Moment | None
    paused: bool
    commands: dict[str, int]
    """Ids, oldest first, each with a checksum of what was asked."""
    numbered: tuple[int, int]
    pinned: bool = False


def _checksum(command: Command) -> int:
    """Return what tells a repeat of a command from another one under its id."""
    told = (command.to, command.proposal_id, command.weights)
    more = f" {told}" if any(part is not None for part in told) else ""
    return crc32(f"{command.command} {command.model_name}{more}".encode())


class Arena:
    """Decide about candidates and keep the roster in line.

    >>> roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    >>> arena = Arena("flights", 0, roster, Promotion())
    >>> command = Command("c1", "promote", 0, model_name="b", actor="kim", reason="holiday")
    >>> [(d.decision_id, d.type, d.from_model) for d in arena.command(Moment(7, 0, 0), command)]
    [('flights:0:7:0', 'model.promoted', 'a')]
    >>> roster.champion, roster.previous, arena.states
    ('b', ('a',), {'a': 'challenger', 'b': 'champion'})
    """

    def __init__(
        self,
        pipeline: str,
        partition: int,
        roster: Roster,
        promotion: Promotion,
    ) -> None:
        self.roster = roster
        self.paused = False
        self.pinned = False
        self.states: dict[str, State] = dict.fromkeys(roster.racers, "challenger")
        self.states[roster.champion] = "champion"
        self.minutes = Minutes(pipeline, partition)
        self._promotion = promotion
        cooldown = promotion.cooldown
        self._cooldown_ms = duration_ms(cooldown) if isinstance(cooldown, str) else None
        self._cooldown_examples = cooldown if isinstance(cooldown, int) else 0
        self._version_next = len(roster.racers) + 1
        self._last_swap: Moment | None = None
        self._last_start: Moment | None = None
        self._commands: dict[str, int] = {}
        self._saved = b""

    # -- what can lead to a decision ---------------------------------------------------------------

    def swap(self, at: Moment, proven: Sequence[Verdict]) -> list[Decision]:
        """Promote the best challenger that evidence has proven better, if nothing else forbids it.

        A pinned champion stays.
        """
        if not proven or self.pinned or not self._rested(self._last_swap, at):
            return []
        promotion = self._promotion
        for verdict in proven:
            if (
                self.states.get(verdict.name) == "challenger"
                and verdict.examples >= promotion.min_examples
                and verdict.effect >= promotion.min_effect
            ):
                return [
                    self._crown(
                        verdict.name,
                        at,
                        "evidence",
                        evidence={
                            "evidence": verdict.evidence,
                            "threshold": verdict.threshold,
                            "effect": verdict.effect,
                            "examples": verdict.examples,
                            "blocks": verdict.blocks,
                            "correlation": verdict.correlation,
                            **({"block_wanted": verdict.block_wanted} if verdict.block_wanted else {}),
                        },
                    )
                ]
        return []

    def quarantine(self, at: Moment, name: str, reason: str, recent_loss: RecentLoss) -> list[Decision]:
        """Take a candidate that failed out of the race; a champion is succeeded at once.

        The successor is the newest earlier champion that is healthy, else the healthy candidate of
        the lowest recent loss; with nobody left the prior answers.  A pin ends.  Nothing happens to a
        candidate that is unknown or in quarantine already (several scorers may report it).
        """
        state = self.states.get(name)
        if state not in {"champion", "challenger"}:
            return []
        roster = self.roster
        self._move(name, "quarantine")
        roster.quarantined.add(name)
        roster.previous = tuple(other for other in roster.previous if other != name)
        alias: Evidenced = {"alias": state}
        decisions = [self._write(at, "model.quarantined", name, reason, evidence=alias)]
        if state == "champion":
            if self.pinned:
                decisions.append(self._unpin(at, name, "quarantine"))
            ranked = sorted(roster.racing(), key=lambda candidate: recent_loss(candidate.name))
            successors = (*roster.previous, *(candidate.name for candidate in ranked))
            if successors:
                decisions.append(self._crown(successors[0], at, "quarantine"))
        return decisions

    def alarms(self, at: Moment, detections: Sequence[Detection], recent_loss: RecentLoss) -> list[Decision]:
        """Write a decision for each alarm of the detectors; a risen loss may start a fresh challenger."""
        decisions: list[Decision] = []
        for alarm in detections:
            decisions.append(
                self._write(
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
            if alarm.on == "loss" and not alarm.improved:
                decisions += self._start_challenger(at, recent_loss)
        return decisions

    def command(self, at: Moment, command: Command) -> list[Decision]:
        """Carry out a command, once per command id.

        A command that cannot be done is refused, and so is another one under an id that was used.
        """
        asked = _checksum(command)
        asked_before = self._commands.get(command.command_id)
        if asked_before == asked:
            return []
        if asked_before is None:
            refusal = self._refusal(command)
            self._commands[command.command_id] = asked
            if len(self._commands) > COMMANDS_MAX:
                del self._commands[next(iter(self._commands))]
        else:
            refusal = f"command_id `{command.command_id}` was another command's"
        if refusal:
            return [self._write(at, "command.refused", self.roster.champion, refusal, command)]
        word, reason = command.command, command.reason or command.command
        match word:
            case "pause" | "resume":
                self.paused = word == "pause"
                decision_type: DecisionType = "learning.paused" if self.paused else "learning.resumed"
                return [self._write(at, decision_type, self.roster.champion, reason, command)]
            case "unpin":
                self._last_swap = at
                return [self._unpin(at, self.roster.champion, reason, command)]
            case "retire":
                assert command.model_name is not None
                return [self._retire(at, command.model_name, reason, command)]
        chosen = self.roster.previous[0] if word == "rollback" else command.model_name
        decisions = []
        if chosen is not None and chosen != self.roster.champion:
            decisions.append(self._crown(chosen, at, reason, command))
        if word == "pin":
            self.pinned = True
            decisions.append(self._write(at, "champion.pinned", self.roster.champion, reason, command))
        return decisions

    def refuse(self, at: Moment, reason: str, command_id: str) -> Decision:
        """Return the refusal of what is no command; its id, if it has one, may come again."""
        evidence: Evidenced = {"command_id": command_id} if command_id else {}
        return self._write(at, "command.refused", self.roster.champion, reason, evidence=evidence)

    def backlog(self, at: Moment, records: int) -> Decision:
        """Return the warning that `records` of the log wait for the end of a pause.

        The record at this offset is folded after the pause and may lead to decisions then, so this
        one has no number of theirs.
        """
        champion = self.roster.champion
        return Decision(
            f"{self.minutes.log}:{at.offset}:backlog",
            "learning.backlog",
            at.time,
            champion,
            self.roster.racers[champion].version,
            at.examples,
            f"{records:,} records logged since the pause are not learned",
            ACTOR,
            at.offset,
            evidence={"records": records},
        )

    # -- how it is done ----------------------------------------------------------------------------

    def _refusal(self, command: Command) -> str:
        """Return why a command cannot be done, empty if it can."""
        name, champion = command.model_name, self.roster.champion
        match command.command:
            case "pause":
                return "learning is paused already" if self.paused else ""
            case "resume":
                return "" if self.paused else "learning is not paused"
            case "unpin":
                return "" if self.pinned else "no champion is pinned"
            case "rollback":
                return "" if self.roster.previous else "there is no earlier champion"
            case "approve" | "refuse":
                return f"there is no open proposal `{command.proposal_id}`"
            case "promote" | "retire" | "release" | "weights" if name is None:
                return f"{command.command} needs a model_name"
            case "pin" if name in {None, champion}:
                if self.pinned:
                    return f"`{champion}` is pinned already"
                return "" if self.states[champion] == "champion" else f"`{champion}` is quarantined"
        state = self.states.get(name or "")
        if state is None:
            return f"there is no candidate `{name}`"
        match command.command:
            case "retire":
                return "" if state != "champion" and name != champion else f"`{name}` is {state}"
            case "release":
                return f"`{name}` is {state}" if state != "quarantined" else "it has no good version"
            case "weights":
                return f"`{name}` is no blend of fixed weights"
        return "" if state == "challenger" else f"`{name}` is {state}"

    def _unpin(self, at: Moment, name: str, reason: str, command: Command | None = None) -> Decision:
        self.pinned = False
        return self._write(at, "champion.unpinned", name, reason, command)

    def _crown(
        self,
        name: str,
        at: Moment,
        reason: str,
        command: Command | None = None,
        evidence: Evidenced | None = None,
    ) -> Decision:
        """Make `name` the champion and return the decision."""
        roster = self.roster
        old = roster.racers[roster.champion]
        rollback = command is not None and command.command == "rollback"
        others = tuple(other for other in roster.previous if other != name)
        self._move(name, "promote")
        if self.states[old.name] == "champion":
            self._move(old.name, "dethrone")
            if not rollback:
                # A champion that was rolled back is no place to fall back to.
                others = (old.name, *others)
        roster.champion = name
        roster.previous = others[:PREVIOUS_MAX]
        self._last_swap = at
        decision_type: DecisionType = "model.rolled_back" if rollback else "model.promoted"
        return self._write(at, decision_type, name, reason, command, evidence, replaced=old)

    def _retire(self, at: Moment, name: str, reason: str, command: Command | None = None) -> Decision:
        """Take a candidate that does not serve out of the roster and return the decision."""
        decision = self._write(at, "challenger.retired", name, reason, command)
        roster = self.roster
        self._move(name, "retire")
        del roster.racers[name], self.states[name]
        roster.quarantined.discard(name)
        roster.previous = tuple(other for other in roster.previous if other != name)
        return decision

    def _start_challenger(self, at: Moment, recent_loss: RecentLoss) -> list[Decision]:
        """Start a clone of the champion's definition; in a full field the worst clone makes room."""
        most = self._promotion.fresh_challengers_max
        roster = self.roster
        if not most or self.states[roster.champion] != "champion" or not self._rested(self._last_start, at):
            return []
        decisions = []
        clones = [c for c in roster.racing() if c.name not in {c.definition, roster.champion}]
        if len(clones) >= most:
            worst = max(clones, key=lambda candidate: recent_loss(candidate.name))
            decisions.append(self._retire(at, worst.name, "drift"))
        champion = roster.racers[roster.champion]
        while (name := f"{champion.definition}-{self._version_next}") in roster.racers:
            self._version_next += 1
        roster.racers[name] = Racer(
            name, champion.model.clone(), version=self._version_next, definition=champion.definition
        )
        self.states[name] = "challenger"
        self._version_next += 1
        self._last_start = at
        roster.revision += 1
        return [*decisions, self._write(at, "challenger.started", name, "drift")]

    def _write(
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
        return self.minutes.write(
            at, decision_type, self.roster.racers[name], reason, command, evidence, replaced
        )

    def _move(self, name: str, step: Step) -> None:
        """Take one step of the table; KeyError is a bug, never data."""
        self.states[name] = TRANSITIONS[self.states[name], step]
        self.roster.revision += 1

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
                _RacerState(c.name, c.version, c.definition, self.states[c.name], c.updates, c.learns)
                for c in roster.racers.values()
            ],
            roster.champion,
            roster.previous,
            self._version_next,
            self._last_swap,
            self._last_start,
            self.paused,
            self._commands,
            self.minutes.numbered,
            self.pinned,
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
            )
        self.states = {racer.name: racer.state for racer in state.racers}
        roster.quarantined = {name for name, state in self.states.items() if state == "quarantined"}
        roster.champion, roster.previous = state.champion, state.previous
        roster.revision += 1
        self._version_next = state.version_next
        self._last_swap, self._last_start = state.last_swap, state.last_start
        self.paused = state.paused
        self._commands = state.commands
        self.minutes.numbered = state.numbered
        self.pinned = state.pinned
