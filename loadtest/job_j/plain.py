"""Job J: the events, the twelve features, the model, and the job as others write it.

Lives here: the generator of the data set, and the job written plainly: what an engineer makes in an hour
with deques, River and orjson, alone or as a Faust agent.  Never here: Headrace, clocks, measuring.

The job: JSON events {id, ts, card, merchant, amount, label}; per card, exact windows (t-w, t]
of 1 min, 10 min and 1 h; count, sum, mean and max of amount, 12 features, plus the amount;
StandardScaler | LogisticRegression predicts, then learns the event's own label; JSON out.

The events lie in 2 hours, in order, one per millisecond at most (times are whole milliseconds,
all different); cards are drawn from K = 1,000 by Zipf(1.0), where the hottest has 13 % of the
events, or evenly from K = 100,000; amounts are lognormal; 11 % of the labels are true, more of
them on large amounts and on a tenth of the cards.

Run as `python -m loadtest.job_j.plain NAME` it is the Faust agent: it reads `NAME.transactions` and answers
on `NAME.predictions` of the Kafka in `KAFKA_BOOTSTRAP_SERVERS`; Faust's own files lie in the working
directory.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import AsyncIterable, Iterator
from typing import Any, Literal

import numpy as np
import orjson
from river import linear_model, preprocessing

__all__ = ["SPANS_MS", "START_MS", "Cards", "NaiveWindows", "features_of", "make_events", "new_model"]

Cards = Literal["zipf", "uniform"]

SPANS_MS = {"1m": 60_000, "10m": 600_000, "1h": 3_600_000}
START_MS = 1_735_689_600_000
"""2025-01-01T00:00Z: the events lie in the past of whoever runs this."""
LENGTH_MS = 7_200_000
CARDS = {"zipf": 1_000, "uniform": 100_000}
MERCHANTS = 500
RISKY = 10
"""One card in so many is risky."""


def make_events(count: int, cards: Cards = "zipf", *, seed: int = 42) -> list[bytes]:
    """Return `count` events in order, as JSON.

    The same arguments give the same bytes.  Raises ValueError for more events than milliseconds.
    """
    if not 0 < count <= LENGTH_MS:
        raise ValueError(f"{count} events do not fit {LENGTH_MS} distinct milliseconds")
    rng = np.random.default_rng(seed)
    times = START_MS + np.sort(rng.choice(LENGTH_MS, count, replace=False))
    total = CARDS[cards]
    if cards == "zipf":
        weights = 1.0 / np.arange(1, total + 1)
        chosen = rng.choice(total, count, p=weights / weights.sum())
    else:
        chosen = rng.integers(0, total, count)
    logs = rng.normal(3.0, 1.0, count)
    merchants = rng.integers(0, MERCHANTS, count)
    logit = -2.75 + 1.1 * (logs - 3.0) + 1.0 * (chosen % RISKY == 0)
    labels = rng.random(count) < 1.0 / (1.0 + np.exp(-logit))
    columns = (times, chosen, merchants, np.exp(logs), labels)
    return [
        orjson.dumps(
            {
                "id": f"e{number}",
                "ts": ts,
                "card": f"card-{card:06d}",
                "merchant": f"m-{merchant:03d}",
                "amount": round(amount, 2),
                "label": label,
            }
        )
        for number, (ts, card, merchant, amount, label) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    ]


def new_model() -> Any:
    """Return the model of the job, untaught."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


class _Window:
    """One window of one card: its events, their sum, and the candidates for the maximum."""

    __slots__ = ("events", "highs", "span_ms", "total")

    def __init__(self, span_ms: int) -> None:
        self.span_ms = span_ms
        self.events: deque[tuple[int, float]] = deque()
        self.highs: deque[tuple[int, float]] = deque()
        self.total = 0.0

    def add(self, ts: int, amount: float) -> None:
        horizon = ts - self.span_ms
        events, highs = self.events, self.highs
        while events and events[0][0] <= horizon:
            self.total -= events.popleft()[1]
        while highs and highs[0][0] <= horizon:
            highs.popleft()
        while highs and highs[-1][1] <= amount:
            highs.pop()
        events.append((ts, amount))
        highs.append((ts, amount))
        self.total += amount


class NaiveWindows:
    """Three windows per card, in order only: deque, running sum, deque of maxima."""

    def __init__(self) -> None:
        self._cards: dict[str, tuple[tuple[str, _Window], ...]] = {}

    def step(self, event: dict[str, Any]) -> dict[str, float]:
        """Return the features of one event, itself included."""
        card, ts, amount = event["card"], event["ts"], event["amount"]
        windows = self._cards.get(card)
        if windows is None:
            windows = tuple((name, _Window(span_ms)) for name, span_ms in SPANS_MS.items())
            self._cards[card] = windows
        features: dict[str, float] = {"amount": amount}
        for name, window in windows:
            window.add(ts, amount)
            count = len(window.events)
            features["count_" + name] = count
            features["sum_" + name] = window.total
            features["mean_" + name] = window.total / count
            features["max_" + name] = window.highs[0][1]
        return features


def features_of(events: list[bytes]) -> Iterator[tuple[dict[str, float], bool]]:
    """Yield features and label of each event, by the plain job."""
    windows = NaiveWindows()
    for value in events:
        event = orjson.loads(value)
        yield windows.step(event), event["label"]


def faust_app(name: str, bootstrap_servers: str) -> Any:
    """Return the job as a Faust app: one event at a time, deques in memory, nothing durable."""
    import faust  # noqa: PLC0415 - only this program needs it

    app = faust.App(
        name,
        broker=f"kafka://{bootstrap_servers}",
        env_prefix="JOB_J_FAUST_",
        consumer_auto_offset_reset="earliest",
        topic_disable_leader=True,
        web_enabled=False,
    )
    transactions = app.topic(f"{name}.transactions")
    predictions = app.topic(f"{name}.predictions")
    windows, model = NaiveWindows(), new_model()

    @app.agent(transactions)
    async def answer(events: AsyncIterable[dict[str, Any]]) -> None:
        async for event in events:
            features = windows.step(event)
            score = model.predict_proba_one(features)[True]
            model.learn_one(features, event["label"])
            await predictions.send(key=event["card"], value={"id": event["id"], "p": score})

    return app


if __name__ == "__main__":
    import faust

    faust.Worker(
        faust_app(sys.argv[1], os.environ["KAFKA_BOOTSTRAP_SERVERS"]), loglevel="warning"
    ).execute_from_commandline()
