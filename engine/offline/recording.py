"""What a backtest leaves behind of a run, as a worker leaves it in its topics: a recording.

Lives here: the files, the offsets in them, who was champion as the models topic tells it.  Never here: the
form of a line, reading it again (`replay.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from engine.machines.learner import Learner
from engine.offline.replay import recorded_line
from engine.worker.assembly import pointer_of
from operators.race.learning import is_succession
from topics.catalog import Role
from topics.codec import encode
from topics.errors import SettingsError
from topics.messages import Decision, Outgoing

__all__ = ["Recording"]

RECORDED: tuple[Role, ...] = ("examples", "decisions", "models", "predictions")


class Recording:
    """A recording being written; use it as a context.

    Raises SettingsError where the folder cannot be written.
    """

    def __init__(self, folder: Path, pipeline: Pipeline) -> None:
        self._folder, self._pipeline = folder, pipeline
        self._open = ExitStack()
        self._files: dict[Role, IO[bytes]] = {}
        self._ends: Counter[Role] = Counter()

    def __enter__(self) -> Self:
        """Make the folder and its files, empty."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for role in RECORDED:
                self._files[role] = self._open.enter_context((self._folder / f"{role}.jsonl").open("wb"))
        except OSError as error:
            self._open.close()
            raise SettingsError(
                f"cannot write {self._folder}: {error.strerror}", hint="give another folder"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._open.close()

    def add(self, role: Role, records: Iterable[Outgoing]) -> None:
        """Write records of one topic, each at the next offset."""
        topic, file = self._pipeline.catalog[role], self._files[role]
        for outgoing in records:
            file.write(recorded_line(outgoing.written(topic, 0, self._ends[role])) + b"\n")
            self._ends[role] += 1

    def decided(self, decisions: Sequence[Decision], learner: Learner) -> None:
        """Write decisions, and who is champion where they made another one."""
        key = self._pipeline.name.encode()
        self.add("decisions", (Outgoing("decisions", 0, key, encode(one), (), one.time) for one in decisions))
        if is_succession(decisions, learner.roster.champion):
            self.point(learner, crowned=True)

    def point(self, learner: Learner, *, crowned: bool = False) -> None:
        """Write who is champion; `crowned`: and the state in which it became it."""
        champion = pointer_of(self._pipeline, learner)
        pointers = [champion, replace(champion, alias=f"v{champion.version}")] if crowned else [champion]
        self.add(
            "models",
            (
                Outgoing("models", 0, f"{one.pipeline}@{one.alias}".encode(), encode(one), (), None)
                for one in pointers
            ),
        )
