"""Which column is what: over real files as people have them, and over small ones, each for one doubt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import CHECKOUT

from engine.project.plan import LabelTimes, ProjectPlan, plan_of
from engine.project.roles import AskedRoles
from engine.project.sample import SampleRows, read_rows
from topics.durations import duration_ms
from topics.errors import SettingsError

DATA = CHECKOUT.parent / "shared" / "data"
FLIGHTS = CHECKOUT / "examples" / "flights"


def table(text: str) -> SampleRows:
    """A CSV sample: columns by blanks, rows by lines."""
    head, *rows = [line.split() for line in text.strip().splitlines()]
    names = tuple(head)
    return SampleRows(names, tuple(dict(zip(names, row, strict=True)) for row in rows), True, 0, True)


def understood(plan: ProjectPlan) -> tuple[str | None, ...]:
    roles = plan.roles
    return roles.label.column, plan.task, roles.time.column, roles.id.column, roles.key.column


def shopping(**changed: list[str]) -> SampleRows:
    """Four orders of two customers, with other or more columns."""
    columns = {
        "order_id": ["a", "b", "c", "d"],
        "at": [
            "2024-01-01T00:00:00Z",
            "2024-01-01T01:00:00Z",
            "2024-01-02T00:00:00Z",
            "2024-01-03T00:00:00Z",
        ],
        "customer": ["x", "y", "x", "y"],
        "total": ["1.5", "2.5", "9", "4"],
        "returned": ["true", "false", "false", "true"],
    } | changed
    rows = tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return SampleRows(tuple(columns), rows, True, 0, True)


# -- real files ---------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("bikes/hour.csv", ("cnt", "regression", "dteday", "instant", None)),
        ("elec2/electricity.csv", ("class", "multiclass", None, None, None)),
        ("sea/sea.csv", ("class", "binary", None, None, None)),
        ("weather/weather.csv", ("target", "binary", None, None, None)),
        ("nycflights/demo_q1.csv.gz", ("delayed15", "binary", "sched_dep_ts", None, "carrier")),
    ],
)
def test_real_tables_are_understood(file: str, wanted: tuple[str | None, ...]) -> None:
    assert understood(plan_of("p", read_rows(DATA / file), AskedRoles())) == wanted


@pytest.mark.data
def test_bikes_have_their_hours_and_not_what_gives_the_label_away() -> None:
    plan = plan_of("bikes", read_rows(DATA / "bikes/hour.csv"), AskedRoles())
    assert plan.roles.hour == "hr"
    assert set(plan.roles.leaks) == {"casual", "registered"}
    names = {field.name for field in plan.fields}
    assert not {"casual", "registered", "dteday", "hr"} & names
    times = [row["event_time"] for row in plan.events]
    assert (times[0], times[-1]) == (
        1_293_840_000_000,
        1_356_994_800_000,
    )  # 2011-01-01 00:00, 2012-12-31 23:00
    assert plan.time_parts == ("hour", "weekday")
    assert plan.spans == ("1d", "7d")


@pytest.mark.data
def test_flights_labels_that_land_later_are_messages_of_their_own() -> None:
    sample = read_rows(DATA / "nycflights/demo_q1.csv.gz")
    assert plan_of("f", sample, AskedRoles()).roles.label_times == ("label_ts",)
    plan = plan_of("f", sample, AskedRoles(key="origin"), LabelTimes(column="label_ts"))
    assert {"delayed15", "label_ts"} & {field.wire for field in plan.fields} == set()
    at = {row["event_id"]: row for row in plan.events}
    assert len(plan.labels) == len(plan.events)
    assert all(row["origin"] == at[row["event_id"]]["origin"] for row in plan.labels)
    assert [row["label_time"] for row in plan.labels] == sorted(row["label_time"] for row in plan.labels)
    late = max(row["label_time"] - at[row["event_id"]]["event_time"] for row in plan.labels)
    assert duration_ms("1d") < late < duration_ms(str(plan.wait)) == duration_ms("3d")


def test_the_events_of_the_example_need_only_their_label_named() -> None:
    sample = read_rows(FLIGHTS / "departures.jsonl.gz")
    with pytest.raises(SettingsError, match="no column is surely the label"):
        plan_of("f", sample, AskedRoles())
    plan = plan_of("f", sample, AskedRoles(label="distance"), LabelTimes(delay="2h"))
    assert understood(plan) == ("distance", "regression", "event_time", "event_id", "carrier")
    assert plan.events[0] == {
        "event_id": "0101-UA1545-EWR-0515",
        "event_time": 1_357_017_300_000,
        "carrier": "UA",
        "origin": "EWR",
        "dest": "IAH",
    }
    assert plan.labels[0] == {
        "event_id": "0101-UA1545-EWR-0515",
        "label": 1400.0,
        "label_time": 1_357_017_300_000 + 7_200_000,
        "carrier": "UA",
    }
    assert plan.wait == "6h"


# -- one doubt each -----------------------------------------------------------------------------------


def test_a_table_of_orders_is_understood() -> None:
    plan = plan_of("p", shopping(), AskedRoles())
    assert understood(plan) == ("returned", "binary", "at", "order_id", "customer")
    assert {field.name: field.type for field in plan.fields} == {
        "order_id": "str", "at": "datetime", "customer": "str", "total": "float", "returned": "bool",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"churned": ["0", "1", "0", "0"]}, "churned"),  # a telling name beats the last place
        ({"z": ["1", "2", "3", "4"]}, None),  # the last column, and nothing else speaks for it
        ({"z": ["0", "1", "1", "0"]}, "z"),  # the last column, and of two values
        ({"z": ["1", "1", "1", "1"]}, None),  # one value is nothing to predict
    ],
)
def test_a_label_is_sure_or_asked_for(columns: dict[str, list[str]], wanted: str | None) -> None:
    sample = shopping(returned=["1.5", "2.25", "3", "9"], **columns)
    if wanted is None:
        with pytest.raises(SettingsError, match="no column is surely the label") as caught:
            plan_of("p", sample, AskedRoles())
        assert "--label" in str(caught.value)
    else:
        assert plan_of("p", sample, AskedRoles()).roles.label.column == wanted


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (AskedRoles(label="returnd"), "no column `returnd`"),
        (AskedRoles(label="order_id", id="order_id"), "cannot be a label"),
        (AskedRoles(time="customer"), "is no time"),
        (AskedRoles(id="customer"), "is no id"),
        (AskedRoles(key="total"), "is no key"),
        (AskedRoles(without=("nothing",)), "no column `nothing`"),
    ],
)
def test_what_the_user_says_is_checked(asked: AskedRoles, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        plan_of("p", shopping(), asked)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_time_with_gaps_is_not_the_time_of_events() -> None:
    gaps = shopping(at=["2024-01-01T00:00:00Z", "", "2024-01-02T00:00:00Z", "2024-01-03T00:00:00Z"])
    assert plan_of("p", gaps, AskedRoles()).roles.time.column is None
    with pytest.raises(SettingsError, match="has no value in 1 rows"):
        plan_of("p", gaps, AskedRoles(time="at"))


def test_classes_are_texts_and_whole_numbers_that_say_so() -> None:
    texts = shopping(returned=["yes!", "no!", "later", "no!"])
    assert plan_of("p", texts, AskedRoles(label="returned")).task == "multiclass"
    numbers = ["0", "1", "2", "1"]
    assert plan_of("p", shopping(returned=numbers), AskedRoles(label="returned")).task == "regression"
    assert plan_of("p", shopping(**{"class": numbers}), AskedRoles(label="class")).task == "multiclass"


def test_rows_out_of_order_are_put_in_the_order_of_their_times() -> None:
    sample = table(
        """
        id  at                    label
        a   2024-01-02T00:00:00Z  1
        b   2024-01-01T00:00:00Z  0
        c   2024-01-02T00:00:00Z  0
        """
    )
    assert [row["id"] for row in plan_of("p", sample, AskedRoles()).events] == ["b", "a", "c"]


def test_labels_with_gaps_need_a_topic_of_their_own() -> None:
    gaps = shopping(returned=["true", "", "false", "true"])
    with pytest.raises(SettingsError, match="no value in 1 rows"):
        plan_of("p", gaps, AskedRoles(label="returned"))
    plan = plan_of("p", gaps, AskedRoles(label="returned"), LabelTimes(delay="30s"))
    assert [row["order_id"] for row in plan.labels] == ["a", "c", "d"]
    assert plan.wait == "1m"


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)), min_size=5, max_size=40
    ).filter(
        lambda rows: (
            len({a + b for a, b, _ in rows}) > 2
            and all(len(set(part)) > 1 for part in zip(*rows, strict=True))
        )
    )
)
def test_two_columns_whose_sum_is_the_label_are_found_and_no_others(rows: list[tuple[int, int, int]]) -> None:
    sums = [a + b for a, b, _ in rows]
    named = [
        {"a": str(a), "b": str(b), "c": str(c), "n": str(total)}
        for (a, b, c), total in zip(rows, sums, strict=True)
    ]
    plan = plan_of("p", SampleRows(("a", "b", "c", "n"), tuple(named), True, 0, True), AskedRoles(label="n"))
    columns: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for a, b, c in rows:
        for name, value in zip("abc", (a, b, c), strict=True):
            columns[name].append(value)
    wanted: set[Any] = {name for name, values in columns.items() if values == sums}
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    for one, other in pairs:
        if [x + y for x, y in zip(columns[one], columns[other], strict=True)] == sums:
            wanted |= {one, other}
    assert wanted >= {"a", "b"}
    others = {plan.roles.id.column, plan.roles.key.column, plan.roles.time.column}
    assert set(plan.roles.leaks) - others == wanted - others
