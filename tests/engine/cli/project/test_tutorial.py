"""The tutorial, run: from a CSV file to a live page, by the very commands that stand in it, in order."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from paths import CHECKOUT

TUTORIAL = CHECKOUT / "docs" / "tutorial.md"
DEADLINE_S = 120.0
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in BLOCK.findall(TUTORIAL.read_text()) for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


def test_the_tutorial_goes_from_a_file_to_a_live_page() -> None:
    kinds = [words[1] if words[0] == "headrace" else words[0] for words in commands()]
    assert kinds == ["python", "init", "check", "backtest", "python", "dev"]


def prepared(words: list[str]) -> list[str]:
    """A command with this installation's programs, and from any folder."""
    found = [str(CHECKOUT / word) if word.startswith("examples/") else word for word in words]
    if found[0] == "headrace":
        return [sys.executable, "-m", "headrace", *found[1:]]
    assert found[0] == "python"
    # As outside of this checkout: its pytest settings are not the project's.
    alone = ["-c", os.devnull, "-p", "no:cacheprovider"] if "pytest" in found else []
    return [sys.executable, *found[1:], *alone]


def page_of(process: subprocess.Popen[str]) -> str:
    """The address of the page, once it is told."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"the page is (http\S+)", line):
            return found[1]
    pytest.fail(f"dev ended with {process.wait()}")


def answered(page: str) -> int:
    with urllib.request.urlopen(f"{page}metrics", timeout=DEADLINE_S) as answer:
        rows = re.findall(r"^headrace_predictions_total\S* (\d+)", answer.read().decode(), re.MULTILINE)
    return sum(map(int, rows))


def test_every_command_of_it_works(tmp_path: Path) -> None:
    *before, live = commands()
    said = {}
    for words in before:
        done = subprocess.run(
            prepared(words), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        said[words[1]] = done.stdout
    with (tmp_path / "bikes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = re.search(r"```\n(bikes  regression.*?)```", TUTORIAL.read_text(), re.DOTALL)
    assert shown is not None
    printed = {" ".join(line.split()) for line in said["init"].splitlines()}
    wanted = [" ".join(line.split()) for line in shown[1].splitlines()]
    assert not [line for line in wanted if not any(one.startswith(line) for one in printed)]
    assert f"{len(rows):,} events" in said["init"]
    events = [json.loads(line) for line in (tmp_path / "bikes" / "events.jsonl").read_text().splitlines()]
    assert [event["cnt"] for event in events] == [int(row["cnt"]) for row in rows]
    assert "served" in said["backtest"]
    assert "2 passed" in said["-m"]

    with subprocess.Popen(prepared(live), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            page = page_of(process)
            with urllib.request.urlopen(page, timeout=DEADLINE_S) as answer:
                assert b"<title>" in answer.read()
            deadline = time.monotonic() + DEADLINE_S
            while answered(page) < 100:
                assert time.monotonic() < deadline, "no answers came"
                time.sleep(0.2)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            rest = process.stdout.read()
        assert process.wait(DEADLINE_S) == 0
    assert "next: headrace topics create" in rest


@pytest.mark.data
def test_the_real_bikes_have_the_columns_of_the_made_ones(tmp_path: Path) -> None:
    real = CHECKOUT.parent / "shared" / "data" / "bikes" / "hour.csv"
    made = tmp_path / "bikes.csv"
    script = CHECKOUT / "examples" / "bikes" / "make_sample.py"
    subprocess.run([sys.executable, str(script), str(made)], check=True, timeout=DEADLINE_S)
    again = tmp_path / "again.csv"
    subprocess.run([sys.executable, str(script), str(again)], check=True, timeout=DEADLINE_S)
    assert made.read_bytes() == again.read_bytes()
    assert made.read_text().splitlines()[0] == real.read_text().splitlines()[0]
