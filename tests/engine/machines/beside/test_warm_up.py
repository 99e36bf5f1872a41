"""What a candidate learns before it enters is what the offsets say."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from river import naive_bayes
from test_field_records import claimed, example, log

from engine.machines.beside.warm_up import WarmUp
from operators.models.digest import digest
from topics.messages import Example

EXAMPLES = [example(number) for number in range(40)]
LOG = claimed(log(*EXAMPLES))
"""Offset n + 1 is example n, whose label time is n + 5."""


def taught(examples: list[Example]) -> str:
    model = naive_bayes.GaussianNB()
    for one in examples:
        model.learn_one(one.features, one.label)
    return digest(model)


@pytest.mark.parametrize("cut", [1, 7, 41])
def test_each_candidate_learns_from_its_own_place_on(cut: int) -> None:
    warm = WarmUp(
        {"all": naive_bayes.GaussianNB(), "last": naive_bayes.GaussianNB()}, {"all": -1, "last": 30}
    )
    for first in range(0, len(LOG), cut):
        warm.fold(LOG[first : first + cut])
    assert digest(warm.models["all"]) == taught(EXAMPLES)
    assert digest(warm.models["last"]) == taught(EXAMPLES[25:])
    assert warm.brought("all", "x") == ("x", 40, 1, 41)
    assert warm.brought("last", "x") == ("x", 15, 26, 41)


def test_what_does_not_count_is_not_learned() -> None:
    warm = WarmUp({"all": naive_bayes.GaussianNB()}, {"all": -1})
    twice = [*LOG[:10], *(replace(record, offset=record.offset + 5) for record in LOG[5:])]
    warm.fold(twice)
    assert digest(warm.models["all"]) == taught(EXAMPLES)


class Brittle(naive_bayes.GaussianNB):
    def learn_one(self, x: object, y: object) -> None:  # noqa: ARG002
        raise RuntimeError("no")


def test_one_that_fails_stays_out_and_the_others_go_on() -> None:
    warm = WarmUp({"sick": Brittle(), "all": naive_bayes.GaussianNB()}, {"sick": -1, "all": -1})
    warm.fold(LOG)
    assert warm.take_failed() == {"sick": "RuntimeError: no, at the lesson of offset 1"}
    assert warm.take_failed() == {}
    assert digest(warm.models["all"]) == taught(EXAMPLES)
