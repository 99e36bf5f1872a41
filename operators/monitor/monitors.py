"""All monitors of a race as one that goes along with it.

Lives here: what a monitor keeps, how monitors begin, end and lie in a checkpoint.  Never here: what any of
them sees.

Strategy: examples gather until there are some hundreds of them (`operators/race/learning.py`), or somebody
asks; then they become columns once, for all monitors.  A race that has none holds an empty `Monitors`, and
nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec
from msgspec.structs import replace

from operators.models.parameters import model_text
from operators.models.scoring import Roster
from operators.monitor.rows import Rows
from operators.race.arena import Arena, Moment
from operators.race.losses import Losses, Objective
from operators.state import Operator, StateDelta, StateEntries, named, under
from topics.messages import Block, CalibrationCurve, Decision, DecisionType, Example, Task

__all__ = ["Monitor", "MonitorContext", "MonitorSettings", "Monitors", "Reported", "Reporting"]

MONITORS = "monitors"
BEGUN = "monitors-begun"
FIRST_MS = -1 << 62
"""Before every label."""
NOTHING_BEGUN = msgspec.msgpack.encode({})


class MonitorContext(NamedTuple):
    """What a monitor may know of its race."""

    pipeline: str
    task: Task
    threshold: float
    """The binary score from which on the predicted label is true."""
    objective: Objective
    """What the losses are."""
    roster: Roster
    """Live; a monitor reads models at stops alone, and changes none."""

    @property
    def text(self) -> str:
        """Return what its figures are figures of: where it differs, they begin anew."""
        return f"{self.task} {self.threshold!r} {model_text(self.objective)}"


class Monitor(Operator, Protocol):
    """One thing that is seen of labelled examples."""

    @property
    def stops(self) -> Sequence[int]:
        """Return the numbers of examples between its stops: as `Companion`, for one that reads models."""
        ...

    def observe(self, rows: Rows) -> None:
        """See examples that were learned, in the order of the log."""
        ...

    def stop(self, at: Moment) -> None:
        """Act at a stop of anybody's, all examples before it seen; `at.examples` tells one's own."""
        ...

    def forget(self, name: str) -> None:
        """Drop what is kept of a candidate that has left the race."""
        ...

    def report(self) -> Any:
        """Return what was seen, as plain objects; changes nothing."""
        ...

    def signals(self) -> Mapping[str, float]:
        """Return the numbers that an alert may be about, by name; changes nothing."""
        ...


@runtime_checkable
class Correctable(Protocol):
    """A monitor whose figures are sums, so that the first label of an example can be taken back."""

    def correct(self, was: Rows, now: Rows) -> None:
        """Take one example back that was seen with another label, and count it with the new one."""
        ...


@runtime_checkable
class Expecting(Protocol):
    """A monitor that sees answers before they have a label."""

    def answered(self, block: Block) -> None:
        """See what one partition has answered in a span of time, where the log holds it."""
        ...


class Reported(msgspec.Struct, frozen=True):
    """What a record tells of one monitor."""

    type: DecisionType
    about: str
    """What the record is about, in words."""
    slices: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    calibration: dict[str, CalibrationCurve] = {}
    left_out: int = 0
    """Slices that find no room in it."""


@runtime_checkable
class Reportable(Protocol):
    """A monitor whose report goes into records: bounded in size, with the figures of `report`."""

    def reported(self) -> list[Reported]:
        """Return what is told in records; changes nothing."""
        ...


class MonitorSettings(Protocol):
    """What a definition says of one monitor: a frozen dataclass."""

    def monitor(self, context: MonitorContext) -> Monitor | None:
        """Return the monitor; None where it has nothing to see in this task."""
        ...


NamedSettings = Sequence[tuple[str, MonitorSettings | None]]


class Monitors:
    """The monitors that a field asks for, by name: a gatherer of the race, an operator made of others."""

    def __init__(self, settings: NamedSettings, context: MonitorContext) -> None:
        self._context = context
        self._told: dict[str, str] = {}
        """The settings of each monitor, as text."""
        self.gathered: list[tuple[Example, Losses]] = []
        """Examples with their losses that no monitor has seen yet; whoever asks looks first."""
        self._gone: StateDelta = {}
        self._begun: dict[str, int] = {}
        """The newest label time when a monitor began later than the race, ms, by name."""
        self.parts: dict[str, Monitor] = {}
        self._begin(settings)

    def _begin(self, settings: NamedSettings) -> None:
        """Begin the monitors whose settings are new, and end those that are asked for no more."""
        before, told = self.parts, self._told
        self.parts, self._told = {}, {}
        for name, one in settings:
            if one is None:
                continue
            text = f"{model_text(one)} {self._context.text}"
            part = before[name] if told.get(name) == text else one.monitor(self._context)
            if part is not None:
                self.parts[name], self._told[name] = part, text

    def follow(self, settings: NamedSettings, threshold: float, objective: Objective, time_ms: int) -> None:
        """Take the settings of another field; a monitor goes on where nothing that it sees by has changed.

        `time_ms` is the newest label time so far.
        """
        self.look()
        stored = self.snapshot()
        before = dict(self.parts)
        self._context = self._context._replace(threshold=threshold, objective=objective)
        self._begin(settings)
        ended = [name for name, part in before.items() if self.parts.get(name) is not part]
        self._begun = {
            name: self._begun.get(name, FIRST_MS) if before.get(name) is part else time_ms
            for name, part in self.parts.items()
        }
        self._gone |= dict.fromkeys(
            entry for entry in stored if any(entry.startswith(f"{MONITORS}/{name}/") for name in ended)
        )

    # -- as an observer of the race ---------------------------------------------------------------

    @property
    def stops(self) -> Sequence[int]:
        """Return the numbers of examples between the stops of any monitor."""
        return sorted({every for part in self.parts.values() for every in part.stops})

    def look(self) -> None:
        """Let every monitor see what has gathered."""
        if not self.gathered:
            return
        examples, tested = zip(*self.gathered, strict=True)
        self.gathered.clear()
        rows = Rows(examples, tested, self._context.task)
        for part in self.parts.values():
            part.observe(rows)

    def correct(self, example: Example, before: Losses, after: Losses) -> None:
        """Let monitors of sums count an example with another label, if they have counted it with the first.

        One that began after the race does so for events newer than every label that came before it began: a
        later correction does not tell when the first label came.
        """
        if example.before is None:
            return
        self.look()
        task = self._context.task
        was = Rows([replace(example, label=example.before)], [before], task)
        now = Rows([example], [after], task)
        for name, part in self.parts.items():
            if isinstance(part, Correctable) and example.event_time > self._begun.get(name, FIRST_MS):
                part.correct(was, now)

    def answered(self, block: Block) -> None:
        """Let monitors see what a partition has answered, after all examples before it in the log."""
        self.look()
        for part in self.parts.values():
            if isinstance(part, Expecting):
                part.answered(block)

    def stop(self, at: Moment) -> list[Decision]:
        """Let the monitors act at a stop; nothing is ever decided."""
        self.look()
        for part in self.parts.values():
            part.stop(at)
        return []

    def forget(self, name: str) -> None:
        """Drop what is kept of a candidate that has left the race."""
        self.look()
        for part in self.parts.values():
            part.forget(name)

    # -- what was seen ----------------------------------------------------------------------------

    def reported(self) -> list[Reported]:
        """Return what is told of the monitors in records, in the order in which they were declared."""
        self.look()
        return [
            one for part in self.parts.values() if isinstance(part, Reportable) for one in part.reported()
        ]

    def report(self) -> dict[str, Any]:
        """Return what each monitor has seen, by its name."""
        self.look()
        return {name: part.report() for name, part in self.parts.items()}

    def report_of(self, name: str) -> Any:
        """Return what one monitor has seen; nothing where there is none of this name."""
        self.look()
        return self.parts[name].report() if name in self.parts else {}

    def signals(self) -> dict[str, float]:
        """Return the numbers that an alert may be about, as `MONITOR.NAME`."""
        self.look()
        return {
            f"{name}.{signal}": value
            for name, part in self.parts.items()
            for signal, value in part.signals().items()
        }

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: the entries of every monitor under its name."""
        self.look()
        return self._own() | named(
            {MONITORS: named({name: part.snapshot() for name, part in self.parts.items()})}
        )

    def _own(self) -> dict[str, bytes]:
        """Return when monitors began, in no entry where all began with the race."""
        return {BEGUN: msgspec.msgpack.encode(self._begun)} if self._begun else {}

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        self.look()
        gone, self._gone = self._gone, {}
        return (
            gone
            | self._own()
            | named({MONITORS: named({name: part.delta() for name, part in self.parts.items()})})
        )

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; a monitor that the entries know nothing of begins anew."""
        self.gathered.clear()
        self._gone = {}
        begun = entries.get(BEGUN, NOTHING_BEGUN)
        self._begun = msgspec.msgpack.decode(begun, type=dict[str, int])
        ours = under(MONITORS, entries)
        for name, part in self.parts.items():
            if of_part := under(name, ours):
                part.restore(of_part)


class Reporting:
    """The companion that writes what monitors have seen as decisions, every so many examples."""

    def __init__(self, monitors: Monitors, arena: Arena, every: int | None) -> None:
        self._monitors, self._arena = monitors, arena
        self.stops: Sequence[int] = () if every is None else (every,)

    def stop(self, at: Moment) -> list[Decision]:
        """Return the reports, if this stop is its own."""
        if not self.stops or at.examples % self.stops[0]:
            return []
        champion, write = self._arena.roster.champion, self._arena.write
        return [
            replace(
                write(
                    at,
                    told.type,
                    champion,
                    told.about,
                    evidence={"left_out": told.left_out} if told.left_out else None,
                ),
                slices=told.slices,
                calibration=told.calibration,
            )
            for told in self._monitors.reported()
        ]

    def forget(self, name: str) -> None:
        """Keep nothing of any candidate."""
