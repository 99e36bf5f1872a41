"""The fourteen features of the fraud detection handbook, on every transaction of one week.

Le Borgne et al., "Reproducible machine learning for credit card fraud detection" (2022), section 3.2.
What is known of a terminal ends seven days back, because verdicts take that long to arrive.
"""

from __future__ import annotations

import json
import runpy
from datetime import date
from pathlib import Path

import msgspec
import polars as pl
import pytest
from paths import CHECKOUT

from engine.cli.main import app
from operators import by, field, indicator
from operators.language.expressions import Expression
from operators.language.plan import compile_features
from operators.windows.features import Features
from topics.messages import Event

FRAUD = CHECKOUT / "examples" / "fraud"
WITHIN = 1e-9
FIRST, LAST = date(2018, 7, 25), date(2018, 7, 31)
ROWS = 67_240
STEP = 1_000


class Transaction(msgspec.Struct):
    customer: int
    terminal: int
    amount: float
    fraud: bool
    time: int


def definition() -> dict[str, Expression]:
    """Return the handbook's features under its names."""
    customer, terminal, time = by("customer"), by("terminal"), field("time")
    features = {
        "TX_DURING_WEEKEND": time.is_weekend(),
        "TX_DURING_NIGHT": indicator(time.hour() < 7),
    }
    for days in (1, 7, 30):
        window = f"{days}d"
        count = terminal.count(window, shift="7d")
        frauds = terminal.count(window, shift="7d", where=field("fraud"))
        features |= {
            f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW": customer.count(window),
            f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW": customer.mean("amount", window),
            f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW": count,
            f"TERMINAL_ID_RISK_{days}DAY_WINDOW": (frauds / count).default(0.0),
        }
    return features


def golden(data_dir: Path) -> pl.DataFrame:
    return pl.read_parquet(data_dir / "fraud_handbook" / "golden_dev_0725_0731.parquet")


def differences(found: pl.DataFrame, wanted: pl.DataFrame) -> dict[str, float]:
    """Return the largest absolute difference per column; infinity where a value is missing."""
    both = found.join(wanted, on="TRANSACTION_ID", suffix=" wanted", validate="1:1")
    assert len(both) == len(found)
    columns = [name for name in wanted.columns if name != "TRANSACTION_ID"]
    apart = both.select(
        (pl.col(name).cast(pl.Float64) - pl.col(f"{name} wanted")).abs().fill_null(float("inf")).max()
        for name in columns
    )
    return apart.row(0, named=True)


@pytest.mark.data
def test_every_feature_of_every_transaction_of_the_week_is_met(data_dir: Path) -> None:
    wanted = golden(data_dir)
    make = runpy.run_path(str(FRAUD / "make_lines.py"))
    rows = make["transactions"](data_dir / "fraud_handbook", FIRST, LAST)
    names = definition()
    plan = compile_features(names, Transaction, grace_ms=0, max_events_per_key=10_000, task="binary")
    features, found = Features(plan), []
    events = [
        Event("", time, "", Transaction(customer, terminal, amount, fraud == 1, time), number, time)
        for number, _, customer, terminal, amount, fraud, time in rows.with_columns(
            pl.col("TX_DATETIME").dt.epoch("ms")
        )
        .select(*make["COLUMNS"], pl.col("TX_DATETIME").alias("time"))
        .iter_rows()
    ]
    shown = len(events) - ROWS
    for start in range(0, shown, STEP):
        features.step_events(events[start : min(start + STEP, shown)])
    for start in range(shown, len(events), STEP):
        found += features.step_events(events[start : start + STEP])
    ids = pl.Series("TRANSACTION_ID", [event.offset for event in events[shown:]], dtype=pl.Int32)
    apart = differences(pl.DataFrame(found).with_columns(ids), wanted)
    assert len(found) == len(wanted) == ROWS
    assert apart.keys() == names.keys()
    assert len(apart) == 14
    assert max(apart.values()) <= WITHIN, apart


@pytest.mark.data
def test_a_backtest_of_the_example_meets_them_from_verdicts_that_come_a_week_later(
    data_dir: Path, tmp_path: Path
) -> None:
    """The terminal's risk is a window over labels here: nothing else tells the pipeline of fraud."""
    from typer.testing import CliRunner

    make = runpy.run_path(str(FRAUD / "make_lines.py"))
    ids = set(make["make"](data_dir, tmp_path, FIRST, date(2018, 7, 26), 80))
    arguments = ["backtest", str(FRAUD / "pipeline.py"), "--json"]
    for option, name in (("events", "transactions"), ("labels", "verdicts"), ("features-out", "features")):
        arguments += [f"--{option}", str(tmp_path / f"{name}.jsonl")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.output.splitlines()[-1])
    assert (report["dead_letters"], len(ids)) == (0, 80)
    lines = map(json.loads, (tmp_path / "features.jsonl").read_bytes().splitlines())
    found = [
        {"TRANSACTION_ID": number} | {handbook_name(name): value for name, value in line["features"].items()}
        for line in lines
        if (number := int(line["event_id"])) in ids
    ]
    table = pl.DataFrame(found).with_columns(pl.col("TRANSACTION_ID").cast(pl.Int32))
    assert len(table) == len(ids)
    wanted = golden(data_dir)
    apart = differences(table, wanted)
    assert max(apart.values()) <= WITHIN, apart
    risky = table.select(pl.col("TERMINAL_ID_RISK_30DAY_WINDOW") > 0).to_series().sum()
    assert risky > 0


def handbook_name(name: str) -> str:
    """Return the handbook's name of one of the example's features."""
    flags = {"weekend": "TX_DURING_WEEKEND", "night": "TX_DURING_NIGHT"}
    if (of := name.rpartition("_"))[0] == "" or name in flags:
        return flags.get(name, name)
    whose, kind = of[0].split("_")
    column = {"count": "NB_TX", "mean": "AVG_AMOUNT", "risk": "RISK"}[kind]
    return f"{whose.upper()}_ID_{column}_{of[2].removesuffix('d')}DAY_WINDOW"


def test_the_example_says_weekend_and_night_as_they_are_meant() -> None:
    features = runpy.run_path(str(FRAUD / "pipeline.py"))["features"]
    assert repr(features["weekend"]) == 'field("event_time").is_weekend()'
    assert repr(features["night"]) == 'indicator(field("event_time").hour() < 7)'
