"""Makes transactions and verdicts as JSON lines from the handbook's tables.

    HEADRACE_DATA=~/data python examples/fraud/make_lines.py --first 2018-07-25 --last 2018-07-26 --sample 100

Reads `$HEADRACE_DATA/fraud_handbook/*.parquet` with the columns TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID,
TERMINAL_ID, TX_AMOUNT and TX_FRAUD.  A transaction becomes an event, and a label one week later: only then
is it known whether it was fraud.

The days from `--first` to `--last` are written with the HISTORY_DAYS before them, which their windows reach
back to.  `--sample N` keeps, of these days, N transactions at even distances, and every other transaction of
their customers and terminals: the features of the N (`sample.txt` names them) are those of the whole table,
those of the others are not.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl

HISTORY_DAYS = 37
"""A month, a week earlier."""
VERDICT_MS = 7 * 86_400_000
COLUMNS = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")


def transactions(folder: Path, first: date, last: date) -> pl.DataFrame:
    """Return the transactions of these days and of their history, in order of time and id."""
    begin = datetime.combine(first, time()) - timedelta(days=HISTORY_DAYS)
    end = datetime.combine(last, time()) + timedelta(days=1)
    tables = [
        pl.scan_parquet(path)
        for path in sorted(folder.glob("*.parquet"))
        if set(COLUMNS) <= set(pl.read_parquet_schema(path))
    ]
    if not tables:
        raise SystemExit(f"no table of transactions in {folder}: set HEADRACE_DATA")
    rows = pl.concat([table.select(COLUMNS) for table in tables])
    return rows.filter(pl.col("TX_DATETIME").is_between(begin, end, "left")).collect().sort(
        "TX_DATETIME", "TRANSACTION_ID"
    )  # fmt: skip


def sampled(rows: pl.DataFrame, first: date, count: int) -> tuple[pl.DataFrame, list[int]]:
    """Return what `count` transactions from `first` on depend on, and their ids."""
    shown = rows.filter(pl.col("TX_DATETIME") >= datetime.combine(first, time()))
    chosen = shown.gather_every(max(1, len(shown) // count)).head(count)
    of_them = pl.col("CUSTOMER_ID").is_in(chosen["CUSTOMER_ID"].to_list()) | pl.col("TERMINAL_ID").is_in(
        chosen["TERMINAL_ID"].to_list()
    )
    return rows.filter(of_them), chosen["TRANSACTION_ID"].to_list()


def messages(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return one transaction's event and label."""
    customer, time_ms = f"c{row['CUSTOMER_ID']}", row["time_ms"]
    event = {
        "event_id": str(row["TRANSACTION_ID"]),
        "event_time": time_ms,
        "customer": customer,
        "terminal": f"t{row['TERMINAL_ID']}",
        "amount": row["TX_AMOUNT"],
    }
    label = {
        "event_id": event["event_id"],
        "label": row["TX_FRAUD"] == 1,
        "label_time": time_ms + VERDICT_MS,
        "customer": customer,
    }
    return event, label


def write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def make(data: Path, to: Path, first: date, last: date, sample: int | None) -> list[int]:
    """Write the files into `to`; return the ids of the sample."""
    rows = transactions(data / "fraud_handbook", first, last)
    ids: list[int] = []
    if sample is not None:
        rows, ids = sampled(rows, first, sample)
        (to / "sample.txt").write_text("".join(f"{number}\n" for number in ids), encoding="utf-8")
    rows = rows.with_columns(pl.col("TX_DATETIME").dt.epoch("ms").alias("time_ms"))
    pairs = [messages(row) for row in rows.iter_rows(named=True)]
    write(to / "transactions.jsonl", (event for event, _ in pairs))
    write(to / "verdicts.jsonl", (label for _, label in pairs))
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description="make transactions.jsonl and verdicts.jsonl")
    parser.add_argument("--first", type=date.fromisoformat, required=True, help="first day, YYYY-MM-DD")
    parser.add_argument("--last", type=date.fromisoformat, required=True, help="last day, YYYY-MM-DD")
    parser.add_argument("--sample", type=int, help="so many transactions, and what they depend on")
    parser.add_argument("--to", type=Path, default=Path(), help="folder to write into")
    options = parser.parse_args()
    if "HEADRACE_DATA" not in os.environ:
        raise SystemExit("set HEADRACE_DATA to the folder that holds fraud_handbook/")
    make(Path(os.environ["HEADRACE_DATA"]), options.to, options.first, options.last, options.sample)


if __name__ == "__main__":
    main()
