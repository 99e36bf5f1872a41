"""The times of a model are of that model: not of the one that had its name, nor of those that have left."""

from __future__ import annotations

from engine.worker.budgets import ROWS_MIN, TURNS_MIN, Budgets
from operators.models.scoring import Racer


def measured(budgets: Budgets, name: str, ms: float) -> None:
    for _ in range(TURNS_MIN):
        rows = ROWS_MIN // TURNS_MIN + 1
        budgets.measure({("score", name): ms * rows / 1_000}, scored=rows, learned=0)


def test_another_model_of_the_name_begins_anew() -> None:
    budgets, tree = Budgets({"tree": 2.0}), Racer("tree", None, version=1)
    measured(budgets, "tree", 5.0)
    assert [slow.model_version for slow in budgets.over({"tree": tree}, 0)] == [1]
    assert budgets.over({"tree": tree}, 1) == [], "told once"
    tree.version = 2
    assert budgets.over({"tree": tree}, 2) == []
    measured(budgets, "tree", 1.0)
    assert budgets.over({"tree": tree}, 3) == []
    tree.version = 3
    assert budgets.over({"tree": tree}, 4) == []
    measured(budgets, "tree", 5.0)
    assert [slow.model_version for slow in budgets.over({"tree": tree}, 5)] == [3]


def test_nothing_is_kept_of_those_that_have_left() -> None:
    budgets = Budgets({"tree": 2.0})
    for version in range(1, 50):
        name = f"tree-{version}"
        measured(budgets, name, 5.0)
        budgets.over({name: Racer(name, None, version=version, definition="tree")}, version)
    assert len(budgets._spent_ms) == len(budgets._rows) == len(budgets._told) == 1
