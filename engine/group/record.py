"""What a worker says of itself: its numbers at one moment as a record of bounded size.

Lives here: rates and quantiles since the record before, what is left out where there is too much.  Never
here: a clock (time is an argument), the topic (`log.py`), where the numbers are from (`engine/worker`).

Nothing here is about an event: topics, names of candidates and policies, counts and times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from msgspec.structs import replace

from topics.codec import encode
from topics.messages import WorkerStatus

__all__ = [
    "LAGS_MAX",
    "MODELS_MAX",
    "STATUS_BYTES_MAX",
    "Buckets",
    "SeenWorker",
    "StatusMaker",
    "Tallies",
    "encoded",
    "quantile_s",
    "tallies",
]

LAGS_MAX: Final = 64
"""Partitions of one worker whose lag is told, the longest."""
MODELS_MAX: Final = 24
"""Candidates and policies told of one worker, as many as the page has curves."""
TEXT_MAX: Final = 500
STATUS_BYTES_MAX: Final = 16_384
"""Of one record; one that would be larger goes without lags, candidates and policies."""


class Buckets(NamedTuple):
    """A histogram: upper bounds in seconds, and how many lie in each bucket and beyond the last."""

    bounds: Sequence[float]
    counts: Sequence[int]


class Tallies(NamedTuple):
    """What a worker has done since its start."""

    answered: int
    labelled: int
    refused: int


def tallies(counts: Mapping[tuple[str, str], int]) -> Tallies:
    """Return the sums of a worker's counters; an answer that is sent again is none.

    >>> tallies({("predictions", "champion"): 3, ("predictions", "again"): 2, ("dead_letters", "decode"): 1})
    Tallies(answered=3, labelled=0, refused=1)
    """
    sums: Counter[str] = Counter()
    for (metric, label), count in counts.items():
        if metric in {"predictions", "labels", "dead_letters"} and label != "again":
            sums[metric] += count
    return Tallies(sums["predictions"], sums["labels"], sums["dead_letters"])


class SeenWorker(NamedTuple):
    """What a worker knows of itself at one moment."""

    clock_s: float
    """Of a monotonic clock."""
    tallies: Tallies
    scoring: Buckets
    end_to_end: Buckets
    ready: bool
    standing: str
    leading: bool
    paused: bool
    partitions: int
    lag: Mapping[tuple[str, int], int]
    """Unread records of events and labels, by topic and partition."""
    examples: int
    unlearned: int
    champion: str
    models: Mapping[str, str]
    """`VERSION@UPDATES` by candidate, the champion first."""
    checkpoint_age_ms: int | None
    unsaved: int
    store_away_ms: int
    firing: Mapping[str, int]


class StatusMaker:
    """Makes the records of one worker, each with the rates since the one before."""

    def __init__(
        self, worker: str, *, started_ms: int, every_ms: int, version: str, features_version: str
    ) -> None:
        self._begun = WorkerStatus(
            worker=worker,
            time=started_ms,
            started=started_ms,
            every_ms=every_ms,
            version=version,
            features_version=features_version,
        )
        self._before: SeenWorker | None = None

    @property
    def worker(self) -> str:
        """Return the name under which it speaks."""
        return self._begun.worker

    def make(self, moment: SeenWorker, now_ms: int) -> WorkerStatus:
        """Return the record of a moment; the first has no rates."""
        before, self._before = self._before or moment, moment
        scoring, end_to_end = (
            _since(moment.scoring, before.scoring),
            _since(moment.end_to_end, before.end_to_end),
        )
        return replace(
            self._begun,
            time=now_ms,
            ready=moment.ready,
            standing=moment.standing[:TEXT_MAX],
            leading=moment.leading,
            paused=moment.paused,
            partitions=moment.partitions,
            lag_records=sum(moment.lag.values()),
            lag=_longest(moment.lag),
            **moment.tallies._asdict(),
            **_rates(moment, before),
            scoring_p99_ms=_ms(quantile_s(scoring, 0.99)),
            end_to_end_p50_ms=_ms(quantile_s(end_to_end, 0.5)),
            end_to_end_p99_ms=_ms(quantile_s(end_to_end, 0.99)),
            examples=moment.examples,
            unlearned=moment.unlearned,
            champion=moment.champion,
            models=dict(islice(moment.models.items(), MODELS_MAX)),
            checkpoint_age_ms=moment.checkpoint_age_ms,
            unsaved=moment.unsaved,
            store_away_ms=moment.store_away_ms,
            alerts=dict(islice(((name, n) for name, n in moment.firing.items() if n), MODELS_MAX)),
        )


def _rates(moment: SeenWorker, before: SeenWorker) -> dict[str, float]:
    span_s = moment.clock_s - before.clock_s
    return {
        f"{name}_per_s": round((count - counted) / span_s, 3) if span_s > 0 else 0.0
        for name, count, counted in zip(Tallies._fields, moment.tallies, before.tallies, strict=True)
    }


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else round(value_s * 1_000, 3)


def _since(now: Buckets, before: Buckets) -> Buckets:
    return Buckets(now.bounds, [a - b for a, b in zip(now.counts, before.counts, strict=True)])


def quantile_s(buckets: Buckets, part: float) -> float | None:
    """Return a quantile in seconds, on a line within its bucket; None without any, and beyond the last bound.

    >>> quantile_s(Buckets([1.0, 2.0], [2, 2, 0]), 0.75)
    1.5
    >>> quantile_s(Buckets([1.0, 2.0], [0, 0, 3]), 0.5), quantile_s(Buckets([1.0], [0, 0]), 0.5)
    (None, None)
    """
    wanted, seen, lower = part * sum(buckets.counts), 0, 0.0
    for upper, count in zip(buckets.bounds, buckets.counts, strict=False):
        if count and seen + count >= wanted:
            return lower + (upper - lower) * (wanted - seen) / count
        seen, lower = seen + count, upper
    return None


def _longest(lag: Mapping[tuple[str, int], int]) -> dict[str, dict[str, int]]:
    """Return the longest lags by topic and partition."""
    told: dict[str, dict[str, int]] = {}
    for (topic, partition), records in sorted(lag.items(), key=lambda one: (-one[1], one[0]))[:LAGS_MAX]:
        told.setdefault(topic, {})[str(partition)] = records
    return told


def encoded(status: WorkerStatus) -> bytes:
    """Return the bytes of a record, `STATUS_BYTES_MAX` at the most: names can be long."""
    whole = encode(status)
    return whole if len(whole) <= STATUS_BYTES_MAX else encode(replace(status, lag={}, models={}, alerts={}))
