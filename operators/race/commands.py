"""What a person may ask of the race: carried out once per id, or refused with the reason.

Lives here: which command means what, when it cannot be done, which ids have been used.  Never here: how the
line-up changes (`arena.py`), bytes (`topics/codec.py`), a word on the command line (`engine/cli`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol
from zlib import crc32

import msgspec

from operators.models.mixture import Mixture
from operators.race.approval import Approvals
from operators.race.arena import STATE_WORDS, Arena, Evidenced, Moment, Objection, State, listed
from operators.race.good_versions import GOOD_EVERY, GoodVersions
from operators.state import StateEntries, WholeState
from topics.messages import Command, Decision, DecisionType

__all__ = ["COMMANDS_MAX", "OF_ALL_RACES", "UNSIGNED", "Commands"]

COMMANDS_MAX = 1_024
"""Command ids remembered to ignore repeats; what is as old as one that was forgotten is refused: somebody may
have kept a signed command to send it again."""
NO_COMMAND = (
    'a command is one JSON object, {"command_id": ..., "command": ..., "time": ...} and what its word needs, '
    "such as model_name"
)
OF_ALL_RACES = frozenset({"pause", "resume"})
"""Commands that name no key where each key has a race of its own."""
PAUSED_ALREADY = Objection("learning is paused already", "`resume` ends the pause")
NOT_PAUSED = Objection("learning is not paused", "nothing to do: examples are learned as they come")
NONE_FORGOTTEN = -(2**63)
SOURCES_NAMED = 20
"""Sources in quarantine that a refusal names."""
UNSIGNED = "send it with `headrace models`, HEADRACE_COMMAND_KEYS holding the key under the name of who asks"


class Quarantined(Protocol):
    """The sources of labels, of which some may be in quarantine."""

    @property
    def quarantined(self) -> list[str]:
        """Return who is in quarantine."""
        ...

    def release(self, name: str) -> bool:
        """Trust a source again; return whether it was in quarantine."""
        ...


class Acknowledges(Protocol):
    """What people say of alerts."""

    def refusal(self, alert_id: str | None) -> str:
        """Return why an id cannot be an alert's, empty if it can."""
        ...

    def ack(self, alert_id: str, *, false_alarm: bool) -> None:
        """Take what somebody says of an alert."""
        ...


class Commands(WholeState):
    """Carry out commands.

    >>> import pickle
    >>> from operators.models.scoring import Racer, Roster
    >>> from operators.race.evidence import Promotion
    >>> roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    >>> arena = Arena("flights", 0, roster, Promotion())
    >>> approvals = Approvals(Promotion(), arena, "binary", 0.5, lambda champion, challenger: None)
    >>> commands = Commands(arena, GoodVersions(pickle.dumps, pickle.loads, roster), approvals)
    >>> command = Command("c1", "promote", 0, model_name="b", actor="kim", reason="holiday")
    >>> [(d.decision_id, d.type, d.from_model) for d in commands.act(Moment(7, 0, 0), command)]
    [('flights:0:7:0', 'model.promoted', 'a')]
    >>> roster.champion, roster.previous, commands.act(Moment(8, 0, 0), command)
    ('b', ('a',), [])
    """

    def __init__(
        self, arena: Arena, good: GoodVersions, approvals: Approvals, acks: Acknowledges | None = None
    ) -> None:
        """`acks` is told what people say of alerts; None where nobody is."""
        self._arena = arena
        self._good = good
        self._approvals = approvals
        self.sources: Quarantined | None = None
        """The sources of labels, where a race knows them."""
        self._acks = acks
        self._asked: dict[str, tuple[int, int]] = {}
        """Ids, oldest first, each with a checksum of what was asked, and its time."""
        self._forgotten_ms = NONE_FORGOTTEN
        """The largest time of a command whose id is remembered no more."""

    def act(self, at: Moment, command: Command) -> list[Decision]:
        """Carry out a command, once per command id.

        A command that cannot be done is refused, and so is another one under an id that was used.
        """
        asked = _checksum(command)
        asked_before, _ = self._asked.get(command.command_id, (None, 0))
        if asked_before == asked:
            return []
        refusal: Objection | None
        if asked_before is None and command.time <= self._forgotten_ms:
            refusal = Objection(
                f"its time, {command.time}, is not after that of commands whose ids are forgotten: a repeat?",
                "send it with the time of now",
            )
        elif asked_before is None:
            self._dirty = True
            refusal = self._refusal(command)
            self._asked[command.command_id] = asked, command.time
            if len(self._asked) > COMMANDS_MAX:
                _, forgotten_ms = self._asked.pop(next(iter(self._asked)))
                self._forgotten_ms = max(self._forgotten_ms, forgotten_ms)
        else:
            refusal = Objection(
                f"command_id `{command.command_id}` was another command's",
                "send it again under an id of its own",
            )
        if refusal is not None:
            arena = self._arena
            told = refusal.evidence
            return [
                arena.write(at, "command.refused", arena.roster.champion, refusal.why, command, evidence=told)
            ]
        return self._ACTS[command.command](self, at, command)

    def refuse(self, at: Moment, reason: str, command_id: str, do: str = NO_COMMAND) -> Decision:
        """Return the refusal of what is no command, or nobody's; its id, if it has one, may come again."""
        refusal = Objection(reason, do)
        evidence = refusal.evidence | ({"command_id": command_id} if command_id else {})
        champion = self._arena.roster.champion
        return self._arena.write(at, "command.refused", champion, refusal.why, evidence=evidence)

    # -- when it cannot be done --------------------------------------------------------------------

    def _refusal(self, command: Command) -> Objection | None:
        """Return why a command cannot be done, None if it can."""
        arena = self._arena
        name, champion = command.model_name, arena.roster.champion
        match command.command:
            case "pause" if arena.paused:
                return PAUSED_ALREADY
            case "resume" if not arena.paused:
                return NOT_PAUSED
            case "unpin" if not arena.pinned:
                return Objection(
                    "no champion is pinned", "nothing to do: evidence decides; `pin` keeps one serving"
                )
            case "pause" | "resume" | "unpin":
                return None
            case "rollback":
                return self._no_way_back(command.to, name)
            case "approve" | "refuse":
                return self._approvals.refusal(command)
            case "release" if command.source:
                return self._not_held(command.source)
            case "ack":
                return self._not_acked(command.alert_id)
            case "pin" if name in {None, champion}:
                return self._not_pinned(champion)
        if name is None:
            return Objection(f"{command.command} needs a model_name", self._to_name(command.command))
        state = arena.states.get(name)
        if state is None:
            return Objection(f"there is no candidate `{name}`", self._to_name(command.command))
        if command.command == "weights":
            return self._no_weights(name, command.weights or {})
        return self._not_so(command.command, name, state)

    def _not_held(self, source: str) -> Objection | None:
        """Return why a source of labels cannot be released, None if it can."""
        held = [] if self.sources is None else self.sources.quarantined
        if source in held:
            return None
        return Objection(
            f"source `{source}` is not quarantined",
            f"quarantined are: {listed(held[:SOURCES_NAMED], 'none')}",
        )

    def _to_name(self, word: str) -> str:
        """Return which candidates a command could be about."""
        arena = self._arena
        match word:
            case "release":
                return f"quarantined are: {listed(arena.in_state('quarantined'), 'none')}"
            case "retire":
                racers, others = arena.roster.racers, arena.in_state("challenger", "quarantined")
                others = [name for name in others if not racers[name].twin_of]
                return f"beside the champion there are: {listed(others, 'none')}"
            case "weights":
                blends = [racer.name for racer in arena.roster.racers.values() if _fixed(racer.model)]
                none = "none; Blend(weights={...}) in the pipeline file makes one"
                return f"blends of fixed weights are: {listed(blends, none)}"
        return f"challengers are: {listed(arena.in_state('challenger'), 'none')}"

    def _not_so(self, word: str, name: str, state: State) -> Objection | None:
        """Return why a candidate is not in the state that a command needs, None if it is."""
        twin_of, why = self._arena.roster.racers[name].twin_of, f"`{name}` is {STATE_WORDS[state]}"
        if twin_of and word == "retire":
            return Objection(
                f"`{name}` learns for `{twin_of}`, and is retired with it", f"`retire` `{twin_of}`"
            )
        match word, state:
            case ("release", "quarantined") | ("retire", "challenger" | "quarantined"):
                return None
            case ("promote" | "pin", "challenger"):
                return None
            case "release", _:
                return Objection(why, self._to_name(word))
            case "retire", _:
                return Objection(why, f"`promote` another one first; {self._to_name('promote')}")
            case _ if twin_of:
                return Objection(why, f"`{twin_of}` is the one that serves, and its twin learns for it")
            case _, "quarantined":
                return Objection(why, f"`release` it first; {self._to_name(word)}")
        return Objection(why, f"nothing to do: it serves; `pin` keeps it serving; {self._to_name(word)}")

    def _not_pinned(self, champion: str) -> Objection | None:
        """Return why the champion cannot be pinned, None if it can."""
        if self._arena.pinned:
            return Objection(
                f"`{champion}` is pinned already",
                "`unpin` lets evidence decide again; `pin` or `promote` of another model moves the pin",
            )
        if self._arena.states[champion] == "champion":
            return None
        return Objection(f"`{champion}` is quarantined", f"`release` it first; {self._to_name('pin')}")

    def _no_weights(self, name: str, weights: Mapping[str, float]) -> Objection | None:
        """Return why a candidate cannot have these weights, None if it can."""
        model = self._arena.roster.racers[name].model
        if not isinstance(model, Mixture):
            return Objection(f"`{name}` is no blend of fixed weights", self._to_name("weights"))
        why = model.refusal(weights)
        if not why:
            return None
        if model.fixed is None:
            return Objection(f"`{name}`: {why}", self._to_name("weights"))
        now = " ".join(f"{one}={weight:g}" for one, weight in model.fixed.items())
        return Objection(f"`{name}`: {why}", f"give each a weight of 0 or more, as now: {now}")

    def _no_way_back(self, label: str | None, name: str | None) -> Objection | None:
        """Return why the race cannot go back to a good version, or to the champion before; None if it can."""
        arena = self._arena
        if label is None:
            if arena.roster.previous:
                return None
            return Objection(
                "there is no earlier champion",
                f"`promote` a challenger, or name a good version; {self._to_name('promote')}; {self._kept()}",
            )
        if name is not None and name not in arena.states:
            return Objection(f"there is no candidate `{name}`", self._kept())
        found = self._good.find(label, name)
        if found is None:
            whose = f" of `{name}`" if name is not None else ""
            return Objection(f"`{label}` is no good version{whose}", self._kept(name))
        if arena.states[found[0]] == "quarantined":
            last = self._good.of(found[0])[-1].label
            return Objection(
                f"`{found[0]}` is quarantined", f"`release` it: it goes back to its last good version, {last}"
            )
        return None

    def _not_acked(self, alert_id: str | None) -> Objection | None:
        """Return why an alert cannot be acknowledged, None if it can."""
        why = (
            "nobody keeps what is said of alerts here" if self._acks is None else self._acks.refusal(alert_id)
        )
        return Objection(why, "ids are as on the alerts topic: PIPELINE:ALERT:SUBJECT:TIME") if why else None

    def _kept(self, name: str | None = None) -> str:
        """Return which good versions there are, of every candidate or of one."""
        by_name = {
            one: " ".join(good.label for good in self._good.of(one))
            for one in self._arena.states
            if name in {None, one}
        }
        kept = [f"{labels} of `{one}`" for one, labels in by_name.items() if labels]
        if not kept:
            return f"none is kept yet: each model is, after every {GOOD_EVERY:,} examples"
        return f"kept are: {', '.join(kept)}"

    # -- how it is done ----------------------------------------------------------------------------

    def _pause(self, at: Moment, command: Command) -> list[Decision]:
        arena = self._arena
        arena.paused = command.command == "pause"
        decided: DecisionType = "learning.paused" if arena.paused else "learning.resumed"
        return [arena.write(at, decided, arena.roster.champion, _reason(command), command)]

    def _promote(self, at: Moment, command: Command) -> list[Decision]:
        """Promote a candidate where it does not serve; a pin keeps it."""
        arena = self._arena
        decisions = []
        chosen = command.model_name
        if chosen is not None and chosen != arena.roster.champion:
            decisions.append(arena.crown(chosen, at, _reason(command), command=command))
        if command.command == "pin":
            decisions.append(arena.pin(at, _reason(command), command))
        return decisions

    def _unpin(self, at: Moment, command: Command) -> list[Decision]:
        return [self._arena.unpin(at, _reason(command), command)]

    def _rollback(self, at: Moment, command: Command) -> list[Decision]:
        """Go back to the champion before this one, or to a good version, which then serves."""
        arena = self._arena
        if command.to is None:
            return [arena.crown(arena.roster.previous[0], at, _reason(command), command=command)]
        found = self._good.find(command.to, command.model_name)
        assert found is not None
        name, good = found
        before = arena.take_back(name, self._good.model(name, good), good.updates)
        evidence = self._good.figures(name, good) | {"replaced": before.label}
        decisions = [
            arena.write(at, "version.restored", name, _reason(command), command, evidence, replaced=before)
        ]
        if arena.states[name] == "challenger":
            decisions.append(arena.crown(name, at, _reason(command), command=command))
        return decisions

    def _retire(self, at: Moment, command: Command) -> list[Decision]:
        assert command.model_name is not None
        return self._arena.retire(at, command.model_name, _reason(command), command)

    def _release(self, at: Moment, command: Command) -> list[Decision]:
        """Let a candidate in again from its last good version; without one, as its definition made it."""
        arena, name = self._arena, command.model_name
        if command.source and self.sources is not None:
            self.sources.release(command.source)
            released: Evidenced = {"source": command.source}
            champion = arena.roster.champion
            return [arena.write(at, "source.released", champion, _reason(command), command, released)]
        assert name is not None
        kept = self._good.of(name)
        if kept:
            good = kept[-1]
            before = arena.take_back(name, self._good.model(name, good), good.updates)
            evidence: Evidenced = self._good.figures(name, good)
        else:
            before = arena.take_back(name, arena.roster.racers[name].model.clone(), 0)
            evidence = {"restored": "fresh", "updates": 0}
        evidence["replaced"] = before.label
        return arena.readmit(at, name, _reason(command), evidence, command)

    def _weigh(self, at: Moment, command: Command) -> list[Decision]:
        """Give a blend other fixed weights, as a version of its own."""
        assert command.model_name is not None
        arena, name, weights = self._arena, command.model_name, command.weights or {}
        before = arena.roster.racers[name]
        mixture = before.model.copy()
        mixture.reweigh(weights)
        replaced = arena.renew(name, mixture, before.updates)
        evidence: Evidenced = {**weights, "replaced": replaced.label}
        return [arena.write(at, "blend.weighed", name, _reason(command), command, evidence, replaced)]

    def _answer(self, at: Moment, command: Command) -> list[Decision]:
        return self._approvals.answer(at, command)

    def _ack(self, at: Moment, command: Command) -> list[Decision]:
        assert self._acks is not None
        assert command.alert_id is not None
        self._acks.ack(command.alert_id, false_alarm=command.false_alarm)
        arena = self._arena
        told: Evidenced = {"alert_id": command.alert_id, "false_alarm": str(command.false_alarm).lower()}
        return [arena.write(at, "alert.acked", arena.roster.champion, _reason(command), command, told)]

    _ACTS: dict[str, Callable[[Commands, Moment, Command], list[Decision]]] = {  # noqa: RUF012 never changed
        "pause": _pause,
        "resume": _pause,
        "promote": _promote,
        "pin": _promote,
        "unpin": _unpin,
        "rollback": _rollback,
        "retire": _retire,
        "release": _release,
        "weights": _weigh,
        "approve": _answer,
        "refuse": _answer,
        "ack": _ack,
    }

    # -- state -------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {
            "commands": msgspec.msgpack.encode(
                {name: checksum for name, (checksum, _) in self._asked.items()}
            ),
            "command-times": msgspec.msgpack.encode(
                [self._forgotten_ms, [time for _, time in self._asked.values()]]
            ),
        }

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        asked = msgspec.msgpack.decode(entries["commands"], type=dict[str, int])
        times = [NONE_FORGOTTEN] * len(asked)
        self._forgotten_ms = NONE_FORGOTTEN
        if data := entries.get("command-times"):  # older checkpoints have none
            self._forgotten_ms, times = msgspec.msgpack.decode(data, type=tuple[int, list[int]])
        self._asked = {
            name: (checksum, time) for (name, checksum), time in zip(asked.items(), times, strict=True)
        }
        self._dirty = False


def _fixed(model: object) -> bool:
    """Return whether a model is a blend of fixed weights."""
    return isinstance(model, Mixture) and model.fixed is not None


def _reason(command: Command) -> str:
    return command.reason or command.command


def _checksum(command: Command) -> int:
    """Return what tells a repeat of a command from another one under its id."""
    told: tuple[object, ...] = (
        command.to,
        command.proposal_id,
        command.weights,
        *([command.source] if command.source else []),
    )
    if command.alert_id is not None:
        told += (command.alert_id, command.false_alarm)
    more = f" {told}" if any(part is not None for part in told) else ""
    return crc32(f"{command.command} {command.model_name}{more}".encode())
