"""The tables of `docs/drift-results.md`: false alarms, planted shifts, the confusion of verdicts, the cost.

Lives here: which runs are made, figures of them, Markdown.  Never here: one run (`trial.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, get_args

from loadtest.shift.cost import FEATURES, Cost
from loadtest.shift.plants import Plant, plants_of
from loadtest.shift.power import LabelBound
from loadtest.shift.streams import DAY_MS, SOURCES, Model, Stationary, load_days, made_up, still
from loadtest.shift.trial import Played, play_days
from operators.drift.triage import ShiftKind
from operators.drift.watch import Reference, Watch

__all__ = [
    "FOUND_WITHIN",
    "PROMISE",
    "Alarms",
    "PlantHits",
    "alarms_table",
    "confusion_table",
    "cost_table",
    "false_alarms",
    "hits",
    "hits_table",
    "power_table",
]

WATCHED_DAYS: Final = 60
"""Days after the reference of a run that stands still."""
PLANTED_AT: Final = 56
FOUND_WITHIN: Final = 28
"""Days after the plant in which it must be found."""
HOUR_MS: Final = 3_600_000
MADE_UP: Final[Mapping[str, tuple[float, float]]] = {
    "made up: daily and weekly seasons": (0.0, 0.0),
    "made up: seasons, days differ by .15 deviations": (0.0, 0.15),
    "made up: seasons, days differ, neighbours correlate by .5": (0.5, 0.15),
}
"""Correlation of neighbouring days, and the size of their effects."""
PROMISE: Final = 30
"""Days of `false_alarm_every`."""


class Alarms(NamedTuple):
    """False alarms of one stream."""

    title: str
    reference: Reference
    runs: int
    days: int
    alarms: int

    @property
    def ratio(self) -> float:
        """Return alarms over alarms promised."""
        return self.alarms * PROMISE / self.days


class PlantHits(NamedTuple):
    """One plant in one stream."""

    stream: str
    plant: str
    verdict: ShiftKind
    loss_rise: float
    runs: int
    delays: list[int]
    """Blocks until it was found, of the runs in which it was."""
    first: list[ShiftKind]
    """The verdict as it was found ..."""
    last: list[ShiftKind]
    """... and as it stood in the end."""
    before: int
    """Alarms before the plant."""
    before_days: int

    @property
    def right(self) -> int:
        """Return in how many runs the last verdict is right."""
        return sum(one == self.verdict for one in self.last)


def false_alarms(folder: Path, runs: int, jobs: int) -> list[Alarms]:
    """Play runs that stand still: `runs` with the default reference, and a few with each other."""
    titles = [*MADE_UP, *SOURCES]
    work: list[_Work] = [_Work(titles[seed % len(titles)], "training", seed) for seed in range(runs)]
    other: tuple[Reference, ...] = ("sliding", "hour_of_week")
    work += [_Work(titles[1], one, seed) for one in other for seed in range(max(1, runs // 20))]
    work.sort()  # a worker loads a stream once
    with ProcessPoolExecutor(jobs) as pool:
        played = pool.map(_alarms, [folder] * len(work), work, chunksize=5)
        found: dict[tuple[str, Reference], Alarms] = {}
        for one, run in zip(work, played, strict=True):
            key = (one.title, one.reference)
            before = found.get(key, Alarms(run.title, one.reference, 0, 0, 0))
            found[key] = before._replace(
                runs=before.runs + 1, days=before.days + run.days, alarms=before.alarms + run.alarms
            )
    order: list[tuple[str, Reference]] = [(title, "training") for title in titles] + [
        (titles[1], one) for one in other
    ]
    return [found[key] for key in order if key in found]


class _Work(NamedTuple):
    title: str
    reference: Reference
    seed: int


def _alarms(folder: Path, work: _Work) -> Alarms:
    label, days, model, delay_ms = _still_stream(work.title, folder)
    watch = Watch(reference=work.reference)
    length = watch.reference_blocks + WATCHED_DAYS
    run = play_days(days, model, watch, seed=work.seed, length=length, delay_ms=delay_ms)
    return Alarms(label, work.reference, 1, run.days, len(run.found))


@cache
def _still_stream(title: str, folder: Path) -> tuple[str, Stationary, Model, int]:
    if title in MADE_UP:
        return (title, *made_up(*MADE_UP[title]), HOUR_MS)
    stream = load_days(title, folder)
    return stream.title, still(stream), stream.model, stream.delay_ms


def hits(folder: Path, runs: int, jobs: int, names: Sequence[str] = tuple(SOURCES)) -> list[PlantHits]:
    """Play every plant in every stream so many times."""
    with ProcessPoolExecutor(jobs) as pool:
        found = pool.map(_hits, names, [folder] * len(names), [runs] * len(names))
        return [one for stream in found for one in stream]


def _hits(name: str, folder: Path, runs: int) -> list[PlantHits]:
    stream = load_days(name, folder)
    days = still(stream)
    found = []
    for plant in plants_of(stream):
        outcomes = []
        for seed in range(runs):
            at = PLANTED_AT + seed % 7
            run = play_days(
                days, stream.model, Watch(), seed=2_000 + seed, length=at + FOUND_WITHIN,
                delay_ms=stream.delay_ms, plant=plant, at=at,
            )  # fmt: skip
            outcomes.append((run, at))
        found.append(_counted(stream.title, plant, outcomes))
    return found


def _counted(stream: str, plant: Plant, outcomes: Sequence[tuple[Played, int]]) -> PlantHits:
    delays: list[int] = []
    first: list[ShiftKind] = []
    last: list[ShiftKind] = []
    for run, at in outcomes:
        hit = next((day for day in run.found if day >= at), None)
        if hit is not None:
            delays.append(hit - at + 1)
            shift_id = next(
                one.shift_id
                for one in run.shifts
                if one.change == "found" and one.decided_ms // DAY_MS == run.first_day + hit + 1
            )
            told = [one.verdict for one in run.shifts if one.shift_id == shift_id]
            first.append(told[0])
            last.append(told[-1])
    before = sum(day < at for run, at in outcomes for day in run.found)
    days = sum(at - (run.length - run.days) for run, at in outcomes)
    return PlantHits(
        stream, plant.name, plant.verdict, plant.loss_rise, len(outcomes), delays, first, last, before, days
    )


# -- Markdown -----------------------------------------------------------------------------------------


def alarms_table(found: Sequence[Alarms]) -> str:
    """Return false alarms beside what is promised."""
    head = ["stream", "reference", "runs", "days", "verdicts", "promised at most", "ratio"]
    rows = [
        [one.title, one.reference, str(one.runs), f"{one.days:,}", str(one.alarms),
         f"{one.days / PROMISE:.0f}", f"{one.ratio:.2f}"]
        for one in found
    ]  # fmt: skip
    default = [one for one in found if one.reference == "training"]
    days, alarms = sum(one.days for one in default), sum(one.alarms for one in default)
    runs = sum(one.runs for one in default)
    ratio = alarms * PROMISE / days
    met = "met" if alarms <= days / PROMISE else "**missed**"
    rows.append(
        ["all with the default reference", "training", str(runs), f"{days:,}", str(alarms),
         f"{days / PROMISE:.0f}", f"**{ratio:.2f}** ({met})"]
    )  # fmt: skip
    return _table(head, rows)


def hits_table(found: Sequence[PlantHits]) -> str:
    """Return every plant: found, how late, with which verdict."""
    head = ["stream", "planted", "what it is", "loss", "found", "delay, days (worst)", "right at first",
            "right in the end"]  # fmt: skip
    rows = []
    for one in found:
        late = f"{median(one.delays):g} ({max(one.delays)})" if one.delays else "never"
        right_first = sum(verdict == one.verdict for verdict in one.first)
        rows.append(
            [one.stream, one.plant, _words(one.verdict), f"{one.loss_rise:+.0%}",
             f"{len(one.delays)} of {one.runs}", late, str(right_first), str(one.right)]
        )  # fmt: skip
    shifts = [one for one in found if one.verdict != "pipeline_fault"]
    rows += [_sum("all shifts of practical size", shifts), _sum("all, faults included", found)]
    return _table(head, rows)


def _sum(title: str, found: Sequence[PlantHits]) -> list[str]:
    runs, hit = sum(one.runs for one in found), sum(len(one.delays) for one in found)
    right = sum(one.right for one in found)
    first = sum(verdict == one.verdict for one in found for verdict in one.first)
    delays = [delay for one in found for delay in one.delays]
    return [
        f"**{title}**", "", "", "", f"**{hit} of {runs} ({hit / runs:.0%})**",
        f"{median(delays):g} ({max(delays)})", f"{first / hit:.0%}", f"**{right / hit:.0%}**",
    ]  # fmt: skip


def confusion_table(found: Sequence[PlantHits]) -> str:
    """Return what was planted against what was said in the end, in runs."""
    kinds: tuple[ShiftKind, ...] = get_args(ShiftKind)
    rows = []
    for kind in kinds:
        ones = [one for one in found if one.verdict == kind]
        said = Counter(verdict for one in ones for verdict in one.last)
        none = sum(one.runs - len(one.delays) for one in ones)
        rows.append([_words(kind), *(str(said[other]) for other in kinds), str(none)])
    before, days = sum(one.before for one in found), sum(one.before_days for one in found)
    rows.append(
        ["nothing (days before the plant)", *([""] * len(kinds)), f"{before} verdicts in {days:,} days"]
    )
    return _table(["planted", *map(_words, kinds), "none"], rows)


def power_table(found: Sequence[LabelBound]) -> str:
    """Return what labels show of each plant, and how many of them it takes."""
    head = ["stream", "planted", "labels a day", "loss, deviations of a day", "labels needed, by the loss",
            "best mean, deviations", "labels needed, by it", "chance of a test that knows it"]  # fmt: skip
    rows = [
        [one.stream, one.plant, f"{one.rows:,.0f}", f"{one.loss:.2f}",
         f"{one.rows * one.days_for(one.loss, PROMISE):,.0f}", f"{one.best:.2f}",
         f"{one.rows * one.days_for(one.best, PROMISE):,.0f}", f"{one.chance:.0%}"]
        for one in found
    ]  # fmt: skip
    by_chance = found[0].by_chance
    rows.append(["any", "nothing", "", "0", "", "0", "", f"{by_chance:.0%}"])
    return _table(head, rows)


def cost_table(costs: Sequence[Cost]) -> str:
    """Return what watching costs, a size of blocks a column."""
    events = [one.event_us + one.fold_us for one in costs]
    rows = [
        ["an event in the scorer, closing its block included", *(f"{one.event_us:.2f} us" for one in costs)],
        ["its part of the learner's work on its block", *(f"{one.fold_us:.2f} us" for one in costs)],
        [
            "**both**, goal: under 3 us",
            *(f"**{event:.2f} us** ({'met' if event < 3.0 else 'missed'})" for event in events),
        ],
        ["a labelled example in the learner", *(f"{one.example_us:.2f} us" for one in costs)],
        ["a block in the learner, at once", *(f"{one.block_ms:.1f} ms" for one in costs)],
        [
            "the longest, in which cells and kernels are fitted",
            *(f"{one.block_longest_ms:.0f} ms" for one in costs),
        ],
    ]
    head = [
        f"{FEATURES} features, `rows_max=500`, CPU time",
        *(f"{one.rows:,} events a block" for one in costs),
    ]
    return _table(head, rows)


def _words(kind: ShiftKind) -> str:
    return kind.replace("_", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
