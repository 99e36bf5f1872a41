"""The rolling features of the fraud detection handbook, to the bit, on a sample of its cards and terminals.

Le Borgne et al., "Reproducible machine learning for credit card fraud detection" (2022), section 3.2:
what a terminal's risk is made of lies seven days back, because labels take that long to arrive.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import polars as pl
import pytest

from operators import by, field
from operators.expressions import Expression
from operators.features import Features
from operators.plan import compile_features
from topics.messages import Event

DAY_MS = 86_400_000
HISTORY_DAYS = 38
KEYS = 40


class Transaction(msgspec.Struct):
    customer: str
    terminal: str
    amount: float
    fraud: bool


def definition() -> dict[str, Expression]:
    features: dict[str, Expression] = {}
    customer, terminal = by("customer"), by("terminal")
    for days in (1, 7, 30):
        window = f"{days}d"
        features[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"] = customer.count(window)
        features[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"] = customer.mean("amount", window)
        features[f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"] = terminal.count(window, shift="7d")
        frauds = terminal.count(window, shift="7d", where=field("fraud"))
        features[f"TERMINAL_ID_RISK_{days}DAY_WINDOW"] = (
            frauds / terminal.count(window, shift="7d")
        ).default(0.0)
    return features


@pytest.mark.data
def test_the_handbooks_features_are_met(data_dir: Path) -> None:
    wanted = pl.read_parquet(data_dir / "fraud_handbook" / "golden_dev_0725_0731.parquet")
    rows = pl.read_parquet(data_dir / "fraud_handbook" / "dev_apr_jul.parquet").with_columns(
        pl.col("TX_DATETIME").dt.epoch("ms").alias("time")
    )
    first = rows.join(wanted, on="TRANSACTION_ID", how="semi")["time"].min()
    assert isinstance(first, int)
    rows = rows.filter(pl.col("time") > first - HISTORY_DAYS * DAY_MS).sort("time", "TRANSACTION_ID")
    sampled = rows.filter((pl.col("CUSTOMER_ID") < KEYS) | (pl.col("TERMINAL_ID") < KEYS))
    plan = compile_features(
        definition(), Transaction, grace_ms=60_000, max_events_per_key=10_000, task="binary"
    )
    features, targets = Features(plan), {row["TRANSACTION_ID"]: row for row in wanted.iter_rows(named=True)}
    checked = 0
    for row in sampled.iter_rows(named=True):
        value = Transaction(
            str(row["CUSTOMER_ID"]), str(row["TERMINAL_ID"]), row["TX_AMOUNT"], row["TX_FRAUD"] == 1
        )
        number, time = row["TRANSACTION_ID"], row["time"]
        (found,) = features.step_events([Event(str(number), time, "", value, number, time - 60_000)])
        if (target := targets.get(number)) is None:
            continue
        # All of a sampled key's transactions are in the sample; of another's only some.
        complete = (
            "CUSTOMER" if row["CUSTOMER_ID"] < KEYS else "-",
            "TERMINAL" if row["TERMINAL_ID"] < KEYS else "-",
        )
        for name, feature in found.items():
            if name.startswith(complete):
                assert math.isclose(feature, target[name], rel_tol=1e-12), (number, name)  # type: ignore[arg-type]
                checked += 1
    assert checked > 1_000
