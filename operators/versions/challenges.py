"""Challengers that start by themselves: again and again, or when what is served has become worse.

Lives here: when it is time for one, and why.  Never here: how one starts and who makes room for it
(`arena.py`, which also starts those of a drift that begin with nothing learned), whether it wins
(`evidence.py`).

A challenger that begins as a copy of another needs that model as of the last example, so it starts at a stop
(`learning.py`); so do those that go by label time, at most `LOOK_EVERY` examples after it was time.

    Every(10_000)               at each multiple of that many examples
    Every("1d")                 with the first stop in each day of label time after the first
    Drifted()                   a detector says that the loss has risen
    Worse(by=0.05, than="30d")  see below

Worse.  The time before is cut into `BUCKETS` buckets, by examples or by label time.  When one closes, its
mean loss of what was served is compared with that of the buckets before, if there are `BEFORE_MIN` of them.
It is worse if it lies `by` higher, and `DEVIATIONS` standard errors of its own; it tells so once, until a
bucket is not worse again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import msgspec

from operators.race.arena import Arena, Evidenced, Moment, RecentLoss
from operators.race.candidates import Challenge, Drifted, Every, Worse
from operators.race.losses import Losses
from operators.state import StateEntries, WholeState
from topics.durations import duration_ms
from topics.messages import Decision, Example

__all__ = ["Challenges"]

LOOK_EVERY = 64
"""Examples between two looks at what is no matter of examples: a slice of the log."""
BUCKETS = 32
BEFORE_MIN = 8
BUCKET_EXAMPLES_MIN = 100
"""A bucket with fewer examples does not close: their mean says little."""
DEVIATIONS = 3.0


class _Bucket(msgspec.Struct):
    """Losses of what was served, side by side in the log."""

    begun: int
    """Number of the bucket in examples or label time at its first example."""
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, loss: float) -> None:
        self.count += 1
        self.total += loss
        self.squares += loss * loss

    @property
    def error(self) -> float:
        """Return the standard error of the mean, as if examples were independent."""
        mean = self.total / self.count
        return sqrt(max(self.squares / self.count - mean * mean, 0.0) / self.count)


class _ChallengeState(msgspec.Struct):
    """What one challenge remembers."""

    block: int | None = None
    """`Every` by label time: the block of the last look."""
    risen: int = 0
    """`Drifted`: alarms seen."""
    buckets: list[_Bucket] = []
    """`Worse`: oldest first, the open one last."""
    worse: bool = False
    due: Evidenced | None = None
    """`Worse`: the figures of a start that waits for the next stop."""


class Challenges(WholeState):
    """Start challengers where it is time.

    >>> from operators.models.scoring import Racer, Roster
    >>> from operators.race.evidence import Promotion
    >>> arena = Arena("flights", 0, Roster("binary", [Racer("a", "model", version=1)], "a"), Promotion())
    >>> challenges = Challenges(arena, [Challenge(Every(100), start="champion")], str.upper, lambda _: 0.5)
    >>> [(d.type, d.model_name, d.reason) for d in challenges.stop(Moment(12, 0, 100))]
    [('challenger.started', 'a-2', 'every 100 examples')]
    >>> arena.roster.racers["a-2"].model
    'MODEL'
    """

    def __init__(
        self,
        arena: Arena,
        challenges: Sequence[Challenge],
        copied: Callable[[Any], Any],
        recent_loss: RecentLoss,
    ) -> None:
        self._arena = arena
        self._copied = copied
        self._recent_loss = recent_loss
        self._states: dict[str, _ChallengeState] = {}
        self.follow(challenges)

    def follow(self, challenges: Sequence[Challenge]) -> None:
        """Take the challenges of another field; those that stay remember what they know."""
        self._challenges = [
            one for one in challenges if one.start == "champion" or not isinstance(one.when, Drifted)
        ]
        self._states = {
            mark: self._states.get(mark, _ChallengeState(risen=self._arena.risen))
            for mark in map(repr, self._challenges)
        }
        self._dirty = True

    @property
    def stops(self) -> Sequence[int]:
        """Return the numbers of examples between its stops."""
        spans = [one.when.span if isinstance(one.when, Every) else "" for one in self._challenges]
        return sorted({span if isinstance(span, int) else LOOK_EVERY for span in spans})

    def observe(self, examples: Sequence[Example], tested: Sequence[Losses]) -> None:
        """Take note of the losses of what was served."""
        for challenge in self._challenges:
            if isinstance(challenge.when, Worse):
                state = self._states[repr(challenge)]
                for example, (loss, _) in zip(examples, tested, strict=True):
                    if loss is not None:
                        _note(state, challenge.when, example.label_time, loss)
                self._dirty = True

    def stop(self, at: Moment) -> list[Decision]:
        """Start the challengers whose time it is."""
        decisions: list[Decision] = []
        for challenge in self._challenges:
            reason, figures = self._due(challenge, self._states[repr(challenge)], at)
            if reason:
                copied = self._copied if challenge.start == "champion" else None
                decisions += self._arena.start(at, challenge, reason, self._recent_loss, figures, copied)
        return decisions

    def _due(self, challenge: Challenge, state: _ChallengeState, at: Moment) -> tuple[str, Evidenced]:
        """Return why it is time for a challenger, empty if it is not, and the figures behind it."""
        when = challenge.when
        if isinstance(when, Every):
            if isinstance(when.span, int):
                return (f"every {when.span:,} examples" if at.examples % when.span == 0 else ""), {}
            block, before = at.time // duration_ms(when.span), state.block
            if block != before:
                state.block = block
                self._dirty = True
            return (f"every {when.span}" if before is not None and block > before else ""), {}
        if isinstance(when, Drifted):
            risen, state.risen = state.risen < self._arena.risen, self._arena.risen
            self._dirty |= risen
            return ("drift" if risen and self._arena.may_start(at) else ""), {}
        due, state.due = state.due, None
        if due is None:
            return "", {}
        self._dirty = True
        return f"what is served is worse than over {when.than}", due

    def forget(self, name: str) -> None:
        """Keep everything: nothing is of one candidate."""

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"challenges": msgspec.msgpack.encode(self._states)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        states = msgspec.msgpack.decode(entries["challenges"], type=dict[str, _ChallengeState])
        self._states = {mark: states.get(mark, state) for mark, state in self._states.items()}
        self._dirty = False


def _note(state: _ChallengeState, worse: Worse, label_time: int, loss: float) -> None:
    """Add a loss to the open bucket, or close that and begin another."""
    buckets = state.buckets
    if isinstance(worse.than, int):
        width, place = max(worse.than // BUCKETS, 1), buckets[-1].begun + buckets[-1].count if buckets else 0
    else:
        width, place = max(duration_ms(worse.than) // BUCKETS, 1), label_time
    if not buckets:
        buckets.append(_Bucket(place))
    elif place - buckets[-1].begun >= width and buckets[-1].count >= BUCKET_EXAMPLES_MIN:
        _judge(state, worse)
        buckets.append(_Bucket(place))
        del buckets[: -BUCKETS - 1]
    buckets[-1].add(loss)


def _judge(state: _ChallengeState, worse: Worse) -> None:
    """Compare the bucket that closes with those before."""
    *before, last = state.buckets
    if len(before) < BEFORE_MIN:
        return
    usual = sum(bucket.total for bucket in before) / sum(bucket.count for bucket in before)
    recent = last.total / last.count
    was, state.worse = state.worse, recent - usual >= max(worse.by, DEVIATIONS * last.error)
    if state.worse and not was:
        state.due = {"recent": recent, "before": usual, "examples": last.count}
