"""The learner's half of watching: blocks and labels in, one verdict on shift out.

Lives here: when a block of all partitions is complete, how unusual it is, when a verdict opens, changes and
ends. Never here: the sample of a block (`sampler.py`), statistics, the decision which shift it is
(`triage.py`).

    blocks of all partitions ---> means ----.                                  .---> found, updated, ended
    labelled examples ---> tables by block --+--> how unusual ---> bets, budget +
                           the reference ----'                                  '---> triage: which of four

All is decided at ends of blocks, in the order of the log, with seeds of the pipeline's name: a replay gives
the same verdicts, however batches are cut.  The work of one block is bounded by the reference, not by its
rows, and takes some milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from operators.drift.baseline import Baseline
from operators.drift.budget import BETS, bets, budget_shares, enough, grown, p_values, unusual
from operators.drift.frame import CellFrame, fit_frame
from operators.drift.ledger import LabelLedger, LabelStatistics, label_statistics
from operators.drift.reference import distances, expected_means, left_out_means, row_statistics
from operators.drift.sampler import column_of, merged_sample
from operators.drift.told import Since, told
from operators.drift.triage import Shift
from operators.drift.two_sample import Array
from operators.drift.watch import BLOCKS_MIN, WEEK_MS, Watch
from operators.state import Changes, StateDelta, StateEntries, named, under
from topics.messages import Block, Example, Task

__all__ = ["Compared", "Watcher"]

FIT_BLOCKS: Final = 7
"""Blocks whose rows fit the frame; a week of days."""
BEGUN_MAX: Final = 3
"""Of these, how many each later block puts into the reference."""
FITTING: Final = -2
"""In place of a partition: the block of all partitions waits for a frame."""
LAG_BLOCKS: Final = 2
"""A partition that is so many blocks behind another is not waited for: it may be idle."""
ROWS_MIN: Final = 30
"""A block with fewer sampled rows is counted and not compared."""
SILENT_BLOCKS: Final = 2
"""A partition that has sent `BLOCKS_MIN` blocks in a row and misses so many is a source that stopped."""
WAITING_MAX: Final = 512
"""Blocks of partitions that wait for those of others; beyond some 170 partitions, the rest are late."""
HISTORY_MAX: Final = 60
"""Blocks over which the beginning of a shift is looked for."""
INVOLVED: Final = 0.1
"""Of the evidence, for a statistic whose calm ends the verdict."""
CALM_P: Final = 0.1
CALM_BLOCKS: Final = 3
STEADY_BLOCKS: Final = 3
"""Blocks in a row that must say another verdict before it is changed; the first labels change it at once."""


class _Core(Struct):
    partitions: dict[int, int] = {}
    """By partition, the newest block that it sent."""
    decided: int | None = None
    """Newest block that was looked at."""
    regular: dict[int, tuple[int, int]] = {}
    """By partition, how many blocks in a row it has sent up to its newest, and that one's number."""
    fitting: list[int] = []
    """Blocks that wait for a frame."""
    wealth: dict[str, list[float]] = {}
    history: list[tuple[int, dict[str, float]]] = []
    """(block, normal score by statistic) of the newest blocks."""
    open: Shift | None = None
    involved: list[str] = []
    calm: int = 0
    turned: int = 0
    """Blocks in a row in which the open verdict would have been another."""
    compared: int = 0
    verdicts: int = 0


class _Side(NamedTuple):
    """What is usual of the statistics of rows, or of labels, one a row."""

    names: Sequence[str]
    rising: Array
    """Usual distances."""
    apart: Array
    """How many blocks in a row count as one."""
    least: Array

    def scores(self, lies: Array) -> dict[str, float]:
        """Return the normal scores of distances."""
        found = map(unusual, p_values(lies, self.rising, self.least).tolist())
        return dict(zip(self.names, found, strict=True))

    def grown(
        self, wealth: Mapping[str, Sequence[float]], scores: Mapping[str, float]
    ) -> dict[str, list[float]]:
        """Return the sums of bets after one more block; none where there is no score."""
        names = [name for name in self.names if name in scores]
        if not names:
            return {}
        before = np.array([wealth.get(name) or [0.0] * len(BETS) for name in names])
        after = grown(before, bets(np.array([scores[name] for name in names]), self.apart))
        return dict(zip(names, after.tolist(), strict=True))


class _Usual(NamedTuple):
    """What is usual at a revision of the reference."""

    revision: int
    rows: _Side
    labels: _Side | None
    """None without a reference of labels."""


class _Reference(NamedTuple):
    """The reference's blocks side by side, one a row."""

    numbers: tuple[int, ...]
    vectors: Array
    places: Any
    """In the week."""
    left_out: Array
    """Distances of each block from the others."""


class Compared(NamedTuple):
    """The newest block beside what was expected of it, for people."""

    frame: CellFrame
    end_ms: int
    """Of the block."""
    now: Array | None
    """Its means; None where no block was kept since the last verdict ended."""
    expected: Array
    history: Sequence[tuple[int, Mapping[str, float]]]
    """(block, normal score by statistic) of the newest blocks, at most `HISTORY_MAX`."""


def _encode_means(means: Array) -> bytes:
    return means.astype(np.float32).tobytes()


def _decode_means(data: bytes) -> Array:
    return np.frombuffer(data, dtype=np.float32).astype(np.float64)


class Watcher:
    """What one learner knows of its pipeline's blocks.

    >>> day = 86_400_000
    >>> def block(number, centre):
    ...     values = [centre + (7 * n + number) % 20 / 10 for n in range(40)]
    ...     half, hashes = [0.5] * 40, list(range(40))
    ...     counts = {"champion": 40}
    ...     start = number * day
    ...     return Block(number, start, start + day, 40, 0, {}, counts, hashes, {"x": values}, half)
    >>> watcher = Watcher(Watch(reference_span="14d"), "flights", "binary")
    >>> for number in range(60):
    ...     for shift in watcher.fold_block(block(number, 0.3 if number >= 40 else 0.0)):
    ...         print(number, shift.change, shift.verdict, shift.features, shift.since_ms // day)
    40 found covariate_shift ('x',) 40
    53 ended covariate_shift ('x',) 40
    """

    def __init__(self, watch: Watch, name: str, task: Task) -> None:
        """`name` is the pipeline's: it seeds projections and permutations."""
        self._watch, self._name, self._task = watch, name, task
        self._enough = enough(watch.false_alarm_blocks)
        self._core = _Core()
        self._core_changed = True
        self._frame: CellFrame | None = None
        self._frame_changed = False
        self._waiting: dict[tuple[int, int], Block] = {}
        """Blocks of one partition (block, partition), and those of all that wait for a frame."""
        self._changes: Changes[tuple[int, int]] = Changes()
        self._means: Baseline[Array] = Baseline(
            watch.reference_blocks,
            slides=watch.reference != "training",
            encode=_encode_means,
            decode=_decode_means,
        )
        self._ledger = LabelLedger(watch, task)
        self._places = WEEK_MS // watch.block_ms if watch.reference == "hour_of_week" else 1
        self.counts: Counter[tuple[str, str]] = Counter()
        """Blocks by (metric, outcome), which the shell exports; no part of the state."""
        self._usual: _Usual | None = None
        self._beside: _Reference | None = None
        self._label_statistics: LabelStatistics | None = None
        self._weights: Mapping[str, float] | None = None
        """What is usual, the reference, names and weights of statistics: made of the state, no part of it."""

    # -- what comes in ----------------------------------------------------------------------------

    def observe(self, examples: Sequence[Example], losses: Sequence[float | None]) -> None:
        """Take labelled examples with the loss of what was served; None where there was no opinion."""
        if self._frame is not None:
            self._ledger.observe(self._frame, examples, losses)

    def fold_block(self, block: Block, partitions: Iterable[int] = ()) -> list[Shift]:
        """Take the next block of a partition; return what is to be said, mostly nothing.

        `partitions` are those that write: one that has sent nothing yet is waited for like a slow one.
        """
        core, partition = self._core, block.source_partition
        self._core_changed = True
        outcome = self._outcome(block)
        self.counts["shift_blocks", outcome] += 1
        if outcome not in {"folded", "late"}:
            return []
        for one in partitions:
            core.partitions.setdefault(one, -1)
        core.partitions[partition] = block.number
        in_a_row, before = core.regular.get(partition, (0, block.number - 1))
        core.regular[partition] = (in_a_row + 1 if before == block.number - 1 else 1, block.number)
        if outcome == "late":
            return []
        self._waiting[block.number, partition] = block
        self._changes.add((block.number, partition))
        newest = max(core.partitions.values())
        complete = min(max(one, newest - LAG_BLOCKS) for one in core.partitions.values())
        due = sorted({number for number, part in self._waiting if part != FITTING and number <= complete})
        said: list[Shift] = []
        for number in due:
            parts = [self._take((number, part)) for one, part in sorted(self._waiting) if one == number]
            core.decided = number
            said += self._decide(merged_sample(parts, self._watch.rows_max))
        return said

    def _outcome(self, block: Block) -> str:
        """Return what becomes of a block: `folded`, or why it is left out."""
        core = self._core
        if block.end_ms - block.start_ms != self._watch.block_ms:
            return "foreign"  # of another definition
        if block.number <= core.partitions.get(block.source_partition, block.number - 1):
            return "repeated"  # of a store that went back
        if (core.decided is not None and block.number <= core.decided) or len(self._waiting) >= WAITING_MAX:
            return "late"
        return "folded"

    def _take(self, place: tuple[int, int]) -> Block:
        self._changes.remove(place)
        return self._waiting.pop(place)

    # -- one block --------------------------------------------------------------------------------

    def _decide(self, block: Block) -> list[Shift]:
        core = self._core
        if len(block.hashes) < ROWS_MIN:
            self.counts["shift_blocks", "small"] += 1
            return []
        if self._frame is None or core.fitting:
            self._wait(block)
            return []
        means = self._means_of(block)
        self._ledger.expect(block.rows)
        measured = self._ledger.close(block.number)
        if not self._means.ready:
            self._begin(block, means)
            return []
        core.compared += 1
        usual = self._what_is_usual(self._frame)
        lies = distances(self._frame, means[None], self._expected(block.number))[0]
        scores = usual.rows.scores(lies)
        if measured is not None and usual.labels is not None:
            scores |= usual.labels.scores(self._labels_of(self._frame).of(measured))
        self._means.follow(block.number, means, lies.tolist())
        core.history = [*core.history[1 - HISTORY_MAX :], (block.number, scores)]
        said = self._bet(block, scores, usual) if core.open is None else self._go_on(block, scores)
        if core.open is None:
            self._means.settle()
            self._ledger.settle()
        return said

    def _wait(self, block: Block) -> None:
        """Keep a block until there are enough to fit the frame.  The blocks after that begin the reference
        with those that wait, a few each, so that no record of the log takes long."""
        core = self._core
        core.fitting.append(block.number)
        self._waiting[block.number, FITTING] = block
        self._changes.add((block.number, FITTING))
        if self._frame is None:
            if len(core.fitting) >= FIT_BLOCKS:
                self._fit([self._waiting[number, FITTING] for number in core.fitting])
            return
        self._ledger.expect(block.rows)
        self._ledger.close(block.number)
        for number in core.fitting[:BEGUN_MAX]:
            waited = self._take((number, FITTING))
            self._begin(waited, self._means_of(waited))
        core.fitting = core.fitting[BEGUN_MAX:]

    def _fit(self, blocks: Sequence[Block]) -> None:
        names = sorted({name for one in blocks for name in one.features})
        columns = {name: list(chain(*(column_of(one, name) for one in blocks))) for name in names}
        scores = list(chain(*(one.scores for one in blocks)))
        self._frame = fit_frame(columns, scores, self._task, crc32(self._name.encode()))
        self._frame_changed = True

    def _begin(self, block: Block, means: Array) -> None:
        self._means.begin(block.number, means)
        if self._means.ready:
            self._ledger.arm()

    def _means_of(self, block: Block) -> Array:
        """Return the means of a block, as precise as they are stored."""
        assert self._frame is not None
        return _decode_means(
            _encode_means(self._frame.means(block.features, block.scores, self._lost_share(block)))
        )

    def _lost_share(self, block: Block) -> float:
        """Return the share of events refused, and of partitions that stopped sending."""
        refused = sum(block.refused.values())
        silent = len(self._silent(block.number)) / max(len(self._core.regular), 1)
        return refused / (refused + block.rows) + silent

    def _silent(self, number: int) -> dict[int, int]:
        """Return the partitions of which nothing came for `SILENT_BLOCKS` up to a block, though none was
        missing before; and for how many."""
        return {
            partition: number - newest
            for partition, (in_a_row, newest) in sorted(self._core.regular.items())
            if in_a_row >= BLOCKS_MIN and number - newest >= SILENT_BLOCKS
        }

    def _reference(self) -> _Reference:
        """Return the reference side by side; found anew when it has other blocks."""
        numbers = tuple(self._means.reference)
        if self._beside is None or self._beside.numbers != numbers:
            assert self._frame is not None
            vectors = np.array([self._means.values[number] for number in numbers])
            places = np.array(numbers, dtype=np.int64) % self._places
            apart = distances(self._frame, vectors, left_out_means(vectors, places))
            self._beside = _Reference(numbers, vectors, places, apart)
        return self._beside

    def _expected(self, number: int) -> Array:
        known = self._reference()
        return expected_means(known.vectors, known.places, number % self._places)

    def _labels_of(self, frame: CellFrame) -> LabelStatistics:
        if self._label_statistics is None:
            self._label_statistics = label_statistics(frame)
        return self._label_statistics

    def _what_is_usual(self, frame: CellFrame) -> _Usual:
        revision = self._means.revision + self._ledger.baseline.revision
        if self._usual is None or self._usual.revision != revision:
            names, least = row_statistics(frame)
            rows = _Side(names, *self._means.usual(self._reference().left_out), least)
            labels = None
            if self._ledger.baseline.ready:
                found, (rising, apart) = self._labels_of(frame), self._ledger.usual()
                labels = _Side(found.names, found.usual(rising), apart[found.columns], found.least)
            self._usual = _Usual(revision, rows, labels)
        return self._usual

    # -- verdicts ---------------------------------------------------------------------------------

    def _bet(self, block: Block, scores: Mapping[str, float], usual: _Usual) -> list[Shift]:
        """Bet on how unusual the block is; open a verdict where the budget allows one."""
        core = self._core
        for side in (usual.rows, usual.labels):
            core.wealth |= side.grown(core.wealth, scores) if side is not None else {}
        evidence = self.evidence()
        total = sum(evidence.values())
        if total < self._enough:
            return []
        core.involved = [name for name, one in evidence.items() if one >= INVOLVED * total]
        core.calm, core.turned, core.wealth = 0, 0, {}
        core.verdicts += 1
        leader = max(evidence, key=evidence.__getitem__)
        since = self._since(leader)
        self._means.settle(before=since)
        self._ledger.settle(before=since)
        shift_id = f"{self._name}:{block.number}"
        opened = Shift(shift_id, "found", "covariate_shift", since * self._watch.block_ms, block.end_ms)
        seen = self._seen(since)
        won = {f"won:{name}": evidence[name] for name in core.involved}
        core.open = told(opened, seen, {"evidence": total, "threshold": self._enough, **won})
        return [core.open]

    def evidence(self) -> dict[str, float]:
        """Return by statistic what it has won, weighed: a verdict opens when the sum reaches the budget."""
        if self._frame is None:
            return {}
        if self._weights is None:
            self._weights = budget_shares([feature.name for feature in self._frame.features])
        return {name: self._weights[name] * sum(won) / len(won) for name, won in self._core.wealth.items()}

    def _since(self, name: str) -> int:
        """Return the block from which on a statistic has been unusual, by the largest sum of log bets.

        Labels tell of events of some blocks before.
        """
        best, total, since = -np.inf, 0.0, self._core.history[-1][0]
        for number, scores in reversed(self._core.history):
            if name in scores:
                total += scores[name] - 1.0
                if total >= best:
                    best, since = total, number
        assert self._frame is not None
        of_labels = name in self._labels_of(self._frame).names
        return since - self._ledger.lag if of_labels else since

    def _go_on(self, block: Block, scores: Mapping[str, float]) -> list[Shift]:
        """Follow the open verdict: it may become another, and ends when all is calm or became usual."""
        core = self._core
        assert core.open is not None
        shift = core.open
        usual_z = unusual(CALM_P)
        if all(scores.get(name, 0.0) < usual_z for name in core.involved):
            core.calm += 1
        else:
            core.calm = 0
        since = shift.since_ms // self._watch.block_ms
        now = told(replace(shift, decided_ms=block.end_ms), self._seen(since), {})
        if core.calm >= CALM_BLOCKS:
            until = block.start_ms - (core.calm - 1) * self._watch.block_ms
            self._means.discard()
            self._ledger.discard()
            return [self._end(replace(shift, decided_ms=block.end_ms, until_ms=until), {})]
        if len(self._means.behind) >= self._watch.reference_blocks:
            self._means.adopt()
            self._ledger.adopt()
            kept = replace(now, verdict=shift.verdict, act=shift.act, until_ms=block.end_ms)
            return [self._end(kept, {"adopted": 1.0})]
        core.turned = 0 if now.verdict == shift.verdict else core.turned + 1
        first_labels = shift.true_loss is None and now.true_loss is not None
        if core.turned < STEADY_BLOCKS and not first_labels:
            return []
        core.turned = 0
        core.open = replace(now, change="updated")
        return [core.open]

    def give_up(self) -> list[Shift]:
        """End the verdict that lasts, if any: from here on somebody else watches, who knows nothing of it."""
        if (shift := self._core.open) is None or self._core.decided is None:
            return []
        until = (self._core.decided + 1) * self._watch.block_ms
        return [self._end(replace(shift, decided_ms=until, until_ms=until), {"given_up": 1.0})]

    def _end(self, shift: Shift, evidence: dict[str, float]) -> Shift:
        core = self._core
        core.open, core.involved, core.calm, core.wealth, core.history = None, [], 0, {}, []
        return replace(shift, change="ended", evidence={**shift.evidence, **evidence})

    def _seen(self, since: int) -> Since:
        """Return what there is to see since a block."""
        assert self._frame is not None
        numbers = [number for number in self._means.behind if number >= since] or self._means.behind[-1:]
        history = [scores for number, scores in self._core.history if number >= since]
        labelled = self._ledger.baseline.ready
        return Since(
            self._frame,
            np.array([self._means.values[number] for number in numbers]),
            np.mean([self._expected(number) for number in numbers], axis=0),
            self._reference().vectors,
            history,
            self._ledger.since(since) if labelled else [],
            self._ledger.reference() if labelled else [],
            self._ledger.total() if labelled else None,
            self._task,
            crc32(f"{self._name}:{numbers[-1]}".encode()),
            self._silent(numbers[-1]),
        )

    # -- what others ask --------------------------------------------------------------------------

    @property
    def open(self) -> Shift | None:
        """Return the verdict that lasts, if any."""
        return self._core.open

    def signals(self) -> dict[str, float]:
        """Return what alerts may ask for, by name."""
        share = sum(self.evidence().values()) / self._enough
        silent = {} if self._core.decided is None else self._silent(self._core.decided)
        return {
            "shift_open": float(self._core.open is not None),
            "shift_evidence": share,
            "shift_silent": float(len(silent)),
        }

    def report(self) -> dict[str, object]:
        """Return the figures of the last block, for people."""
        core = self._core
        return {
            "compared": core.compared,
            "reference": len(self._means.reference),
            "reference_blocks": self._watch.reference_blocks,
            "evidence": self.evidence(),
            "threshold": self._enough,
            "unusual": core.history[-1][1] if core.history else {},
            "verdicts": core.verdicts,
            "ignored_features": self._frame.ignored if self._frame is not None else 0,
        }

    def compared(self) -> Compared | None:
        """Return the newest block and what it is compared with; None before the reference is complete."""
        core, behind = self._core, self._means.behind
        if self._frame is None or core.decided is None or not self._means.ready:
            return None
        number = behind[-1] if behind else core.decided
        return Compared(
            self._frame,
            (number + 1) * self._watch.block_ms,
            self._means.values[number] if behind else None,
            self._expected(number),
            core.history,
        )

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        own = {"core": msgspec.msgpack.encode(self._core)}
        if self._frame is not None:
            own["frame"] = msgspec.msgpack.encode(self._frame)
        waiting = {_name(place): msgspec.msgpack.encode(block) for place, block in self._waiting.items()}
        parts = {"means": self._means.snapshot(), "labels": self._ledger.snapshot()}
        return named({"own": own, "waiting": waiting, **parts})

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        own: StateDelta = {}
        if self._core_changed:
            own["core"] = msgspec.msgpack.encode(self._core)
        if self._frame_changed:
            own["frame"] = None if self._frame is None else msgspec.msgpack.encode(self._frame)
        self._core_changed = self._frame_changed = False
        waiting = self._changes.delta(self._waiting, _name, msgspec.msgpack.encode)
        parts = {"means": self._means.delta(), "labels": self._ledger.delta()}
        return named({"own": own, "waiting": waiting, **parts})

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        own = under("own", entries)
        self._core = msgspec.msgpack.decode(own["core"], type=_Core)
        frame = own.get("frame")
        self._frame = None if frame is None else msgspec.msgpack.decode(frame, type=CellFrame)
        self._waiting = {
            _place(name): msgspec.msgpack.decode(data, type=Block)
            for name, data in under("waiting", entries).items()
        }
        self._means.restore(under("means", entries))
        self._ledger.restore(under("labels", entries))
        self._changes.clear()
        self._core_changed = self._frame_changed = False
        self._usual = self._beside = self._label_statistics = self._weights = None


def _name(place: tuple[int, int]) -> str:
    return f"{place[0]}/{place[1]}"


def _place(name: str) -> tuple[int, int]:
    number, _, partition = name.partition("/")
    return int(number), int(partition)
