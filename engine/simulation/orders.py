"""Orders of shops, each returned or not: the world before anything is planted but drift and delays.

Lives here: how an order and its label are drawn.  Never here: what happens to lines on their way
(`plant.py`).

The chance of a return is a logistic function of amount, items and shop.  Drift turns the weights of amount
and items around: what spoke for a return speaks against it.  All draws come from one generator in one order,
so the same plan gives the same orders.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["BEGIN_MS", "SimulatedOrder", "SimulationPlan", "orders"]

BEGIN_MS = 1_735_689_600_000
"""2025-01-01."""
WEIGHTS = {"amount": 2.0, "items": 1.0, "shop": 0.5}
BIAS = -0.5
DELAY_SPREAD = 0.5
"""Sigma of the logarithm of label delays."""
HOT_SHOP = "shop-0"


class SimulationPlan(NamedTuple):
    """What is to be made."""

    events: int
    seed: int
    rate_per_s: float = 1.0
    """Orders per second of event time."""
    shops: int = 20
    drift_at: float | None = None
    """The share of the stream after which the weights turn around; None for no drift."""
    label_delay_ms: int = 600_000
    """Median of the delay of a label."""
    unlabelled: float = 0.0
    """Share of orders whose label never comes."""
    hot: float = 0.0
    """Share of orders that one shop has beside its part of the others."""
    disorder: float = 0.0
    """Share of events that come late."""
    late_ms: int = 30_000
    """By how much at most."""
    duplicates: float = 0.0
    """Share of events that come twice."""
    garbage: float = 0.0
    """Lines that are no events, as a share of the events."""


class SimulatedOrder(NamedTuple):
    """One order, and what became of it."""

    order_id: str
    time_ms: int
    shop: str
    amount: float
    items: int
    chance: float
    """Of a return, as drawn from."""
    returned: bool
    label_time_ms: int | None
    """When that is known; None for never."""


def orders(plan: SimulationPlan) -> Iterator[SimulatedOrder]:
    """Yield the orders of a plan, by time."""
    draw = random.Random(f"headrace/orders/{plan.seed}")  # noqa: S311 - no secret
    leaning = {f"shop-{number}": draw.uniform(-1, 1) for number in range(plan.shops)}
    at_ms = float(BEGIN_MS)
    turn = plan.events if plan.drift_at is None else round(plan.drift_at * plan.events)
    for number in range(plan.events):
        at_ms += draw.expovariate(plan.rate_per_s) * 1_000
        shop = HOT_SHOP if draw.random() < plan.hot else f"shop-{draw.randrange(plan.shops)}"
        amount, items = round(draw.lognormvariate(3, 0.7), 2), 1 + min(int(draw.expovariate(0.7)), 9)
        sign = -1.0 if number >= turn else 1.0
        score = sign * (WEIGHTS["amount"] * (math.log(amount) - 3) + WEIGHTS["items"] * (items - 2) / 2)
        chance = 1 / (1 + math.exp(-(BIAS + score + WEIGHTS["shop"] * leaning[shop])))
        returned = draw.random() < chance
        delay_ms = draw.lognormvariate(math.log(plan.label_delay_ms), DELAY_SPREAD)
        known = draw.random() >= plan.unlabelled
        time_ms = round(at_ms)
        label_ms = time_ms + round(delay_ms) if known else None
        yield SimulatedOrder(f"o{number:07}", time_ms, shop, amount, items, chance, returned, label_ms)
