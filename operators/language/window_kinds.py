"""Kinds of windows: what may stand where a duration stands, and what each can hold.

Lives here: the words `tumbling`, `session`, `last_n`, `decay` and `tiled`, and which aggregates
each kind of window has.  Never here: how a window is kept (`operators/windows`), times of
events.

    "1h"                                  [---------------]   (t - 1h, t], exact
    tumbling("1h")        |               |     [-------]     from the full hour to t, exact
    session("30m")          x x x     [x---x--x---x-----]     until nothing came for 30m, exact
    last_n(3)               x x x      x   x [x---x-----x]    the last 3, however long ago
    decay("1h")         ....::::::;;;;;;;;;;iiiiiiii||||||    all, weight 1/2 after each hour
    tiled("1h", "10m")       |  [--|--|--|--|--|--|-----]     from a multiple of 10m to t: 1h to 1h10m
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from topics.durations import Duration, duration_ms, duration_text
from topics.errors import DefinitionError

__all__ = [
    "AggregateFunction",
    "Decay",
    "LastN",
    "Session",
    "Span",
    "Tiled",
    "Tumbling",
    "decay",
    "functions_of",
    "last_n",
    "session",
    "tiled",
    "tumbling",
]

AggregateFunction = Literal[
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "var",
    "std",
    "first",
    "last",
    "since_last",
    "rate",
    "distinct",
    "mode",
    "entropy",
    "median",
    "quantile",
    "arg_max",
    "arg_min",
]

TILES_MAX: Final = 10_000
"""Tiles in one window: each is kept for every key that has events in it."""
LAST_N_MAX: Final = 10_000
"""Entries that `last_n` may ask for: all are read at each event."""
HALF_LIVES: Final = 64
"""A key idle for so many half-lives is forgotten: its weights are below a double's precision."""

_SUMMED: Final = frozenset[AggregateFunction](
    (
        "count",
        "sum",
        "mean",
        "min",
        "max",
        "var",
        "std",
        "first",
        "last",
        "distinct",
        "median",
        "quantile",
        "arg_max",
        "arg_min",
    )
)
_ALL: Final = _SUMMED | frozenset[AggregateFunction](("since_last", "mode", "entropy"))
_RATE: Final = frozenset[AggregateFunction](("rate",))
_SINCE: Final = frozenset[AggregateFunction](("since_last",))


@dataclass(frozen=True, slots=True)
class Tumbling:
    """From the last multiple of the width (since 1970, UTC) to the event."""

    width_ms: int

    @property
    def window_ms(self) -> int:
        """Return how long an entry may be in the window, in ms."""
        return self.width_ms

    def __repr__(self) -> str:
        return f'tumbling("{duration_text(self.width_ms)}")'


@dataclass(frozen=True, slots=True)
class Session:
    """From the first event after a pause of more than the gap."""

    gap_ms: int

    @property
    def window_ms(self) -> int:
        """Return how long after its last event a session may go on, in ms."""
        return self.gap_ms

    def __repr__(self) -> str:
        return f'session("{duration_text(self.gap_ms)}")'


@dataclass(frozen=True, slots=True)
class LastN:
    """The last so many events, none older than `within_ms`."""

    count: int
    within_ms: int

    @property
    def window_ms(self) -> int:
        """Return how long an entry may be in the window, in ms."""
        return self.within_ms

    def __repr__(self) -> str:
        return f'last_n({self.count}, within="{duration_text(self.within_ms)}")'


@dataclass(frozen=True, slots=True)
class Decay:
    """All events, each with the weight 2 ** -(age / half-life)."""

    half_life_ms: int

    @property
    def window_ms(self) -> int:
        """Return the age, in ms, at which an entry has no weight left."""
        return self.half_life_ms * HALF_LIVES

    def __repr__(self) -> str:
        return f'decay("{duration_text(self.half_life_ms)}")'


@dataclass(frozen=True, slots=True)
class Tiled:
    """From the last multiple of the step at or before `t - width` to the event."""

    width_ms: int
    step_ms: int

    @property
    def window_ms(self) -> int:
        """Return how long an entry may be in the window, in ms."""
        return self.width_ms + self.step_ms

    def __repr__(self) -> str:
        return f'tiled("{duration_text(self.width_ms)}", step="{duration_text(self.step_ms)}")'


Span = Tumbling | Session | LastN | Decay | Tiled


def functions_of(span: Span | None) -> frozenset[AggregateFunction]:
    """Return the aggregate functions that a window of this kind has; None is a sliding window."""
    match span:
        case None:
            return _ALL | _RATE
        case Tumbling():
            return _ALL
        case LastN():
            return _ALL - _SINCE
        case Tiled():
            return _SUMMED | _RATE
        case Session():
            return _SUMMED
        case Decay():
            return frozenset[AggregateFunction](("count", "sum", "mean"))


def tumbling(width: Duration) -> Tumbling:
    """Return windows that begin at the multiples of `width` since 1970, UTC.

    An event at exactly such a time is the first of the new window.  Exact.

    >>> tumbling("60m")
    tumbling("1h")
    """
    return Tumbling(_positive("tumbling", width))


def session(gap: Duration) -> Session:
    """Return the window of events that follow each other by no more than `gap`.

    >>> session("1800s")
    session("30m")
    """
    return Session(_positive("session", gap))


def last_n(count: int, within: Duration = "30d") -> LastN:
    """Return the window of the last `count` events (or labels), none `within` or more before the event.

    `within` bounds how long an idle key is remembered.

    >>> last_n(10)
    last_n(10, within="30d")

    Raises DefinitionError for a count outside 1 to LAST_N_MAX.
    """
    if type(count) is not int or not 1 <= count <= LAST_N_MAX:
        raise DefinitionError(f"last_n({count!r})", hint=f"count 1 to {LAST_N_MAX} events")
    return LastN(count, _positive("last_n", within))


def decay(half_life: Duration) -> Decay:
    """Return the window of all events, each weighing half as much after every `half_life`.

    >>> decay("1h")
    decay("1h")
    """
    return Decay(_positive("decay", half_life))


def tiled(width: Duration, step: Duration) -> Tiled:
    """Return a window whose head moves with each event and whose tail moves by `step`.

    It covers at least `width` and less than `width + step`; memory is `width / step + 1` tiles
    per key whatever comes.

    >>> tiled("90d", step="1d")
    tiled("90d", step="1d")

    Raises DefinitionError for a step that does not divide the width, or more than TILES_MAX tiles.
    """
    width_ms, step_ms = _positive("tiled", width), _positive("tiled", step)
    if width_ms % step_ms:
        raise DefinitionError(
            f"tiled({width!r}, step={step!r}): the step does not divide the width",
            hint=f"give a step that does, such as {duration_text(_divisor(width_ms, step_ms))!r}",
        )
    if width_ms // step_ms > TILES_MAX:
        raise DefinitionError(
            f"tiled({width!r}, step={step!r}) has {width_ms // step_ms:,} tiles",
            hint=f"give a step that makes at most {TILES_MAX:,} tiles",
        )
    return Tiled(width_ms, step_ms)


def _divisor(width_ms: int, step_ms: int) -> int:
    """Return the width over a whole number, as near below `step_ms` as it goes."""
    parts = -(-width_ms // step_ms)
    while width_ms % parts:
        parts += 1
    return width_ms // parts


def _positive(word: str, span: Duration) -> int:
    try:
        span_ms = duration_ms(span)
    except DefinitionError as error:
        raise DefinitionError(f"{word}: {error.message}", hint=error.hint) from None
    if span_ms == 0:
        raise DefinitionError(f"{word}: zero is no span", hint='give it a length, such as "1h"')
    return span_ms
