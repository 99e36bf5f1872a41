"""Every refusal of a command says why, and what can be done instead: no place that refuses is left out."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from river import linear_model

from operators.models.mixture import Mixture
from operators.models.scoring import Racer, Roster
from operators.monitor.acks import Acks
from operators.race import approval, commands
from operators.race.approval import Approvals
from operators.race.arena import REASON_MAX, Arena, Moment, Objection
from operators.race.commands import Commands
from operators.race.evidence import Promotion, Verdict
from operators.race.good_versions import GOOD_EVERY, GoodVersions
from topics.messages import Command, CommandWord, Decision

Words = list[tuple[str, dict[str, Any]]]


def copied(model: Any) -> Any:
    return model


class Race:
    """A champion `a`, challengers, `mix` of fixed weights among them, and a twin."""

    def __init__(self) -> None:
        racers = [
            Racer("a", linear_model.Perceptron(), version=1),
            Racer("b", linear_model.Perceptron(), version=2),
            Racer("mix", Mixture("binary", eta=0.5, share=0.01, fixed={"a": 1.0, "b": 3.0}), version=3),
            Racer("learned", Mixture("binary", eta=0.5, share=0.01), version=4),
            Racer("loop", linear_model.Perceptron(), version=5),
            Racer("sick", linear_model.Perceptron(), version=6),
            Racer("loop-twin", linear_model.Perceptron(), version=7, definition="loop", twin_of="loop"),
        ]
        promotion = Promotion(approve="manual", min_examples=1, cooldown=0)
        self.roster = Roster("binary", racers, "a")
        self.arena = Arena("p", 0, self.roster, promotion)
        self.approvals = Approvals(promotion, self.arena, "binary", 0.5, lambda _, __: 0.1)
        self.arena.approval = self.approvals
        self.good = GoodVersions(lambda _: b"model", lambda _: linear_model.Perceptron(), self.roster)
        self.commands = Commands(self.arena, self.good, self.approvals, Acks("p", {"lag_records"}))
        self.offset = 0

    def at(self, examples: int = 1) -> Moment:
        self.offset += 1
        return Moment(self.offset, self.offset, examples)

    def ask(self, word: Any, *, command_id: str = "", **told: Any) -> list[Decision]:
        at = self.at()
        return self.commands.act(at, Command(command_id or f"c{at.offset}", word, 7, **told))

    def prove(self, name: str) -> str:
        (opened,) = self.arena.swap(self.at(), [Verdict(name, 50.0, 40.0, 0.1, 1_000, 20)])
        return opened.decision_id

    def fail(self, name: str) -> None:
        self.arena.quarantine(self.at(), name, "sick", lambda _: 0.5)

    def keep(self) -> None:
        self.good.stop(self.at(GOOD_EVERY))

    def refused(self, word: str, **told: Any) -> tuple[str, str]:
        (decision,) = self.ask(word, **told)
        assert decision.type == "command.refused"
        assert decision.evidence["command_id"]
        return decision.reason, str(decision.evidence["fix"])


@pytest.fixture
def race() -> Race:
    found = Race()
    found.fail("sick")
    return found


CHALLENGERS = "challengers are: `b`, `mix`, `learned`, `loop`"
BLENDS = "blends of fixed weights are: `mix`"
SICK = "quarantined are: `sick`"
LEAVING = "beside the champion there are: `b`, `mix`, `learned`, `loop`, `sick`"
KEPT = "kept are: 1@0 of `a`, 2@0 of `b`, 3@0 of `mix`, 4@0 of `learned`, 5@0 of `loop`, 7@0 of `loop-twin`"
WEIGHTS = "give each a weight of 0 or more, as now: a=1 b=3"
SERVES = "nothing to do: it serves; `pin` keeps it serving"
NAMED = {"model_name": "zzz"}


@pytest.mark.parametrize(
    ("word", "told", "why", "fix"),
    [
        ("promote", {}, "promote needs a model_name", CHALLENGERS),
        (
            "ack",
            {},
            "ack needs an alert_id",
            "ids are as on the alerts topic: PIPELINE:ALERT:SUBJECT:TIME",
        ),
        (
            "ack",
            {"alert_id": "q:lag_records:0:1"},
            "`q:lag_records:0:1` is no id of an alert of p",
            "ids are as on the alerts topic: PIPELINE:ALERT:SUBJECT:TIME",
        ),
        (
            "ack",
            {"alert_id": "p:invented:0:1"},
            "`p` has no alert called `invented`",
            "ids are as on the alerts topic: PIPELINE:ALERT:SUBJECT:TIME",
        ),
        ("promote", NAMED, "there is no candidate `zzz`", CHALLENGERS),
        ("promote", {"model_name": "a"}, "`a` is the champion", f"{SERVES}; {CHALLENGERS}"),
        ("promote", {"model_name": "sick"}, "`sick` is quarantined", f"`release` it first; {CHALLENGERS}"),
        (
            "promote",
            {"model_name": "loop-twin"},
            "`loop-twin` is a twin",
            "`loop` is the one that serves, and its twin learns for it",
        ),
        ("pin", NAMED, "there is no candidate `zzz`", CHALLENGERS),
        ("pin", {"model_name": "sick"}, "`sick` is quarantined", f"`release` it first; {CHALLENGERS}"),
        (
            "unpin",
            {},
            "no champion is pinned",
            "nothing to do: evidence decides; `pin` keeps one serving",
        ),
        ("resume", {}, "learning is not paused", "nothing to do: examples are learned as they come"),
        ("retire", {}, "retire needs a model_name", LEAVING),
        ("retire", NAMED, "there is no candidate `zzz`", LEAVING),
        ("retire", {"model_name": "a"}, "`a` is the champion", f"`promote` another one first; {CHALLENGERS}"),
        (
            "retire",
            {"model_name": "loop-twin"},
            "`loop-twin` learns for `loop`, and is retired with it",
            "`retire` `loop`",
        ),
        ("release", {}, "release needs a model_name", SICK),
        ("release", NAMED, "there is no candidate `zzz`", SICK),
        ("release", {"model_name": "b"}, "`b` is a challenger", SICK),
        ("release", {"source": "x"}, "source `x` is not quarantined", "quarantined are: none"),
        ("weights", {}, "weights needs a model_name", BLENDS),
        ("weights", NAMED, "there is no candidate `zzz`", BLENDS),
        ("weights", {"model_name": "b"}, "`b` is no blend of fixed weights", BLENDS),
        (
            "weights",
            {"model_name": "learned"},
            "`learned`: its weights are learned; only a Blend(weights=...) takes others",
            BLENDS,
        ),
        ("weights", {"model_name": "mix"}, "`mix`: it needs a weight for each of: a, b", WEIGHTS),
        (
            "weights",
            {"model_name": "mix", "weights": {"a": 0.0, "b": 0.0}},
            "`mix`: one weight at least must be above 0",
            WEIGHTS,
        ),
        (
            "rollback",
            {},
            "there is no earlier champion",
            f"`promote` a challenger, or name a good version; {CHALLENGERS}; {KEPT}",
        ),
        ("rollback", {"to": "9@9"}, "`9@9` is no good version", KEPT),
        ("rollback", {"to": "1@0"} | NAMED, "there is no candidate `zzz`", KEPT),
        (
            "rollback",
            {"to": "1@0", "model_name": "b"},
            "`1@0` is no good version of `b`",
            "kept are: 2@0 of `b`",
        ),
        (
            "approve",
            {},
            "approve needs a proposal_id",
            "none is open; `promote` lets a challenger serve without one",
        ),
        (
            "refuse",
            {"proposal_id": "p:0:9:9"},
            "there is no open proposal `p:0:9:9`",
            "none is open; `promote` lets a challenger serve without one",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_on(
    race: Race, word: str, told: dict[str, Any], why: str, fix: str
) -> None:
    race.keep()
    assert race.refused(word, **told) == (why, fix)
    assert race.roster.champion == "a"


def test_what_is_done_already_is_refused(race: Race) -> None:
    race.ask("pause")
    assert race.refused("pause") == ("learning is paused already", "`resume` ends the pause")
    race.ask("pin")
    why, fix = race.refused("pin", model_name="a")
    assert why == "`a` is pinned already"
    assert "`unpin`" in fix


def test_an_id_that_was_used_is_refused(race: Race) -> None:
    race.ask("promote", model_name="b", command_id="x")
    assert race.refused("promote", model_name="a", command_id="x") == (
        "command_id `x` was another command's",
        "send it again under an id of its own",
    )


def test_before_a_version_is_kept_it_says_when_one_will_be(race: Race) -> None:
    _, fix = race.refused("rollback", to="1@0")
    assert fix == "none is kept yet: each model is, after every 10,000 examples"


def test_a_kept_version_of_one_in_quarantine_is_released_instead(race: Race) -> None:
    race.keep()
    race.fail("b")
    assert race.refused("rollback", to="2@0") == (
        "`b` is quarantined",
        "`release` it: it goes back to its last good version, 2@0",
    )


def test_open_proposals_are_named_and_one_that_is_void_is_said_to_be(race: Race) -> None:
    opened = race.prove("b")
    assert race.refused("approve", proposal_id="p:0:9:9")[1] == f"open are: `{opened}` of `b`"
    race.fail("b")
    why, fix = race.refused("approve", proposal_id=opened)
    assert (why, "`promote`" in fix) == ("`b` is quarantined", True)


def test_the_last_champion_in_quarantine_is_not_pinned() -> None:
    race = Race()
    for name in ("b", "mix", "learned", "loop", "sick", "a"):
        race.fail(name)
    why, fix = race.refused("pin")
    assert (why, fix) == ("`a` is quarantined", "`release` it first; challengers are: none")
    assert race.refused("release", model_name="loop-twin")[1].startswith("quarantined are: `a`, `b`")


def test_a_command_as_old_as_those_that_are_forgotten_is_refused(race: Race) -> None:
    race.commands._forgotten_ms = 8_000
    old = Command("kept", "promote", 8_000, model_name="b")
    (refused,) = race.commands.act(race.at(), old)
    assert (refused.type, refused.evidence["fix"]) == ("command.refused", "send it with the time of now")
    (done,) = race.commands.act(race.at(), msgspec.structs.replace(old, time=8_001))
    assert done.type == "model.promoted"


# -- no refusal is left out ---------------------------------------------------------------------------


def places(module: Any) -> Iterator[tuple[str, int]]:
    """Yield where a module makes a refusal, apart from those that it has made once and for all."""
    body = ast.parse(Path(module.__file__).read_text()).body
    for node in (within for top in body if not isinstance(top, ast.Assign) for within in ast.walk(top)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Objection":
            yield module.__name__, node.lineno


def test_every_place_that_refuses_is_asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[tuple[str, int], Objection] = {}

    def kept(why: str, fix: str) -> Objection:
        caller = sys._getframe(1)
        made[caller.f_globals["__name__"], caller.f_lineno] = refusal = Objection(why, fix)
        return refusal

    told: list[Objection | None] = []
    refusal_of = Commands._refusal

    def heard(self: Commands, command: Command) -> Objection | None:
        told.append(refusal_of(self, command))
        return told[-1]

    monkeypatch.setattr(Commands, "_refusal", heard)
    for module in (commands, approval):
        monkeypatch.setattr(module, "Objection", kept)
    (cases,) = [
        mark.args[1]
        for mark in test_what_cannot_be_done_is_refused_with_the_way_on.pytestmark  # type: ignore[attr-defined]
    ]
    race = Race()
    race.fail("sick")
    for word, fields, *_ in cases:
        race.refused(word, **fields)
    for test in (
        test_what_is_done_already_is_refused,
        test_an_id_that_was_used_is_refused,
        test_a_command_as_old_as_those_that_are_forgotten_is_refused,
        test_a_kept_version_of_one_in_quarantine_is_released_instead,
        test_open_proposals_are_named_and_one_that_is_void_is_said_to_be,
    ):
        one = Race()
        one.fail("sick")
        test(one)
    test_the_last_champion_in_quarantine_is_not_pinned()
    race.commands.refuse(race.at(), "no JSON", "")
    lines = {*places(commands), *places(approval)}
    assert len(lines) > 20
    assert lines <= made.keys(), sorted(lines - made.keys())
    ready = [constant for constant in vars(commands).values() if isinstance(constant, Objection)]
    assert ready
    assert all(constant in told for constant in ready)
    words = {*get_args(CommandWord), *race.roster.racers}
    for refusal in (*made.values(), *ready):
        assert refusal.why
        assert 0 < len(refusal.fix) <= REASON_MAX
        named = set(re.findall(r"`([^`]+)`", refusal.fix))
        assert {name for name in named if not name.startswith("p:")} <= words
