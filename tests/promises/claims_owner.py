"""An owner as the model check sees it: the real protocol around a toy scorer.

The scorer is as hostile as may be: its answers depend on which owner it is and on the labels it has
read, and it reads events and labels in another order in every replay.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace as replaced
from typing import Any, NamedTuple

from claims_world import WAIT, Event, Label, Sender, World, require
from msgspec.structs import replace

import operators.claims.takeover as protocol
from operators.claims.rule import Log, LogPosition, Suppression, part_of
from topics.errors import ClaimError
from topics.messages import Claim, Example, Prediction

MOVES = 0.1
"""How often the group moves while an owner works."""


class Open(NamedTuple):
    """An answered event within its horizon."""

    answer: Prediction
    label: int | None
    label_offset: int = -1


class State:
    """What a checkpoint keeps of a scorer."""

    def __init__(self) -> None:
        self.events = self.labels = self.joined = 0
        self.time_max = -1
        self.open: dict[str, Open] = {}
        self.early: dict[str, tuple[tuple[Label, int], ...]] = {}
        self.made: frozenset[int] = frozenset()
        """Event offsets whose example was made on the way to this state."""
        self.corrected: frozenset[tuple[int, int]] = frozenset()
        """The same of corrections, each with the offset of its label."""

    def copy(self) -> State:
        copy = State()
        copy.__dict__.update(self.__dict__, open=self.open.copy(), early=self.early.copy())
        return copy

    def laid_on(self, base: State, held: State) -> State:
        """Return what a store that holds `held` holds then, if it is given what changed since `base`."""
        laid = self.copy()
        laid.open = _changed(base.open, self.open, held.open)
        laid.early = _changed(base.early, self.early, held.early)
        laid.made = held.made | (self.made - base.made)
        laid.corrected = held.corrected | (self.corrected - base.corrected)
        return laid

    def waits(self, event_id: str) -> bool:
        entry = self.open.get(event_id)
        return entry is not None and entry.label is None


def _changed(base: dict[str, Any], now: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    """Return `held` with what is other in `now` than in `base`."""
    kept = {name: value for name, value in held.items() if name in now or name not in base}
    return kept | {name: value for name, value in now.items() if base.get(name) != value}


class Checkpoint(NamedTuple):
    logs: tuple[LogPosition, ...]
    state: State


class Scorer:
    """Answers events and joins labels; logged answers are used again, logged records not made again."""

    def __init__(self, world: World, source: int, owner: int, owned: protocol.Takeover) -> None:
        self.world, self.source, self.owner = world, source, owner
        self.writer, self.suppression = owned.writer, owned.suppression
        self.state = owned.checkpoint.state.copy() if owned.checkpoint else State()
        self.predictions: list[Prediction] = []
        self.examples: list[Example] = []
        self._events, self._labels = world.events[source], world.labels[source]
        self._events_first = world.rng.choice((0.2, 0.5, 0.8))
        self._waits = (lambda _: False) if world.left_out == "asking the join" else self.state.waits

    def at_end(self) -> bool:
        return self.state.events == len(self._events) and self.state.labels == len(self._labels)

    def run(self, records: int) -> None:
        """Read some records, of either kind."""
        state = self.state
        self.predictions, self.examples = [], []
        for _ in range(records):
            events_left, labels_left = len(self._events) - state.events, len(self._labels) - state.labels
            if events_left and (not labels_left or self.world.rng.random() < self._events_first):
                self._event(self._events[state.events], state.events)
                state.events += 1
            elif labels_left:
                self._label(self._labels[state.labels], state.labels)
                state.labels += 1
        self.suppression.passed(state.events, state.labels, self._waits)

    def _event(self, event: Event, offset: int) -> None:
        state = self.state
        logged = self.suppression.answered(event.event_id, offset)
        self.world.counts["suppressed answers"] += logged is not None
        known = state.open.get(event.event_id)
        if known is not None:
            if logged is None:
                self._answer(replace(known.answer, event_offset=offset))
            return
        state.time_max = max(state.time_max, event.time)
        self._expire(offset)
        answer = self._score(event, offset)
        if logged is None:
            self._answer(answer)
        elif self.world.left_out != "reuse of logged answers":
            answer = logged
        if event.time + WAIT >= state.time_max:
            state.open[event.event_id] = Open(answer, None)
            for label, label_offset in state.early.pop(event.event_id, ()):
                self._meet(label, label_offset)

    def _label(self, label: Label, offset: int) -> None:
        early = self.state.early
        if label.event_id in self.state.open:
            self._meet(label, offset)
        elif self.world.corrects or label.event_id not in early:
            early[label.event_id] = (*early.get(label.event_id, ()), (label, offset))

    def _meet(self, label: Label, offset: int) -> None:
        """Let a label join its open event, or correct the label that it has."""
        known = self.state.open[label.event_id]
        if label.time > known.answer.event_time + WAIT:
            return
        if known.label is None:
            self._join(label.event_id, label.value, offset, -1)
        elif self.world.corrects and label.value != known.label and offset > known.label_offset:
            self._correct(label.event_id, label.value, offset)

    def _expire(self, at_offset: int) -> None:
        state = self.state
        passed = state.time_max - WAIT
        for event_id, labels in list(state.early.items()):
            left = tuple(one for one in labels if one[0].time >= passed)
            if left:
                state.early[event_id] = left
            else:
                del state.early[event_id]
        for event_id, (answer, label_value, _) in list(state.open.items()):
            if answer.event_time < passed:
                if label_value is None and self.world.implicit is not None:
                    self._join(event_id, self.world.implicit, -1, at_offset)
                del state.open[event_id]

    def _score(self, event: Event, offset: int) -> Prediction:
        name, joined = event.event_id, self.state.joined
        features = {"owner": self.owner, "joined": joined}
        return Prediction(
            name, name, event.time, 0, "m", 1, 0, "", float(joined), None, "", features, offset, 0, 0
        )

    def _answer(self, answer: Prediction) -> None:
        sequence = self.writer.next(("predictions", self.source))
        self.predictions.append(replace(answer, claim=self.writer.claim, sequence=sequence))

    def _join(self, event_id: str, label: int, label_offset: int, expired_at_offset: int) -> None:
        state, counts = self.state, self.world.counts
        answer = state.open[event_id].answer
        state.open[event_id] = Open(answer, label, label_offset)
        state.joined += 1
        state.made |= {answer.event_offset}
        counts["implicit labels"] += expired_at_offset >= 0
        logged = self.suppression.exampled(event_id, answer.event_offset)
        if logged is not None:
            counts["suppressed examples"] += 1
            if self.world.corrects and self.world.left_out != "the label in the log":
                state.open[event_id] = Open(answer, int(logged.label), logged.label_offset)
                if logged.label_offset < label_offset and logged.label != label:
                    self._correct(event_id, label, label_offset)
            return
        self._send(event_id, label, label_offset, expired_at_offset)

    def _correct(self, event_id: str, label: int, label_offset: int) -> None:
        state, counts = self.state, self.world.counts
        answer, before, _ = state.open[event_id]
        state.open[event_id] = Open(answer, label, label_offset)
        state.corrected |= {(answer.event_offset, label_offset)}
        counts["corrections"] += 1
        part = part_of("", before, label_offset)
        if self.world.left_out != "suppression of corrections" and self.suppression.exampled(
            event_id, answer.event_offset, part
        ):
            counts["suppressed corrections"] += 1
            return
        self._send(event_id, label, label_offset, -1, before)

    def _send(
        self,
        event_id: str,
        label: int,
        label_offset: int,
        expired_at_offset: int,
        before: int | None = None,
    ) -> None:
        answer = self.state.open[event_id].answer
        example = Example(
            event_id=event_id,
            key="",
            event_time=answer.event_time,
            label_time=0,
            label=label,
            features=answer.features,
            scores={},
            served_score=answer.prediction_score,
            served_by="",
            model_name="m",
            source_partition=self.source,
            event_offset=answer.event_offset,
            label_offset=label_offset,
            claim=self.writer.claim,
            sequence=self.writer.next(self.world.logs.segment(event_id)),
            expired_at_offset=expired_at_offset,
            before=before,
        )
        self.examples.append(example)


class Owner:
    """One owner of one source; `life` yields wherever it can be interrupted, or crash."""

    def __init__(self, world: World, source: int, *, reliable: bool = False) -> None:
        world.counts["owners"] += 1
        self.world, self.source, self.number = world, source, world.counts["owners"]
        self.sender = Sender(world.network, reliable=reliable)
        self.nonce = "everybody's" if world.left_out == "nonce" else f"{self.number}"
        self.unsaved = False
        self.scorer: Scorer | None = None
        self.finished: State | None = None
        """The state at the end of both inputs, saved."""
        self.life = self._run()
        self._saving: Generator[None, None, None] = iter(())  # type: ignore[assignment]
        self._in_flight = False
        self._scorer: Scorer
        self._claimed_with = 0
        """Records sent to the predictions log until it was claimed."""
        self._base: Checkpoint | None = None
        """The checkpoint that the next one is a change of."""

    def _run(self) -> Generator[None, None, None]:
        world, rng = self.world, self.world.rng
        owned = yield from self._take_over()
        if owned is None:
            return
        if world.left_out == "suppression":
            owned = replaced(owned, suppression=Suppression())
        self._claimed_with = self.sender.sent()[("predictions", self.source)]
        scorer = self._scorer = Scorer(world, self.source, self.number, owned)
        world.counts["restores mid-stream"] += 0 < scorer.state.events < len(world.events[self.source])
        while True:
            scorer.run(rng.randrange(1, 4))
            yield from self._beside(self._write(scorer))
            done = scorer.at_end()
            if done:
                yield from self._saving
                self._saving = self._save(scorer, owned)
                yield from self._saving
            elif rng.random() < 0.3 and not self._in_flight:
                self._saving = self._save(scorer, owned)
                next(self._saving)
            elif rng.random() < MOVES and (yield from self._moved(scorer, owned)):
                return
            if self.sender.broken:
                return
            if done:
                self.finished = scorer.state
                return

    def _moved(self, scorer: Scorer, owned: protocol.Takeover) -> Generator[None, None, bool]:
        """Save, stop, and go on when the partition comes back, if it may; return whether it ends here."""
        world, rng = self.world, self.world.rng
        yield from self._saving
        self._saving = self._save(scorer, owned)
        yield from self._saving
        if self.sender.broken:
            return True
        for _ in range(rng.choice((0, 5, 40))):
            yield
        match world.left_out:
            case "asking whether it is kept":
                keeps = True
            case "look before keeping":
                return (yield from self._claim_anew(owned))
            case _:
                assert self._base is not None
                keeps = yield from self._carry_out(protocol.keeps(owned, self._base.logs))
        world.counts["kept" if keeps else "not kept"] += 1
        return not keeps

    def _claim_anew(self, owned: protocol.Takeover) -> Generator[None, None, bool]:
        """Take the partition that came back by a new claim, and go on with what is in memory unseen."""
        anew = yield from self._take_over()
        if anew is None:
            return True
        owned.__dict__.update(anew.__dict__)
        self._claimed_with = self.sender.sent()[("predictions", self.source)]
        self._scorer.writer, self._scorer.suppression = anew.writer, Suppression()
        return False

    def _beside(self, work: Generator[None, None, None]) -> Generator[None, None, None]:
        """Work on; the checkpoint in flight comes along as it may."""
        for _ in work:
            yield
            if self._in_flight and self.world.rng.random() < 0.5:
                next(self._saving, None)

    def _acknowledged(self, sent: dict[Log, int]) -> Generator[None, None, None]:
        while self.sender.waits(sent):
            yield

    def _take_over(self) -> Generator[None, None, protocol.Takeover | None]:
        counts = self.world.counts
        partitions = self.world.logs.examples_partitions
        steps = protocol.takeover(self.source, self.nonce, examples=range(partitions))
        try:
            owned: protocol.Takeover | None = yield from self._carry_out(steps)
        except ClaimError:
            counts["rivals never rested"] += 1
            return None
        claims = self.sender.sent().get(("predictions", self.source), 0)
        counts["started over"] += claims > 2  # an announcement and a claim
        if owned is not None:
            self._base = owned.checkpoint
            counts["mended a store"] += owned.behind is not None
            counts["mended an empty store"] += owned.behind is not None and owned.checkpoint is None
        return owned

    def _carry_out(self, steps: Generator[protocol.Request, Any, Any]) -> Generator[None, None, Any]:
        """Answer what the protocol asks for, as the shell does."""
        answer: Any = None
        settled: protocol.Sent | None = None
        while True:
            try:
                request = steps.send(answer)
            except StopIteration as done:
                return done.value
            yield
            if self.world.left_out == "counting after the look" and self._in_flight and settled is None:
                settled = yield from self._settle(("predictions", self.source))
                if self.sender.broken:
                    return False
                yield
            match request:
                case protocol.WriteClaim(target, partition, claim):
                    answer = yield from self._write_claim((target, partition), claim)
                    if self.sender.broken:
                        return None
                case protocol.Settle(target, partition):
                    answer = settled or (yield from self._settle((target, partition)))
                    if self.sender.broken:
                        return False
                case _:
                    answer = self.world.answer(self.source, request)
            yield

    def _write_claim(self, log: tuple[str, int], claim: Claim) -> Generator[None, None, int]:
        self.sender.send(log, claim)
        yield from self._acknowledged({log: self.sender.sent()[log]})
        return self.sender.acknowledged.get(log, [-1])[-1]

    def _settle(self, log: Log) -> Generator[None, None, protocol.Sent]:
        sent = self.sender.sent()[log]
        yield from self._acknowledged({log: sent})
        return protocol.Sent(sent - self._claimed_with, self.sender.acknowledged[log][:sent][-1] + 1)

    def _write(self, scorer: Scorer) -> Generator[None, None, None]:
        """Predictions first; their examples only when they are acknowledged."""
        log = ("predictions", self.source)
        for answer in scorer.predictions:
            self.sender.send(log, answer)
        if self.world.left_out != "predictions before examples":
            yield from self._acknowledged({log: self.sender.sent()[log]})
            if self.sender.broken:
                return
        for example in scorer.examples:
            self.sender.send(self.world.logs.segment(example.event_id), example)
        self.unsaved = True
        yield

    def _save(self, scorer: Scorer, owned: protocol.Takeover) -> Generator[None, None, None]:
        """Capture at the first step; wait, look and store at later ones, while the scorer goes on."""
        left_out = self.world.left_out
        self._in_flight = True
        at, state, sent = protocol.cut(owned), scorer.state.copy(), self.sender.sent()
        yield
        if left_out != "flush before checkpoint":
            yield from self._acknowledged(sent)
        self.world.counts["went on during a save"] += self.sender.sent() != sent
        for log, offsets in self.sender.acknowledged.items():
            known = offsets if left_out == "acknowledgements of the cut" else offsets[: sent.get(log, 0)]
            if known:
                owned.writer.acknowledged(log, known[-1])
        if left_out == "numbers of the cut":
            at = at._replace(numbered=owned.writer.numbered.copy())
        yield from self._store(owned, at, state)
        self._in_flight = False

    def _store(self, owned: protocol.Takeover, at: protocol.Cut, state: State) -> Generator[None, None, None]:
        world, left_out = self.world, self.world.left_out
        if not self.sender.broken and left_out not in ("look before checkpoint", "any fence"):
            owns = yield from self._carry_out(protocol.still_owner(owned, at))
            world.counts["found out before a checkpoint"] += not owns
            self.sender.broken |= not owns
        if self.sender.broken:
            return
        keeps = left_out != "old positions while replaying"
        logs = protocol.log_positions(owned, at) if keeps else owned.writer.positions(at.numbered)
        world.counts["saved while replaying"] += not at.replayed
        yield
        store, saved = world.stores[self.source], Checkpoint(logs, state)
        another_base = store.checkpoint is not self._base
        if another_base and left_out == "base of a delta" and store.claim == owned.claim:
            base, held = (one.state if one else State() for one in (self._base, store.checkpoint))
            saved = Checkpoint(logs, state.laid_on(base, held))
            require(vars(saved.state) == vars(state), "a checkpoint holds what no owner ever had")
        elif left_out != "any fence" and (another_base or store.claim != owned.claim):
            world.counts["fenced at a checkpoint"] += 1
            world.counts["another base at a checkpoint"] += store.claim == owned.claim
            self.sender.broken = True
            return
        store.save(saved)
        world.lose_the_last(self.source)
        self._base = saved
        self.unsaved = False
