"""Learning ahead of the log: what a scorer of this process makes is learned before it is written.

Lives here: handing examples to the learner at the offsets they will have.  Never here: when that
is allowed (`follower.py`), what an example does (`operators/race/learning.py`), reading the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby

from engine.machines.learner import Learner
from operators.race.lessons import Lessons
from topics.messages import Decision, Example, Features, LabelValue, Quarantine

__all__ = ["Ahead"]


class Ahead:
    """The learner as a scorer of the same process sees it.

    `decided` is called after every step, with what was decided, mostly nothing.

    Nobody else may write to the examples log meanwhile.
    """

    def __init__(self, learner: Learner, decided: Callable[[Sequence[Decision]], object]) -> None:
        self._learner = learner
        self._decided = decided

    def learn(self, values: Sequence[Example | Quarantine]) -> None:
        """Learn records of the log in the order in which they will be written.

        Raises ModelError during a pause, ClaimError if they do not count.
        """
        learner = self._learner
        for kind, same in groupby(values, type):
            if kind is Example:
                self._decided(learner.learn([value for value in same if isinstance(value, Example)]))
            else:
                for value in same:
                    if isinstance(value, Quarantine):
                        self._decided(learner.take(value))

    def lessons(
        self, rows: Sequence[Features], labels: Sequence[LabelValue], names: AbstractSet[str]
    ) -> Lessons:
        """Let every candidate score and learn rows; `judge` must follow for all of them.

        `names` are all that the rows can have.
        """
        return self._learner.learning.lessons(rows, labels, names)

    def judge(self, examples: Sequence[Example], lessons: Lessons, row: int) -> int:
        """Let `examples`, made from `row` of `lessons` on, act up to a decision; return how many did.

        Raises as `learn`.
        """
        judged, decisions = self._learner.judge(examples, lessons, row)
        self._decided(decisions)
        return judged
