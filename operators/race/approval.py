"""What stands between a proof and the swap: protected slices, churn, a person's word.

Lives here: vetoes, the proposals that wait for an answer, when they expire.  Never here: the proof
(`evidence.py`), the swap itself (`arena.py`), the words of a command (`commands.py`).

A challenger that evidence has proven better is asked for at the end of every block, in this order:

    veto        worse than the champion, by more than a guard allows, on the last `VETO_ROWS` rows that the
                guard looks at; fewer than `VETO_ROWS_MIN` of them say nothing.  In slices that the search
                for worse ones has found, the search keeps these means (`operators/monitor/worst.py`)
    churn_max   a larger share of recent answers would differ under it
    approve     "manual": the swap becomes a proposal, which waits for `approve` or `refuse`, and expires

What forbids it is told once (`promotion.vetoed`), and again when it is something else.  A proposal that was
refused or has expired is not made again before the challenger has proven itself anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from operators.models.parameters import model_text
from operators.race.arena import STATE_WORDS, Arena, Evidenced, Moment, Objection
from operators.race.evidence import Promotion
from operators.race.losses import GuardLosses, Losses
from operators.race.routing import Guard
from operators.state import StateEntries, WholeState
from topics.durations import duration_ms
from topics.messages import Command, Decision, DecisionType, Example, Task

__all__ = ["Approvals", "Churn", "Proposal", "WorseWhereFound"]

VETO_ROWS = 1_000
"""Latest rows of a slice on which two candidates are compared: a percent of a difference is ten of them."""
VETO_ROWS_MIN = 30
LOOK_EVERY = 64
"""Examples between two looks at whether a proposal has expired: a slice of the log."""
Churn = Callable[[str, str], float | None]
"""(champion, challenger) -> share of recent answers that would differ; None where it is not known."""
WorseWhereFound = Callable[[str, str], Mapping[str, float]]
"""(champion, challenger) -> by how much it is worse on each slice that was found to be bad, by the slice."""
OfEach = dict[str, float | None]


class Proposal(msgspec.Struct, frozen=True):
    """A swap that waits for a person's word."""

    proposal_id: str
    """Id of the decision that opened it."""
    champion: str
    examples: int
    time: int
    evidence: Evidenced


class _State(msgspec.Struct):
    open: dict[str, Proposal] = {}
    """By challenger."""
    vetoed: dict[str, str] = {}
    """By challenger: what was told last to forbid its promotion."""
    rows: list[list[OfEach]] = []
    """Of each guard, oldest first: the losses of the candidates on a row."""
    scales: list[tuple[float, float, float]] = []
    """Of guards by a loss of a regression."""


class Approvals(WholeState):
    """Veto and propose.

    >>> from operators.models.scoring import Racer, Roster
    >>> promotion = Promotion(approve="manual")
    >>> roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    >>> arena = Arena("flights", 0, roster, promotion)
    >>> approvals = Approvals(promotion, arena, "binary", 0.5, lambda champion, challenger: 0.25)
    >>> passed, decisions = approvals.asked(Moment(7, 0, 0), "b", {"effect": 0.1})
    >>> passed, decisions[0].type, decisions[0].evidence
    (False, 'proposal.opened', {'effect': 0.1, 'churn': 0.25})
    >>> approve = Command("c1", "approve", 0, proposal_id=decisions[0].decision_id, actor="kim")
    >>> [(decision.type, decision.model_name) for decision in approvals.answer(Moment(9, 0, 0), approve)]
    [('proposal.accepted', 'b'), ('model.promoted', 'b')]
    """

    def __init__(
        self,
        promotion: Promotion,
        arena: Arena,
        task: Task,
        threshold: float,
        churn: Churn,
        found: WorseWhereFound = lambda _champion, _challenger: {},
    ) -> None:
        self._arena = arena
        self._churn, self._found = churn, found
        self._task: Task = task
        self._state = _State()
        self._guards: list[Guard] = []
        self._rows: list[deque[OfEach]] = []
        self._losses = GuardLosses(task, (), threshold)
        self.follow(promotion, threshold)

    def follow(self, promotion: Promotion, threshold: float) -> None:
        """Take the settings of another field; proposals stay open, rows where no guard has changed."""
        guards = list(promotion.veto)
        losses = GuardLosses(self._task, [guard.loss for guard in guards], threshold)
        if model_text(guards) == model_text(self._guards):
            losses.restore(self._losses.scales())
        else:
            self._rows = [deque(maxlen=VETO_ROWS) for _ in guards]
        self._guards, self._losses = guards, losses
        self._manual = promotion.approve == "manual"
        self._churn_max = promotion.churn_max
        expires = promotion.proposal_expires
        self._expires_ms = duration_ms(expires) if isinstance(expires, str) else None
        self._expires_examples = expires if isinstance(expires, int) else 0
        self._dirty = True

    @property
    def asks(self) -> bool:
        """Return whether anything stands between a proof and the swap."""
        return self._manual or bool(self._guards) or self._churn_max is not None

    @property
    def stops(self) -> Sequence[int]:
        """Return after how many examples it looks at what has expired."""
        return (LOOK_EVERY,) if self._manual or self._state.open else ()

    def observe(self, examples: Sequence[Example], tested: Sequence[Losses]) -> None:
        """Keep the losses of rows that a guard looks at."""
        for example, (_, losses) in zip(examples, tested, strict=True):
            for number, (guard, rows) in enumerate(zip(self._guards, self._rows, strict=True)):
                if guard.looks_at(example.features):
                    rows.append(dict(self._losses.of(number, example.label, example.scores, losses)))
                    self._dirty = True
            if self._losses.scaled:
                self._losses.update(example.label)
                self._dirty = True

    # -- on a proof ---------------------------------------------------------------------------------

    def asked(self, at: Moment, name: str, evidence: Evidenced) -> tuple[bool, list[Decision]]:
        """Return whether a proven challenger may be promoted now, and what was decided on being asked."""
        arena, state = self._arena, self._state
        champion = arena.roster.champion
        churn = self._churn(champion, name)
        if churn is not None:
            evidence["churn"] = churn
        forbidding = self._forbidding(champion, name, churn)
        if forbidding:
            told = ", ".join(forbidding)
            if state.vetoed.get(name) == told:
                return False, []
            state.vetoed[name] = told
            self._dirty = True
            reason = f"worse by more than it may be: {told}"
            return False, [arena.write(at, "promotion.vetoed", name, reason, evidence=evidence | forbidding)]
        self._dirty |= state.vetoed.pop(name, None) is not None
        if not self._manual:
            return True, []
        if name in state.open:
            return False, []
        opened = arena.write(at, "proposal.opened", name, "evidence", evidence=evidence)
        state.open[name] = Proposal(opened.decision_id, champion, at.examples, at.time, evidence)
        self._dirty = True
        return False, [opened]

    def _forbidding(self, champion: str, name: str, churn: float | None) -> Evidenced:
        """Return what forbids a swap, with the figures: how much worse it would be."""
        forbidding: Evidenced = {}
        for guard, rows in zip(self._guards, self._rows, strict=True):
            if guard.slice == "found":
                for where, mean in self._found(champion, name).items():
                    if mean > guard.worse:
                        forbidding[f"{guard.named} where {where}"] = mean
                continue
            worse = [
                of_name - of_champion
                for row in rows
                if (of_name := row.get(name)) is not None and (of_champion := row.get(champion)) is not None
            ]
            if len(worse) >= VETO_ROWS_MIN and (mean := sum(worse) / len(worse)) > guard.worse:
                forbidding[guard.named] = mean
        if self._churn_max is not None and churn is not None and churn > self._churn_max:
            forbidding["churn"] = churn
        return forbidding

    # -- a person's word ----------------------------------------------------------------------------

    def open(self) -> dict[str, Proposal]:
        """Return the proposals that wait, by challenger."""
        return dict(self._state.open)

    def refusal(self, command: Command) -> Objection | None:
        """Return why a proposal cannot be answered, None if it can."""
        name = self._named(command)
        if name is None:
            named = command.proposal_id
            ids = ", ".join(f"`{one.proposal_id}` of `{who}`" for who, one in self._state.open.items())
            return Objection(
                f"there is no open proposal `{named}`" if named else f"{command.command} needs a proposal_id",
                f"open are: {ids}" if ids else "none is open; `promote` lets a challenger serve without one",
            )
        if command.command == "refuse" and name in self._arena.states:
            return None
        if void := self._void(name):
            return Objection(
                void, "the proposal expires by itself; `promote` lets a challenger serve without one"
            )
        return None

    def answer(self, at: Moment, command: Command) -> list[Decision]:
        """Carry out what a person says to a proposal."""
        name = self._named(command)
        assert name is not None
        proposal = self._state.open.pop(name)
        self._dirty = True
        accepted = command.command == "approve"
        decided: DecisionType = "proposal.accepted" if accepted else "proposal.refused"
        about: Evidenced = {"proposal_id": proposal.proposal_id}
        reason = command.reason or command.command
        decisions = [self._arena.write(at, decided, name, reason, command, about)]
        if accepted:
            decisions += self._arena.succeed(name, at, reason, proposal.evidence | about, command)
        return decisions

    def _named(self, command: Command) -> str | None:
        for name, proposal in self._state.open.items():
            if proposal.proposal_id == command.proposal_id:
                return name
        return None

    def _void(self, name: str) -> str:
        """Return why a proposal can no longer be carried out, empty if it can."""
        state = self._arena.states.get(name)
        if state != "challenger":
            return f"`{name}` is {STATE_WORDS[state or 'retired']}"
        proposal, champion = self._state.open[name], self._arena.roster.champion
        return "" if proposal.champion == champion else f"`{champion}` serves since"

    def stop(self, at: Moment) -> list[Decision]:
        """Let proposals expire that are old, or can no longer be carried out."""
        decisions = []
        for name, proposal in list(self._state.open.items()):
            if reason := self._void(name) or self._late(at, proposal):
                self._dirty = True
                del self._state.open[name]
                about: Evidenced = {"proposal_id": proposal.proposal_id}
                subject = name if name in self._arena.states else self._arena.roster.champion
                decisions.append(self._arena.write(at, "proposal.expired", subject, reason, evidence=about))
        return decisions

    def _late(self, at: Moment, proposal: Proposal) -> str:
        """Return why a proposal waits no longer, empty if it does."""
        if not self._manual:
            return "nobody needs to approve any more"
        if self._expires_ms is None:
            late = at.examples - proposal.examples >= self._expires_examples
        else:
            late = at.time - proposal.time >= self._expires_ms
        return "nobody has answered it" if late else ""

    def forget(self, name: str) -> None:
        """Drop what is known of a candidate that has left the race; its proposal expires at the next look."""
        self._dirty |= self._state.vetoed.pop(name, None) is not None
        for rows in self._rows:
            for row in rows:
                self._dirty |= row.pop(name, None) is not None

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        rows = [list(rows) for rows in self._rows]
        state = _State(self._state.open, self._state.vetoed, rows, self._losses.scales())
        return {"approval": msgspec.msgpack.encode(state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._state = msgspec.msgpack.decode(entries["approval"], type=_State)
        for rows, kept in zip(self._rows, self._state.rows, strict=True):
            rows.clear()
            rows.extend(kept)
        if self._state.scales:
            self._losses.restore(self._state.scales)
        self._state.rows, self._state.scales = [], []
        self._dirty = False
