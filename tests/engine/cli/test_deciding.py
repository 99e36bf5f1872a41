"""The messages that `headrace models` sends, word by word, without a broker."""

import json
from typing import Any

import pytest
from paths import CHECKOUT
from typer.testing import CliRunner

from engine.cli.main import app
from topics.codec import decode_command

FLIGHTS = str(CHECKOUT / "examples" / "flights" / "pipeline.py")


def message(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["models", words[0], FLIGHTS, *words[1:], "--dry-run"])
    assert done.exit_code == 0, (done.output, done.exception)
    decode_command(done.stdout.encode())
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (("promote", "linear"), {"command": "promote", "model_name": "linear"}),
        (("pin", "linear"), {"command": "pin", "model_name": "linear"}),
        (("pin",), {"command": "pin"}),
        (("unpin",), {"command": "unpin"}),
        (("pause",), {"command": "pause"}),
        (("resume",), {"command": "resume"}),
        (("rollback",), {"command": "rollback"}),
        (("rollback", "--to", "3@40000"), {"command": "rollback", "to": "3@40000"}),
        (
            ("rollback", "--to", "3@40000", "--model", "tree"),
            {"command": "rollback", "to": "3@40000", "model_name": "tree"},
        ),
        (("release", "tree"), {"command": "release", "model_name": "tree"}),
        (("retire", "tree"), {"command": "retire", "model_name": "tree"}),
        (("approve", "flights:0:7:0"), {"command": "approve", "proposal_id": "flights:0:7:0"}),
        (("refuse", "flights:0:7:0"), {"command": "refuse", "proposal_id": "flights:0:7:0"}),
        (
            ("weights", "blend", "tree=0.7", "linear=0.3"),
            {"command": "weights", "model_name": "blend", "weights": {"tree": 0.7, "linear": 0.3}},
        ),
    ],
)
def test_a_command_is_one_message(words: tuple[str, ...], fields: dict[str, Any]) -> None:
    told = message(*words, "--reason", "why", "--actor", "ada")
    assert told.pop("command_id")
    assert told.pop("time") > 1_700_000_000_000
    assert told == fields | {"reason": "why", "actor": "ada"}


def test_a_source_of_labels_is_released_by_a_command_of_the_same_shape() -> None:
    words = ["labels", "release", str(FLIGHTS), "scanner 7", "--dry-run", "--reason", "why", "--actor", "ada"]
    told = json.loads(CliRunner().invoke(app, words).output)
    assert told.pop("command_id")
    assert told.pop("time")
    assert told == {"command": "release", "source": "scanner 7", "reason": "why", "actor": "ada"}


def test_no_two_commands_have_one_id() -> None:
    ids = [message("unpin")["command_id"] for _ in range(3)]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    "words", [("weights", FLIGHTS, "blend", "tree"), ("rollback", FLIGHTS, "--model", "tree")]
)
def test_half_a_command_is_wrong_usage(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["models", *words, "--dry-run"])
    assert done.exit_code == 2
