"""The loop of the book: a released version serves and stays as it is, while its twin learns.

Lives here: when the twin becomes the next version, when it is held, when it is set back.  Never here: who
serves (`arena.py`), whether one candidate is better than another (`evidence.py`).

Of a candidate with `release=Release(every=1024)` two race, which is what it costs: two scores an event.

    tree         the released version: answers, is judged, learns nothing
    tree-twin    learns every example, is scored beside it, never serves

    every 1,024 examples    twin not worse    tree := copy of tree-twin, a new version    version.released
                            twin worse        nothing; the twin goes on learning          version.held
                            held 3 times      tree-twin := copy of tree                   version.restored

The two are compared on the scores served since the last release point, in `BLOCKS` blocks of neighbouring
examples: the twin is worse by evidence where the mean difference of the blocks' losses lies
`WORSE_DEVIATIONS` standard errors above zero, which independent blocks of equals do at one point of a hundred
(Student's t, 31 degrees of freedom).  A twin that is no worse, however little is known, is released: it has
learned more.

The loop is that of C. Huyen, "Designing Machine Learning Systems" (2022), chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from typing import Any

import msgspec

from operators.models.scoring import Racer
from operators.race.arena import Arena, Evidenced, Moment
from operators.race.candidates import Candidate, Release, twin_name
from operators.race.losses import Losses
from operators.state import StateEntries, WholeState
from topics.messages import Decision, Example

__all__ = ["Releases", "with_twins"]

BLOCKS = 32
"""Blocks between two release points."""
BLOCKS_MIN = 8
"""Fewer blocks (labels that came late, scores that one of the two lacks) say nothing."""
WORSE_DEVIATIONS = 2.45


def with_twins(
    racers: Sequence[Racer], candidates: Mapping[str, Candidate], copied: Callable[[Any], Any]
) -> list[Racer]:
    """Return racers, and after them a twin of each that is released; these learn no more.

    `copied` returns a copy of a model that shares nothing with it.
    """
    twins: list[Racer] = []
    for racer in racers:
        if racer.name in candidates and candidates[racer.name].release is not None:
            racer.learns = False
            twins.append(
                Racer(
                    twin_name(racer.name),
                    copied(racer.model),
                    version=len(racers) + len(twins) + 1,
                    updates=racer.updates,
                    definition=racer.definition,
                    twin_of=racer.name,
                )
            )
    return [*racers, *twins]


class _Watch(msgspec.Struct):
    """What is known of one released candidate and its twin since the last release point."""

    total: float = 0.0
    """Of the open block: sum of loss(twin) - loss(released)."""
    count: int = 0
    blocks: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Welford's mean and sum of squared deviations of the closed blocks."""
    examples: int = 0
    held: int = 0
    """Release points in a row at which the twin was held."""

    def add(self, difference: float, size: int) -> None:
        """Add one example's difference; a block has `size` of them."""
        self.total += difference
        self.count += 1
        self.examples += 1
        if self.count >= size:
            value = self.total / self.count
            self.blocks += 1
            away = value - self.mean
            self.mean += away / self.blocks
            self.squares += away * (value - self.mean)
            self.total, self.count = 0.0, 0

    @property
    def deviations(self) -> float:
        """Return how many standard errors the twin's loss lies above the other; 0.0 where unknown."""
        if self.blocks < BLOCKS_MIN or self.mean == 0.0:
            return 0.0
        error = sqrt(self.squares / (self.blocks - 1) / self.blocks)
        return self.mean / error if error > 0.0 else self.mean * float("inf")

    @property
    def figures(self) -> Evidenced:
        """Return what a decision says of the comparison."""
        return {
            "worse_by": self.mean,
            "deviations": max(min(self.deviations, 1e6), -1e6),
            "examples": self.examples,
            "blocks": self.blocks,
        }


class Releases(WholeState):
    """Compare each released candidate with its twin, and act at release points.

    >>> from operators.models.scoring import Roster
    >>> from operators.race.evidence import Promotion
    >>> field = {"a": Candidate("model", release=Release(every=64))}
    >>> racers = with_twins([Racer("a", "model", version=1)], field, str.upper)
    >>> arena = Arena("flights", 0, Roster("binary", racers, "a"), Promotion())
    >>> releases = Releases(arena, field, str.upper)
    >>> arena.roster.racers["a-twin"].updates = 64
    >>> [(d.type, d.model_version, d.evidence["released"]) for d in releases.stop(Moment(70, 0, 64))]
    [('version.released', 3, '2@64')]
    >>> arena.roster.racers["a"].model
    'MODEL'
    """

    def __init__(
        self, arena: Arena, candidates: Mapping[str, Candidate], copied: Callable[[Any], Any]
    ) -> None:
        self._arena = arena
        self._copied = copied
        self._watches: dict[str, _Watch] = {}
        self.follow(candidates)

    def follow(self, candidates: Mapping[str, Candidate]) -> None:
        """Take the releases of another field; what is known of those who stay is kept."""
        self._releases: dict[str, Release] = {
            name: candidate.release for name, candidate in candidates.items() if candidate.release is not None
        }

    @property
    def stops(self) -> Sequence[int]:
        """Return the numbers of examples between release points."""
        return sorted({release.every for release in self._releases.values()})

    def _pairs(self) -> Iterable[tuple[str, str, Release]]:
        """Yield each released candidate that races, its twin, and how it is released."""
        for name, release in self._releases.items():
            twin = twin_name(name)
            if self._arena.roster.healthy(name) and self._arena.states.get(twin) == "twin":
                yield name, twin, release

    def observe(self, examples: Sequence[Example], tested: Sequence[Losses]) -> None:
        """Compare the losses of examples."""
        del examples
        for name, twin, release in self._pairs():
            size = max(release.every // BLOCKS, 1)
            watch = self._watches.setdefault(name, _Watch())
            for _, losses in tested:
                of_released, of_twin = losses.get(name), losses.get(twin)
                if of_released is not None and of_twin is not None:
                    watch.add(of_twin - of_released, size)
            self._dirty = True

    def stop(self, at: Moment) -> list[Decision]:
        """Release, hold or set back each twin whose time it is."""
        decisions: list[Decision] = []
        for name, twin, release in self._pairs():
            if at.examples % release.every == 0:
                watch = self._watches.get(name, _Watch())
                self._watches[name] = _Watch()
                self._dirty = True
                if watch.deviations >= WORSE_DEVIATIONS:
                    decisions += self._hold(at, name, twin, watch, release.held_max)
                else:
                    decisions += self._release(at, name, twin, watch)
        return decisions

    def _release(self, at: Moment, name: str, twin: str, watch: _Watch) -> list[Decision]:
        """Make a copy of the twin the next version; a twin that has learned nothing stays."""
        racers = self._arena.roster.racers
        learner = racers[twin]
        if learner.updates == racers[name].updates:
            return []
        before = self._arena.renew(name, self._copied(learner.model), learner.updates)
        figures = watch.figures | {
            "released": learner.label,
            "replaced": before.label,
            "updates": learner.updates,
        }
        return [self._arena.write(at, "version.released", name, "release", evidence=figures, replaced=before)]

    def _hold(self, at: Moment, name: str, twin: str, watch: _Watch, held_max: int) -> list[Decision]:
        """Hold the twin; one that has been held `held_max` times begins again as a copy of what serves."""
        arena, held = self._arena, watch.held + 1
        figures: Evidenced = watch.figures | {"twin": arena.roster.racers[twin].label, "held": held}
        decisions = [arena.write(at, "version.held", name, "the twin is worse", evidence=figures)]
        if held >= held_max:
            released = arena.roster.racers[name]
            before = arena.renew(twin, self._copied(released.model), released.updates)
            evidence: Evidenced = {
                "restored": released.label,
                "replaced": before.label,
                "updates": released.updates,
            }
            reason = f"held {held} times"
            decisions.append(
                arena.write(at, "version.restored", twin, reason, evidence=evidence, replaced=before)
            )
            held = 0
        self._watches[name].held = held
        return decisions

    def forget(self, name: str) -> None:
        """Drop what is known of a candidate that has left the race."""
        self._dirty |= self._watches.pop(name, None) is not None

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"releases": msgspec.msgpack.encode(self._watches)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._watches = msgspec.msgpack.decode(entries["releases"], type=dict[str, _Watch])
        self._dirty = False
