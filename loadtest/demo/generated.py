"""Streams that are made up, the same ones each time: what the demo publishes where an example has no data.

Lives here: events and labels by the type that an example's file has for them, out of a seed.  Never here: a
clock, topics, what is done with them (`figures.py`).

Each says what is planted in it, so that whoever watches knows what there is to see.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

__all__ = ["Happening", "card_payments", "offers", "pump_readings"]

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
START_MS: Final = 1_767_225_600_000
"""2026-01-01."""
SEED: Final = 42


class Happening(NamedTuple):
    """One event, and what turns out to be true of it later."""

    event: dict[str, Any]
    label: dict[str, Any]


# -- card payments --------------------------------------------------------------------------------------

CUSTOMERS, TERMINALS, REACHED = 80, 150, 8
PAYMENTS_A_DAY: Final = 200
STOLEN_DAYS, SKIMMED_DAYS, VERDICT_DAYS = 14, 28, 7
SKIMMED_EVERY_DAYS: Final = 3
"""A terminal is tampered with so often, a customer's card is stolen every day between."""
STOLEN_FACTOR: Final = 5.0
NO_TIME: Final = -DAY_MS * 1_000


def card_payments(count: int) -> Iterator[Happening]:
    """Yield payments, and a week later the verdict on each.

    Planted, as in the handbook's simulation: terminals that are tampered with (all that passes through one is
    fraud for four weeks) and stolen cards (a third of the payments, of five times the usual amount, for two).
    """
    rng = random.Random(SEED)  # noqa: S311 - a stream made up, no secret
    usual = [rng.uniform(5.0, 100.0) for _ in range(CUSTOMERS)]
    reached = [rng.sample(range(TERMINALS), REACHED) for _ in range(CUSTOMERS)]
    skimmed, stolen = [NO_TIME] * TERMINALS, [NO_TIME] * CUSTOMERS
    time_ms, day = START_MS, -1
    for number in range(count):
        time_ms += int(rng.expovariate(PAYMENTS_A_DAY / DAY_MS))
        if (today := (time_ms - START_MS) // DAY_MS) > day:
            day = today
            if day % SKIMMED_EVERY_DAYS:
                stolen[rng.randrange(CUSTOMERS)] = time_ms
            else:
                skimmed[rng.randrange(TERMINALS)] = time_ms
        customer = rng.randrange(CUSTOMERS)
        terminal = rng.choice(reached[customer])
        amount = max(0.5, rng.gauss(usual[customer], usual[customer] / 2))
        fraud = time_ms - skimmed[terminal] < SKIMMED_DAYS * DAY_MS
        if time_ms - stolen[customer] < STOLEN_DAYS * DAY_MS and rng.random() < 1 / 3:
            amount, fraud = STOLEN_FACTOR * amount, True
        yield Happening(
            {
                "event_id": f"p{number}",
                "event_time": time_ms,
                "customer": f"c{customer}",
                "terminal": f"t{terminal}",
                "amount": round(amount, 2),
            },
            {"event_id": f"p{number}", "label": fraud, "label_time": time_ms + VERDICT_DAYS * DAY_MS},
        )


# -- pumps ------------------------------------------------------------------------------------------------

PUMPS: Final = 12
READING_MS: Final = 5_000
TRIP_MS: Final = 30_000
WEAR: Final = 1.2
"""By how much the heat rises from the middle on."""


def pump_readings(count: int) -> Iterator[Happening]:
    """Yield readings, and half a minute later whether the pump tripped.

    Planted, at half of them: until then a pump trips by too much load, from then on by too much or too
    little, which no line through the readings tells; and the heat rises, which makes nothing trip.
    """
    rng = random.Random(SEED)  # noqa: S311
    for number in range(count):
        time_ms, worn = START_MS + number * READING_MS, number >= count // 2
        load, noise = rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0)
        strain = 4.0 * (abs(load) - 0.8) if worn else 3.0 * load
        trips = rng.random() < 1 / (1 + math.exp(-strain))
        yield Happening(
            {
                "event_id": f"r{number}",
                "event_time": time_ms,
                "pump": f"pump-{rng.randrange(PUMPS)}",
                "load": round(load, 3),
                "heat": round(rng.gauss(WEAR if worn else 0.0, 1.0), 3),
                "noise": round(noise, 3),
            },
            {"event_id": f"r{number}", "label": trips, "label_time": time_ms + TRIP_MS},
        )


# -- offers -----------------------------------------------------------------------------------------------

VISITORS: Final = 300
PAGES: Final = {"home": 0.0, "search": 0.6, "cart": 1.2}
OFFER_MS: Final = 20_000
TAKEN_MS: Final = 20 * MINUTE_MS


def offers(count: int) -> Iterator[Happening]:
    """Yield offers, and within some minutes whether each was taken.

    Planted: one in two visitors has a new account, and old ones mind the price; a line tells most of it.
    """
    rng = random.Random(SEED)  # noqa: S311
    ages = [rng.choice([rng.randrange(10), rng.randrange(400, 2_000)]) for _ in range(VISITORS)]
    for number in range(count):
        time_ms, visitor = START_MS + number * OFFER_MS, rng.randrange(VISITORS)
        page, price = rng.choice(list(PAGES)), rng.lognormvariate(3.0, 0.5)
        wish = 1.5 - 0.12 * price + PAGES[page] + (0.0 if ages[visitor] < 10 else 0.8)
        yield Happening(
            {
                "event_id": f"o{number}",
                "event_time": time_ms,
                "visitor": f"v{visitor}",
                "price": round(price, 2),
                "age_days": ages[visitor],
                "page": page,
            },
            {
                "event_id": f"o{number}",
                "label": rng.random() < 1 / (1 + math.exp(-wish)),
                "label_time": time_ms + int(rng.uniform(MINUTE_MS, TAKEN_MS)),
            },
        )
