"""The model check of claims: random schedules of crashes, zombies, lost and repeated records.

In each run some thirty owners live and die in a small world (`claims_world.py`) around the real
protocol (`claims_owner.py`); at the end a reader that shares no code with it says whether every
promise held.  Then each step of the protocol is left out in turn, and the check must fail.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from claims_owner import Owner, State
from claims_world import LOSSES_MAX, SOURCES, WAIT, Event, Violation, World, require, source_of

import operators.claims.takeover as protocol
from operators.claims.rule import Log, Reader
from topics.messages import Claim, Command, Example, Prediction

RUNS = int(os.environ.get("HEADRACE_MODEL_RUNS", "800"))
BROKEN_RUNS_MAX = 6_000
"""A world with a step left out must break within so many runs; most do at once."""
OWNERS = 30
STEPS_MAX = 100_000


def run(world: World) -> list[State]:
    """Let owners live and die, then let one per source finish in peace; return its state."""
    rng, counts = world.rng, world.counts
    owners: list[Owner] = []
    network_delay = rng.choice((0.5, 0.7, 0.9))

    def start(source: int, *, reliable: bool = False) -> Owner:
        owners.append(Owner(world, source, reliable=reliable))
        return owners[-1]

    def step(owner: Owner) -> None:
        try:
            next(owner.life)
        except StopIteration:
            owners.remove(owner)

    while counts["owners"] < OWNERS:
        chance = rng.random()
        if chance < 0.008 or not owners:
            start(rng.randrange(SOURCES))
        elif chance < 0.01:
            crashed = owners.pop(rng.randrange(len(owners)))
            world.network.crash(crashed.sender)
            counts["crashes mid-stream"] += crashed.unsaved
        elif chance < 0.012:
            source = rng.randrange(SOURCES)
            if world.lose(source) and rng.random() < 0.5:
                start(source)
        elif chance < network_delay:
            step(rng.choice(owners))
        else:
            world.network.deliver()
    counts["runs with six losses"] += counts["stores gone back"] + counts["stores emptied"] == LOSSES_MAX

    states = []
    for source in range(SOURCES):
        last = start(source, reliable=True)
        for _ in range(STEPS_MAX):
            if last.finished is not None:
                break
            if last not in owners:
                last = start(source, reliable=True)
            step(last)
            if owners and rng.random() < 0.3:
                step(rng.choice(owners))
            world.network.deliver()
        require(last.finished is not None, "the last owner never ends")
        states.append(last.finished)
    while not world.network.idle():
        world.network.deliver()
    return states


# -- what must hold -----------------------------------------------------------------------------------


def counting(world: World, log: Log, source: int) -> list[Any]:
    """Return the records of `source` that count, by the rule as the design states it: reign by reign."""
    left_out, counts = world.left_out, world.counts
    reigns: list[tuple[int, list[Any]]] = [(0, [])]
    for value in world.logs.values[log]:
        if isinstance(value, Command) or source_of(log, value) != source:
            continue
        reigning, values = reigns[-1]
        if isinstance(value, Claim):
            if value.claim > reigning or (left_out == "highest claim" and 0 < value.claim != reigning):
                reigns.append((value.claim, []))
        elif value.claim == reigning:
            values.append(value)
        else:
            counts["superseded records"] += 1
    counted = []
    for _, values in reigns:
        following = 0
        for value in values:
            if value.sequence == following or (left_out == "gaps" and value.sequence > following):
                counted.append(value)
                following = value.sequence + 1
            elif value.sequence > following:
                counts["gaps"] += 1
                break
            else:
                counts["repeats"] += 1
                if left_out == "repeats":
                    counted.append(value)
    return counted


def by_reader(world: World, log: Log, source: int) -> list[Any]:
    """Return the same by the real reader, made anew from its deltas now and then."""
    reader, entries, counted = Reader(), {}, []
    for value in world.logs.values[log]:
        if isinstance(value, Command):
            continue
        owner = source_of(log, value)
        if isinstance(value, Claim):
            reader.claim(owner, value.claim)
        elif reader.counts(owner, value.claim, value.sequence) and owner == source:
            counted.append(value)
        if world.rng.random() < 0.1:
            entries |= reader.delta()
            reader = Reader()
            reader.restore(entries)
    return counted


def originals(events: list[Event]) -> list[int]:
    """Return for each event the offset of the one it repeats, or its own; -1 beyond the horizon."""
    found: list[int] = []
    within: dict[str, tuple[int, int]] = {}
    watermark = -1
    for offset, (event_id, time) in enumerate(events):
        if event_id in within:
            found.append(within[event_id][0])
            continue
        watermark = max(watermark, time)
        within = {name: entry for name, entry in within.items() if entry[1] + WAIT >= watermark}
        opens = time + WAIT >= watermark
        if opens:
            within[event_id] = (offset, time)
        found.append(offset if opens else -1)
    return found


def check(world: World, states: list[State]) -> None:
    """Raise Violation unless every promise was kept."""
    for source, last in enumerate(states):
        answers = once("an event was answered twice", counting(world, ("predictions", source), source))
        require(len(answers) == len(world.events[source]), "an event was not answered")
        original = originals(world.events[source])
        for offset, answer in answers.items():
            if original[offset] not in (offset, -1):
                world.counts["duplicates answered"] += 1
                same = answer.features == answers[original[offset]].features
                require(same, "a duplicate was answered differently")

        logs = [("examples", number) for number in range(world.logs.examples_partitions)]
        found = [example for log in logs for example in counting(world, log, source)]
        examples = once("an example was learned twice", [one for one in found if one.before is None])
        check_corrections(found, last)
        for offset, example in examples.items():
            answer = answers[offset]
            served = (answer.event_id, answer.features, answer.prediction_score)
            learned = (example.event_id, example.features, example.served_score)
            require(served == learned, "what was learned is not what was served")
            require(original[offset] == offset, "an example of a duplicate")
        require(last.made <= examples.keys(), "an example was lost")
        if world.implicit is not None:
            opened = [offset for offset, first in enumerate(original) if offset == first]
            due = {offset for offset in opened if answers[offset].event_time + WAIT < last.time_max}
            require(due <= examples.keys(), "an event got no implicit label")


def check_corrections(found: list[Example], last: State) -> None:
    """Raise Violation unless each correction is there once, behind what it corrects."""
    holds: dict[int, object] = {}
    corrected: set[tuple[int, int]] = set()
    for one in found:
        place = one.event_offset, one.label_offset
        if one.before is not None:
            require(one.event_offset in holds, "a correction comes before what it corrects")
            require(one.before == holds[one.event_offset], "a correction is of another label")
            require(place not in corrected, "a correction was learned twice")
            corrected.add(place)
        holds[one.event_offset] = one.label
    require(last.corrected <= corrected, "a correction was lost")


def once(what: str, records: list[Any]) -> dict[int, Any]:
    """Return records by the offset of their event, of which there may be one each."""
    found: dict[int, Prediction | Example] = {}
    for record in records:
        require(record.event_offset not in found, what)
        found[record.event_offset] = record
    return found


# -- the tests ----------------------------------------------------------------------------------------


def test_every_promise_holds_whatever_happens() -> None:
    happened: Counter[str] = Counter()
    for seed in range(RUNS):
        world = World(seed)
        try:
            check(world, run(world))
            for log in world.logs.values:
                for source in range(SOURCES):
                    same = by_reader(world, log, source) == counting(world, log, source)
                    require(same, "the reader counts otherwise")
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}")
        happened += world.counts
    for what in (
        "crashes mid-stream",
        "restores mid-stream",
        "suppressed answers",
        "suppressed examples",
        "superseded records",
        "saved while replaying",
        "fenced at a checkpoint",
        "found out before a checkpoint",
        "went on during a save",
        "kept",
        "not kept",
        "stores gone back",
        "stores emptied",
        "runs with six losses",
        "mended a store",
        "mended an empty store",
        "started over",
        "another base at a checkpoint",
        "lost sends",
        "repeats",
        "gaps",
        "implicit labels",
        "corrections",
        "suppressed corrections",
        "duplicates answered",
    ):
        assert happened[what] > RUNS / 10, f"{what}: {happened[what]} times in {RUNS} runs"


def test_what_is_kept_may_be_kept_unasked() -> None:
    """An owner that goes on by itself is one that was slow: what it does in vain does not count."""
    kept = 0
    for seed in range(RUNS // 4):
        world = World(seed, "asking whether it is kept")
        check(world, run(world))
        kept += world.counts["kept"]
    assert kept > RUNS / 4


class Newest(Reader):
    """A reader that takes the newest claim for the highest."""

    def claim(self, source: int, number: int) -> None:
        if 0 < number != self.highest(source):
            self._sources[source] = (number, 0)


class Gappy(Reader):
    """A reader that goes on after a gap."""

    def counts(self, source: int, claim: int, sequence: int) -> bool:
        held, following = self._sources.get(source, (0, 0))
        if claim == held > 0 and sequence > following:
            self._sources[source] = (held, sequence)
        return super().counts(source, claim, sequence)


class Repeating(Reader):
    """A reader that counts repeats."""

    def counts(self, source: int, claim: int, sequence: int) -> bool:
        held, following = self._sources.get(source, (0, 0))
        return super().counts(source, claim, sequence) or (claim == held > 0 and sequence < following)


READERS: dict[str, type[Reader]] = {"highest claim": Newest, "gaps": Gappy, "repeats": Repeating}


@pytest.mark.parametrize(
    "left_out",
    [
        "claim records",
        "announcement",
        "nonce",
        "base of a delta",
        "suppression",
        "suppression of corrections",
        "the label in the log",
        "highest claim",
        "gaps",
        "repeats",
        "flush before checkpoint",
        "numbers of the cut",
        "acknowledgements of the cut",
        "predictions before examples",
        "examples claimed before predictions",
        "reuse of logged answers",
        "old positions while replaying",
        "asking the join",
        "look before checkpoint",
        "look before keeping",
        "counting after the look",
        "any fence",
    ],
)
def test_no_step_can_be_left_out(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "Reader", READERS.get(left_out, Reader))
    if left_out == "examples claimed before predictions":
        in_order = protocol.claimed_logs
        monkeypatch.setattr(protocol, "claimed_logs", lambda *which: in_order(*which)[::-1])
    for seed in range(BROKEN_RUNS_MAX):
        world = World(seed, left_out)
        try:
            check(world, run(world))
        except Violation:
            return
    pytest.fail(f"{BROKEN_RUNS_MAX} runs without {left_out} and nothing broke")
