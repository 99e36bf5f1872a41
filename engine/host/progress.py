"""Whether a worker gets on with its work: there is some, nothing holds it up that ends by itself, it stands.

Lives here: what is looked at, for how long it may stand still, what it waits for then.  Never here: a clock
(time is an argument), what follows (`watchdog.py`), deadlines of single calls.

Strategy.  Every call has a deadline of its own, and a loop that has not turned is seen by `/livez`.  What
neither sees is a client that fetches nothing any more while the loop turns, a group that never assigns, a
task that waits for another.  So three things are looked at from outside, each by a number that moves when it
gets on:

    answers      records lie unread, or read and not taken      where they are taken
    lessons      examples are logged and not learned            where the learner reads on
    partitions   none are restored                              what a takeover has read

An empty topic, a pause of learning, a bound that waits for a store that is away and a broker that does not
answer are no standstill: the first two are no work, the others are waited for elsewhere, and `/readyz` and
metrics tell.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["ProgressWatch", "Seen", "Stall"]

LOOP_SILENT_S = 10.0
"""A turn takes milliseconds; a loop that has not turned for so long stands in one of its steps."""

Subject = Literal["answers", "lessons", "partitions"]
Cause = Literal["broker", "group", "learner", "loop", "store"]


class Seen(NamedTuple):
    """What a worker knows of its work at one moment."""

    restored: bool = True
    """Whether partitions, perhaps none, are assigned and restored."""
    restoring: bool = False
    """Whether a takeover is under way; it waits for stores up to a deadline of its own."""
    restored_to: int = 0
    """A number that moves with a takeover."""
    unread: int = 0
    """Input records that are known to lie in the logs, or in memory, and were not taken."""
    taken: int = 0
    """A number that moves with every record that is taken or fetched."""
    unlearned: int = 0
    """Logged examples that were not learned."""
    learned: int = 0
    """Where the learner reads on."""
    paused: bool = False
    """Whether learning is paused, by a command or an alarm."""
    held: bool = False
    """Whether no events are taken because too many are in no checkpoint."""
    store_away: bool = False
    """Whether the store of checkpoints has said that it cannot be used now: it is asked again and again."""
    broker_away: bool = False
    """Whether a broker does not answer: its own deadline runs."""
    learner_waited_for: bool = False
    """Whether answers wait for the learner."""
    saving: bool = False
    """Whether a checkpoint is on its way."""
    loop_silent_s: float = 0.0
    """How long ago the loop has turned."""


class Stall(NamedTuple):
    """Work that has stood still for too long."""

    subject: Subject
    waits_for: Cause
    seconds: float
    seen: Seen

    def __str__(self) -> str:
        """Return what happened and what it is waiting for, for a person."""
        what = {
            "answers": f"{self.seen.unread} records lie unread, and none has been taken",
            "lessons": f"{self.seen.unlearned} examples are logged, and none has been learned",
            "partitions": "no partitions are assigned and restored, and nothing has been read",
        }[self.subject]
        return f"{what} for {self.seconds:.0f} s: it waits for {_WAITS[self.waits_for]}"


_WAITS: dict[Cause, str] = {
    "broker": "the broker: fetches bring nothing",
    "group": "the consumer group, which assigns nothing",
    "learner": "the learner, which reads nothing of the examples log",
    "loop": "a step of its own loop that does not end",
    "store": "a checkpoint that is not written",
}


class ProgressWatch:
    """The three subjects of one worker, each with the moment since which it has stood still.

    >>> progress = ProgressWatch(10.0, takeover_s=60.0)
    >>> [progress.look(second, Seen(unread=3, taken=7)) is None for second in (0.0, 9.9)]
    [True, True]
    >>> print(progress.look(10.0, Seen(unread=3, taken=7)))
    3 records lie unread, and none has been taken for 10 s: it waits for the broker: fetches bring nothing
    """

    def __init__(self, deadline_s: float, *, takeover_s: float) -> None:
        """`takeover_s` is what a takeover may stand still longer, for it waits for stores."""
        self.stalled_s = 0.0
        """How long the work has stood still by the last look; 0.0 where it gets on or there is none."""
        self._deadline_s = deadline_s
        self._takeover_s = takeover_s
        self._since: dict[Subject, tuple[int, float]] = {}
        """The number of each subject that has work, and when it was seen first."""

    def look(self, now_s: float, seen: Seen) -> Stall | None:
        """Return the first subject that has stood still for the deadline; times are of a monotonic clock."""
        stalls = [
            Stall(subject, _cause(subject, seen), now_s - since_s, seen)
            for subject, since_s in self._standing(now_s, seen)
        ]
        self.stalled_s = max((stall.seconds for stall in stalls), default=0.0)
        for stall in stalls:
            patience_s = self._takeover_s if stall.subject == "partitions" and seen.restoring else 0.0
            if stall.seconds >= self._deadline_s + patience_s:
                return stall
        return None

    def _standing(self, now_s: float, seen: Seen) -> list[tuple[Subject, float]]:
        """Return the subjects that have work, and since when their number is the same."""
        found: list[tuple[Subject, float]] = []
        waits_for_store = seen.held and seen.store_away
        subjects: tuple[tuple[Subject, bool, int], ...] = (
            ("answers", seen.restored and seen.unread > 0 and not waits_for_store, seen.taken),
            ("lessons", seen.restored and seen.unlearned > 0 and not seen.paused, seen.learned),
            ("partitions", not seen.restored, seen.restored_to),
        )
        for subject, has_work, number in subjects:
            before = self._since.get(subject)
            if not has_work or seen.broker_away:
                self._since.pop(subject, None)
            elif before is None or before[0] != number:
                self._since[subject] = (number, now_s)
                found.append((subject, now_s))
            else:
                found.append((subject, before[1]))
        return found


def _cause(subject: Subject, seen: Seen) -> Cause:
    """Return what this subject waits for, as far as can be told from outside."""
    if subject == "lessons" or (subject == "answers" and seen.learner_waited_for):
        return "learner"
    if subject == "partitions":
        return "loop" if seen.restoring else "group"
    if seen.held:
        return "store"
    if seen.loop_silent_s >= LOOP_SILENT_S:
        return "store" if seen.saving else "loop"
    return "broker"
