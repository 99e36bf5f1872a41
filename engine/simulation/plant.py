"""What happens to lines on their way: some come late, some twice, and some are garbage.

Lives here: the lines in the order of their arrival, and the truth of what was planted.
Never here: the orders (`orders.py`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

from engine.simulation.orders import HOT_SHOP, SimulatedOrder, SimulationPlan, orders
from topics.codec import encode_json

__all__ = ["Simulation", "simulated"]

REPEAT_MS = 5_000
"""A repeat comes so much later at most: within every horizon."""


class Simulation(NamedTuple):
    """What was made."""

    events: tuple[bytes, ...]
    """Lines in the order of their arrival."""
    labels: tuple[bytes, ...]
    """Lines in the order of their times."""
    truth: dict[str, Any]
    """What was planted: counts, ids and line numbers (from 1) that can be looked up in the lines."""


def simulated(plan: SimulationPlan) -> Simulation:
    """Return the lines of a plan and the truth about them.  The same plan gives the same bytes."""
    made = list(orders(plan))
    draw = random.Random(f"headrace/plant/{plan.seed}")  # noqa: S311 - no secret
    arrivals: list[tuple[int, int, str, bytes]] = []
    late, repeated = [], []
    for order in made:
        line, arrival_ms = _event(order), order.time_ms
        if draw.random() < plan.disorder:
            arrival_ms += draw.randint(1, plan.late_ms)
            late.append(order.order_id)
        arrivals.append((arrival_ms, len(arrivals), "event", line))
        if draw.random() < plan.duplicates:
            repeated.append(order.order_id)
            arrivals.append((arrival_ms + draw.randint(1, REPEAT_MS), len(arrivals), "repeat", line))
    for kind, line, at_ms in _garbage(plan, made, draw):
        arrivals.append((at_ms, len(arrivals), kind, line))
    arrivals.sort()
    numbers = [(kind, number) for number, (_, _, kind, _) in enumerate(arrivals, 1)]
    garbage = [{"line": number, "kind": kind} for kind, number in numbers if kind not in {"event", "repeat"}]
    labelled = sorted((one for one in made if one.label_time_ms is not None), key=_label_time)
    return Simulation(
        tuple(line for *_, line in arrivals),
        tuple(_label(order) for order in labelled),
        _truth(plan, made) | {"late": late, "repeated": repeated, "garbage": garbage},
    )


def _event(order: SimulatedOrder) -> bytes:
    return encode_json(
        {
            "order_id": order.order_id,
            "event_time": order.time_ms,
            "shop": order.shop,
            "amount": order.amount,
            "items": order.items,
        }
    )


def _label(order: SimulatedOrder) -> bytes:
    return encode_json(
        {
            "order_id": order.order_id,
            "label": order.returned,
            "label_time": order.label_time_ms,
            "shop": order.shop,
        }
    )


def _label_time(order: SimulatedOrder) -> tuple[int, str]:
    return order.label_time_ms or 0, order.order_id


_GARBAGE: dict[str, Callable[[SimulatedOrder], bytes]] = {
    "no JSON": lambda order: _event(order)[:-9],
    "no object": lambda order: encode_json([order.order_id]),
    "a field is missing": lambda order: encode_json({"order_id": order.order_id, "shop": order.shop}),
    "a type is wrong": lambda order: _event(order).replace(b'"items":', b'"items":"many","x":'),
    "seconds for ms": lambda order: _event(order._replace(time_ms=order.time_ms // 1_000)),
}
"""How a line is spoilt, by what is wrong with it.  Its id is one that no event has."""


def _garbage(
    plan: SimulationPlan, made: Sequence[SimulatedOrder], draw: random.Random
) -> Iterator[tuple[str, bytes, int]]:
    """Yield kind, line and arrival of lines that are no events."""
    for number in range(round(plan.garbage * plan.events)):
        order = made[draw.randrange(len(made))]
        kind = list(_GARBAGE)[number % len(_GARBAGE)]
        yield kind, _GARBAGE[kind](order._replace(order_id=f"g{number:07}")), order.time_ms


def _truth(plan: SimulationPlan, made: Sequence[SimulatedOrder]) -> dict[str, Any]:
    """Return what is true of the orders themselves."""
    turn = None if plan.drift_at is None else round(plan.drift_at * plan.events)
    delays = [one.label_time_ms - one.time_ms for one in made if one.label_time_ms is not None]
    busiest, count = Counter(one.shop for one in made).most_common(1)[0]
    return {
        "plan": plan._asdict(),
        "drift": None
        if turn is None or turn >= len(made)
        else {"first_order": made[turn].order_id, "time": made[turn].time_ms, "what": "weights turn around"},
        "labels": len(delays),
        "unlabelled": [one.order_id for one in made if one.label_time_ms is None],
        "label_delay_ms": {"median": median(delays), "longest": max(delays)} if delays else None,
        "hot_key": None
        if not plan.hot
        else {"shop": HOT_SHOP, "orders": sum(one.shop == HOT_SHOP for one in made)},
        "busiest": {"shop": busiest, "orders": count},
        "best_loss": sum(one.chance * (1 - one.chance) for one in made) / len(made),
    }
