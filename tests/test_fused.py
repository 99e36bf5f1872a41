"""The usual way of an event against the general one, which `test_windows.py` holds to the definition."""

from __future__ import annotations

import random
from math import fsum
from typing import Any

import msgspec
import pytest
from window_oracle import features_of

from operators import by, columns, field, lookup
from operators.language.by import Expression
from topics.messages import Event


@pytest.fixture(autouse=True)
def _without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code would take the place of what is tested here."""
    monkeypatch.setattr(columns, "find_spec", lambda _: None)


class Payment(msgspec.Struct):
    card: str
    amount: float
    items: int = 1
    fee: float | None = None


AMOUNT = {
    f"{kind}_{span}": getattr(by("card"), kind)("amount", span)
    for span in ("40ms", "300ms", "1s")
    for kind in ("sum", "mean", "max", "min", "first", "last")
}
DEFINITIONS: dict[str, dict[str, Expression]] = {
    "twelve": {"amount": field("amount"), **AMOUNT, "n": by("card").count("1s")},
    "columns": {
        **AMOUNT,
        "spread": by("card").std("items", "300ms"),
        "items": by("card").sum("items", "1s"),
        "gap": by("card").since_last("40ms").default(-1),
        "again": by("card").since_last("300ms"),
    },
    "sparse": {**AMOUNT, "fee": by("card").mean("fee", "1s"), "fee_first": by("card").first("fee", "40ms")},
    "later": {
        "ratio": field("amount") / by("card").mean("amount", "1s"),
        "rate": by("card").rate("300ms"),
        "risk": lookup("card:{card}", "risk", default=0.0) * by("card").max("amount", "40ms"),
    },
    "all": {"n": by().count("100ms"), "sum": by().sum("amount", "1s")},
}


def history(seed: int, size: int, scale: float, *, odd: float = 0.02) -> list[Event]:
    """Return events of hot and rare keys; a share is out of order, late, missing or of another magnitude."""
    chance, newest, events = random.Random(seed), 1_000, []
    for number in range(size):
        time = newest + chance.choice([0, 1, 3, 9])
        amount = round(chance.lognormvariate(3, 1), 2) * scale
        if chance.random() < odd:
            time, amount = newest - chance.randint(1, 60), chance.choice([1e-90, 1e14, -3.0, 0.0, 1e300, 0.1])
        late, newest = time < newest - 30, max(newest, time)
        card = chance.choice("aaaabbc") if chance.random() < 0.9 else f"rare-{chance.randrange(30)}"
        fee = None if chance.random() < odd else chance.gauss(0, scale)
        value = Payment(card, amount, chance.randint(0, 9), fee)
        events.append(Event(str(number), time, card, value, offset=number, watermark=newest - 30, late=late))
    return events


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("odd", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("event_max", [5, 500])
def test_the_usual_way_gives_what_the_general_way_gives(name: str, odd: float, event_max: int) -> None:
    events = history(len(name), 600, 1.0, odd=odd)
    stored = [{"card:{card}#risk": number % 3} for number in range(len(events))]
    fused, general = (features_of(DEFINITIONS[name], event_max, of=Payment) for _ in range(2))
    assert fused._fused is not None
    general._fused = None
    for windows in general._windows:
        windows._enter = lambda *_: False  # type: ignore[union-attr]
        windows._calm = lambda *_: False  # type: ignore[union-attr]
    found = [
        row
        for start in range(0, len(events), 50)
        for row in fused.step_events(events[start : start + 50], stored[start : start + 50])
    ]
    assert repr(found) == repr(general.step_events(events, stored))
    assert fused.snapshot() == general.snapshot()
    assert fused.delta().keys() == general.delta().keys()
    assert (fused.evicted_events, fused.evicted_keys) == (general.evicted_events, general.evicted_keys)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e6, 1e12])
def test_every_magnitude_takes_the_usual_way(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of small and of large numbers alike are summed as two floats, rarely as integers."""
    events = history(3, 1_500, scale, odd=0.0)
    features = features_of({"sum": by("card").sum("amount", "1s")}, 500, of=Payment)
    unusual, row = [], features._row

    def counted(event: Event, looked_up: Any) -> Any:
        unusual.append(event)
        return row(event, looked_up)

    monkeypatch.setattr(features, "_row", counted)
    rows = features.step_events(events)
    assert len(unusual) < 40
    kept: dict[str, list[tuple[int, float]]] = {}
    for event, found in zip(events, rows, strict=True):
        mine = kept.setdefault(event.key, [])
        mine.append((event.event_time, event.value.amount))
        expected = fsum([amount for time, amount in mine if time > event.event_time - 1_000])
        assert found == {"sum": expected}


def test_sums_of_one_stubborn_value_start_again_before_they_are_inexact() -> None:
    """The low parts of 0.1 all have one sign: their sum leaves its bounds after some thousand events."""
    features = features_of(
        {"sum": by("card").sum("amount", "1s"), "n": by("card").count("1s")}, 100_000, of=Payment
    )
    events = [
        Event("", time, "a", Payment("a", 0.1), offset=time, watermark=time - 30) for time in range(40_000)
    ]
    rows = features.step_events(events)
    assert rows[-1] == {"sum": fsum([0.1] * 1_000), "n": 1_000}
    assert rows[20_000] == rows[-1]
    (log,) = features._windows[0]._logs.values()  # type: ignore[union-attr]
    assert log.hot is not None
