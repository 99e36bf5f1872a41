"""Make a CSV of bike rentals by the hour, of the shape of the public Capital Bikeshare data.

    python examples/bikes/make_sample.py bikes.csv

The numbers are drawn, by a seed: the same file each time.  Demand has the two rush hours of working days, the
one hump of others, likes warm and dry hours, and grows; hours of no rental are left out, as in the real data.
"""

import csv
import math
import random
import sys
from datetime import datetime, timedelta

DAYS = 90
COLUMNS = (
    "instant", "dteday", "season", "yr", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit",
    "temp", "atemp", "hum", "windspeed", "casual", "registered", "cnt",
)  # fmt: skip


def hump(hour, at, width):
    """Return 1 at an hour, less beside it."""
    return math.exp(-(((hour - at) / width) ** 2))


def rows(seed=7):
    """Yield one row an hour."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    start, warmth, sky, number = datetime(2024, 3, 1), 0.3, 1, 0
    for hour in range(24 * DAYS):
        at = start + timedelta(hours=hour)
        weekday = (at.weekday() + 1) % 7  # Sunday is 0
        working = int(0 < weekday < 6)
        warmth += 0.00015 + draw.gauss(0, 0.004)
        temp = min(max(warmth + 0.1 * hump(at.hour, 15, 5), 0.02), 1.0)
        sky = min(max(sky + draw.choice((0, 0, 0, 0, 1, -1)), 1), 3)
        humid, wind = min(max(0.45 + 0.12 * sky + draw.gauss(0, 0.05), 0), 1), abs(draw.gauss(0.2, 0.1))
        rush = hump(at.hour, 8, 1.5) + 1.3 * hump(at.hour, 17.5, 2) if working else 0.9 * hump(at.hour, 14, 4)
        level = (1 + hour / (24 * DAYS)) * (0.4 + temp) / sky**0.5
        registered = round(max(0, level * 220 * (rush + 0.05) * draw.lognormvariate(0, 0.15)))
        casual = round(
            max(0, level * 60 * hump(at.hour, 15, 4) * (2 - working) * draw.lognormvariate(0, 0.3))
        )
        if registered + casual == 0:
            continue
        number += 1
        yield (
            number, f"{at.month}/{at.day}/{at.year}", 1 + at.month % 12 // 3, at.year - 2024, at.month,
            at.hour, 0, weekday, working, sky, round(temp, 2), round(temp * 0.95, 4), round(humid, 2),
            round(wind, 4), casual, registered, casual + registered,
        )  # fmt: skip


if __name__ == "__main__":
    with open(sys.argv[1], "w", newline="", encoding="utf-8") as file:  # noqa: PTH123
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows())
