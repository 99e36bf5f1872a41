"""A checkpoint of another definition is refused with what differs, part by part and feature by feature."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.definition.text import NAMED_MAX, Change, check_definition
from topics.errors import CheckpointError

PATH = Path("state/pay/scorer-0.sqlite")
STORED = {"labels": "a", "features.n": "1a", "features.sum": "2b", "features.gone": "3c"}


def refused(stored: dict[str, str], current: dict[str, str], *, accept: bool = False) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        check_definition(stored, current, PATH, accept_features=accept)
    return caught.value


def test_the_same_definition_in_another_order_is_the_same() -> None:
    assert check_definition(STORED, dict(reversed(STORED.items())), PATH) == ()


def test_changed_features_are_named_with_both_versions_and_the_way_on() -> None:
    error = refused(STORED, {"labels": "a", "features.new": "9f", "features.n": "1a", "features.sum": "4d"})
    assert error.message == (
        "state/pay/scorer-0.sqlite was written by another definition: feature new is new, "
        "feature sum changed (2b -> 4d), feature gone is gone"
    )
    assert error.hint.startswith("to go on, `headrace run --accept-changed-features`: models keep")
    assert "go back to the old definition" in error.hint


def test_accepted_features_are_told() -> None:
    current = {"labels": "a", "features.new": "9f", "features.n": "1a", "features.sum": "4d"}
    assert check_definition(STORED, current, PATH, accept_features=True) == (
        Change("features.new", None, "9f"),
        Change("features.sum", "2b", "4d"),
        Change("features.gone", "3c", None),
    )


@pytest.mark.parametrize("accept", [False, True])
def test_whatever_else_changed_is_refused_in_every_case_and_named_first(accept: bool) -> None:
    error = refused(STORED, {**STORED, "labels": "b", "features.n": "5e"}, accept=accept)
    assert error.message.endswith("another definition: labels changed, feature n changed (1a -> 5e)")
    assert "--accept-changed-features" not in error.hint


def test_a_message_names_only_so_many() -> None:
    stored = {f"features.f{number}": "1" for number in range(NAMED_MAX + 7)}
    error = refused(stored, dict.fromkeys(stored, "2"))
    assert error.message.count("changed") == NAMED_MAX
    assert error.message.endswith(" and 7 more")
