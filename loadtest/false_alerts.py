"""How often the alert of a worse loss begins where nothing is worse: `python -m loadtest.false_alerts`.

Lives here: losses that stand still, and how often `loss_ratio` passes a bound over them.  Never here: what
the signal is (`operators/monitor/learner_alerts.py`), which it asks.

With `--data DIR` also losses of a linear model over real streams that stand still, as `loadtest.shift` has
them: days drawn at random from the data's, each with all its rows.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.signal import lfilter  # type: ignore[import-untyped]

from loadtest.shift.streams import SOURCES, Days, load_days, still
from operators.models.scoring import Racer, Roster
from operators.monitor.learner_alerts import (
    CHANCE,
    JUDGED_MIN,
    LOOK_EXAMPLES,
    RECENT,
    REFERENCE,
    USUAL,
    LearnerAlerts,
)
from topics.messages import Example

Losses = Any
"""A column of losses."""
TOLD_FROM: Final = 1.2
"""As in the usual alert."""
PLAIN: Final = 1.5
"""The bound of the usual alert when it was about the plain ratio of the two means."""
EXAMPLES: Final = 1_000_000
SEEN_MAX: Final = 20_480
"""Examples in which a worse loss must be found."""
CHECKED: Final = 30_016
CHANGES: Final = 5
CHANGED_AT: Final = 200_000 // LOOK_EXAMPLES * LOOK_EXAMPLES
CHANGED_SEED: Final = 100
EXAMPLE: Final = Example("e", "k", 0, 0, True, {}, {}, 0.5, "champion", "a", 0, 0, 0, 1, 0)


def log_loss(share: float, spread: float) -> Callable[[np.random.Generator, int], Losses]:
    """Return losses of a model whose scores are true, of a class with about this share."""

    def drawn(rng: np.random.Generator, count: int) -> Losses:
        chance = 1.0 / (1.0 + (1.0 - share) / share * np.exp(-spread * rng.standard_normal(count)))
        return -np.log(np.where(rng.random(count) < chance, chance, 1.0 - chance))

    return drawn


STANDING: Final[dict[str, Callable[[np.random.Generator, int], Losses]]] = {
    "log loss, half are true": log_loss(0.5, 1.0),
    "log loss, 10 % are true": log_loss(0.1, 1.0),
    "log loss, 1 % are true": log_loss(0.01, 1.0),
    "log loss, 0.2 % are true": log_loss(0.002, 1.0),
    "errors, 20 %": lambda rng, count: (rng.random(count) < 0.2) * 1.0,
    "errors, 1 %": lambda rng, count: (rng.random(count) < 0.01) * 1.0,
    "squared errors, normal": lambda rng, count: rng.standard_normal(count) ** 2,
    "squared errors, Student's t of 5": lambda rng, count: rng.standard_t(5, count) ** 2,
    "absolute errors, lognormal": lambda rng, count: rng.lognormal(0.0, 1.5, count),
}


def fading(values: Losses, span: int) -> Losses:
    """Return the fading mean at each place: a value counts 1/n, with n growing to `span`."""
    begin = np.cumsum(values[:span]) / np.arange(1, len(values[:span]) + 1)
    if len(values) <= span:
        return begin
    keep = 1.0 - 1.0 / span
    rest, _ = lfilter([1.0 / span], [1.0, -keep], values[span:], zi=[keep * begin[-1]])
    return np.concatenate([begin, rest])


def ratios(losses: Losses) -> tuple[Losses, Losses]:
    """Return `loss_ratio` at every look, and beside it the plain ratio of the two means."""
    recent, reference = fading(losses, RECENT), fading(losses, REFERENCE)
    of_rows = (fading(losses**2, REFERENCE) - reference**2) / (2 * RECENT - 1)
    apart = fading(np.maximum(recent - reference, 0.0) ** 2, USUAL)
    surely = np.maximum(recent - CHANCE * np.sqrt(np.maximum(of_rows, apart)), 0.0) / reference
    looks = slice(JUDGED_MIN // LOOK_EXAMPLES * LOOK_EXAMPLES - 1, None, LOOK_EXAMPLES)
    return surely[looks], (recent / reference)[looks]


def check(losses: Losses) -> None:
    """Raise AssertionError where the product's own figure is another one."""
    seen = LearnerAlerts("p", (), Roster("binary", [Racer("a", None, version=1)], "a"), Counter())
    seen.observe([EXAMPLE] * CHECKED, [(loss, {}) for loss in losses[:CHECKED].tolist()])
    assert np.isclose(seen.readings()["loss_ratio"][""], ratios(losses[:CHECKED])[0][-1]), "another formula"


def begins(values: Losses, bound: float) -> int:
    """Return how often a signal begins to lie above a bound."""
    above = values > bound
    return int((above[1:] & ~above[:-1]).sum() + above[0])


def found(draw: Callable[[int], Losses], times: float) -> str:
    """Return how often, and after how many examples, it is told that losses are `times` what they were."""
    after: list[int] = []
    for seed in range(CHANGES):
        losses = draw(CHANGED_SEED + seed)[: CHANGED_AT + SEEN_MAX]
        told, _ = ratios(np.concatenate([losses[:CHANGED_AT], times * losses[CHANGED_AT:]]))
        looks = np.flatnonzero(told[-(SEEN_MAX // LOOK_EXAMPLES) :] > TOLD_FROM)
        after += [int(looks[0] + 1) * LOOK_EXAMPLES] if len(looks) else []
    return f"{len(after)} of {CHANGES}" + (f", {int(np.median(after)):,}" if after else "")


def of_days(stream: Days, seed: int) -> Losses:
    """Return losses over a stream that stands still."""
    draw, rng, parts, count = still(stream), np.random.default_rng(seed), list[Losses](), 0
    while count < EXAMPLES:
        day = draw(rng, len(parts))
        parts.append(stream.model.losses(day.labels, stream.model.scores(day.columns)))
        count += len(day.labels)
    return np.concatenate(parts)


def main() -> None:
    """Print a row for each kind of loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="also real streams, from the files of DIR")
    parser.add_argument("--runs", type=int, default=3, help="of a million examples each")
    given = parser.parse_args()
    named: dict[str, Callable[[int], Losses]] = {
        name: lambda seed, draw=draw: draw(np.random.default_rng(seed), EXAMPLES)  # type: ignore[misc]
        for name, draw in STANDING.items()
    }
    if given.data is not None:
        for source in SOURCES:
            stream = load_days(source, given.data)
            named[stream.title] = lambda seed, stream=stream: of_days(stream, seed)  # type: ignore[misc]
    print(f"losses | examples | above {TOLD_FROM} | largest | plain above {PLAIN} | x 1.5 told | x 2 told")
    for name, draw in named.items():
        count, began, plainly, largest = 0, 0, 0, 0.0
        for seed in range(given.runs):
            losses = draw(seed) * 1.0
            check(losses)
            told, plain = ratios(losses)
            count, largest = count + len(losses), max(largest, told.max())
            began, plainly = began + begins(told, TOLD_FROM), plainly + begins(plain, PLAIN)
        after = f"{found(draw, 1.5)} | {found(draw, 2.0)}"
        print(f"{name} | {count:,} | {began} | {largest:.2f} | {plainly} | {after}", flush=True)


if __name__ == "__main__":
    main()
