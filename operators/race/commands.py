"""What a person may ask of the race: carried out once per id, or refused with the reason.

Lives here: which command means what, when it cannot be done, which ids have been used.  Never here: how the
line-up changes (`arena.py`), bytes (`topics/codec.py`), a word on the command line (`engine/cli`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from zlib import crc32

import msgspec

from operators.models.mixture import Mixture
from operators.race.approval import Approvals
from operators.race.arena import Arena, Evidenced, Moment
from operators.race.good_versions import GoodVersions
from operators.state import StateEntries, WholeState
from topics.messages import Command, Decision, DecisionType

__all__ = ["COMMANDS_MAX", "Commands"]

COMMANDS_MAX = 1_024
"""Command ids remembered to ignore repeats; retries come within seconds, not a thousand commands later."""


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

    def __init__(self, arena: Arena, good: GoodVersions, approvals: Approvals) -> None:
        self._arena = arena
        self._good = good
        self._approvals = approvals
        self._asked: dict[str, int] = {}
        """Ids, oldest first, each with a checksum of what was asked."""

    def act(self, at: Moment, command: Command) -> list[Decision]:
        """Carry out a command, once per command id.

        A command that cannot be done is refused, and so is another one under an id that was used.
        """
        asked = _checksum(command)
        asked_before = self._asked.get(command.command_id)
        if asked_before == asked:
            return []
        if asked_before is None:
            self._dirty = True
            refusal = self._refusal(command)
            self._asked[command.command_id] = asked
            if len(self._asked) > COMMANDS_MAX:
                del self._asked[next(iter(self._asked))]
        else:
            refusal = f"command_id `{command.command_id}` was another command's"
        if refusal:
            return [self._arena.write(at, "command.refused", self._arena.roster.champion, refusal, command)]
        return self._ACTS[command.command](self, at, command)

    def refuse(self, at: Moment, reason: str, command_id: str) -> Decision:
        """Return the refusal of what is no command; its id, if it has one, may come again."""
        evidence: Evidenced = {"command_id": command_id} if command_id else {}
        champion = self._arena.roster.champion
        return self._arena.write(at, "command.refused", champion, reason, evidence=evidence)

    # -- when it cannot be done --------------------------------------------------------------------

    def _refusal(self, command: Command) -> str:
        """Return why a command cannot be done, empty if it can."""
        arena = self._arena
        name, champion = command.model_name, arena.roster.champion
        match command.command:
            case "pause":
                return "learning is paused already" if arena.paused else ""
            case "resume":
                return "" if arena.paused else "learning is not paused"
            case "unpin":
                return "" if arena.pinned else "no champion is pinned"
            case "rollback" if command.to is not None:
                return self._no_version(command.to, name)
            case "rollback":
                return "" if arena.roster.previous else "there is no earlier champion"
            case "approve" | "refuse":
                return self._approvals.refusal(command)
            case "promote" | "retire" | "release" | "weights" if name is None:
                return f"{command.command} needs a model_name"
            case "weights":
                return self._no_weights(name or "", command.weights or {})
            case "pin" if name in {None, champion}:
                if arena.pinned:
                    return f"`{champion}` is pinned already"
                return "" if arena.states[champion] == "champion" else f"`{champion}` is quarantined"
        return self._not_so(command.command, name or "")

    def _not_so(self, word: str, name: str) -> str:
        """Return why a candidate is not in the state that a command needs, empty if it is."""
        arena = self._arena
        state = arena.states.get(name)
        if state is None:
            return f"there is no candidate `{name}`"
        if word == "release":
            return "" if state == "quarantined" else f"`{name}` is {state}"
        if word == "retire":
            twin_of = arena.roster.racers[name].twin_of
            if twin_of:
                return f"`{name}` learns for `{twin_of}`, and is retired with it"
            return "" if name != arena.roster.champion else f"`{name}` is {state}"
        return "" if state == "challenger" else f"`{name}` is {state}"

    def _no_weights(self, name: str, weights: Mapping[str, float]) -> str:
        """Return why a candidate cannot have these weights, empty if it can."""
        racer = self._arena.roster.racers.get(name)
        if racer is None:
            return f"there is no candidate `{name}`"
        if not isinstance(racer.model, Mixture):
            return f"`{name}` is no blend of fixed weights"
        refusal = racer.model.refusal(weights)
        return f"`{name}`: {refusal}" if refusal else ""

    def _no_version(self, label: str, name: str | None) -> str:
        """Return why the race cannot go back to a version, empty if it can."""
        found = self._good.find(label, name)
        if found is None:
            kept = [good.label for good in self._good.of(name or self._arena.roster.champion)]
            known = f"; kept are: {', '.join(kept)}" if kept else ""
            whose = f" of `{name}`" if name is not None else ""
            return f"`{label}` is no good version{whose}{known}"
        racer = self._arena.roster.racers[found[0]]
        state = self._arena.states[racer.name]
        if state == "quarantined":
            return f"`{racer.name}` is quarantined: release it, which goes back to its last good version"
        return ""

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
        assert command.model_name is not None
        arena, name = self._arena, command.model_name
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
    }

    # -- state -------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"commands": msgspec.msgpack.encode(self._asked)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._asked = msgspec.msgpack.decode(entries["commands"], type=dict[str, int])
        self._dirty = False


def _reason(command: Command) -> str:
    return command.reason or command.command


def _checksum(command: Command) -> int:
    """Return what tells a repeat of a command from another one under its id."""
    told = (command.to, command.proposal_id, command.weights)
    more = f" {told}" if any(part is not None for part in told) else ""
    return crc32(f"{command.command} {command.model_name}{more}".encode())
