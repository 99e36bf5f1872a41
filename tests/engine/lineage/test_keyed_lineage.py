"""With `per=`, what is asked about a key's race is answered as the key's own pipeline would answer it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from keyed_world import COMMANDS, KEYED, KEYS, PLAIN, factory_of, folded, inputs, log_of, played
from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from engine.lineage.explanation import explained, replayed
from engine.lineage.reproduction import exported, reproduce
from engine.lineage.sources import PipelineLogs
from engine.machines.keyed.keyed_learner import KeyedLearner
from engine.offline.backtest import LocalRun
from engine.offline.keyed.keyed_backtest import KeyedRun
from engine.offline.keyed.one_race import RaceLog
from engine.offline.replay import Replay, recorded_line
from engine.settings import Settings
from engine.worker.assembly import build_keyed_learner, build_learner, race_pointer_of
from operators.models.digest import digest
from operators.models.signing import SigningKeys
from topics import headers
from topics.codec import encode
from topics.messages import Command, FieldChange, Outgoing, Record

ROWS = [(KEYS[n * n % 7 % 3], ((n * 37) % 101 - 50) / 50, n % 4 - 1) for n in range(240)]
KEYS_OF_ALL = SigningKeys({"": b"k" * 32})


def recorded(
    folder: Path, pipeline: Pipeline, out: Sequence[Outgoing], examples: Sequence[Record]
) -> PipelineLogs:
    """Write what `headrace tail` would have printed, and return the logs that read it."""
    folder.mkdir()
    begins = encode(FieldChange(PLAIN.field.field_id, 0))
    log = [
        Record("shops.examples", 0, 0, 0, b"", begins, headers.FIELD),
        *(replace(one, offset=one.offset + 1) for one in examples),
    ]
    made = build_learner if pipeline.per is None else build_keyed_learner
    learner = made(pipeline, source=factory_of(PLAIN))
    decided = folded(learner, log)
    races = [learner.races.peek(key) for key in KEYS] if isinstance(learner, KeyedLearner) else []
    pointers = [race_pointer_of(pipeline, race, learner.position) for race in races if race is not None]
    answers = [one for one in out if one.target == "predictions"]
    name = pipeline.name.encode()
    files = {
        "predictions": [
            Record("", 0, at, None, one.key, one.value, one.headers) for at, one in enumerate(answers)
        ],
        "examples": log,
        "decisions": [Record("", 0, at, None, name, encode(one)) for at, one in enumerate(decided)],
        "models": [Record("", 0, at, None, name, encode(one)) for at, one in enumerate(pointers)],
    }
    for role, records in files.items():
        (folder / f"{role}.jsonl").write_bytes(b"".join(recorded_line(one) + b"\n" for one in records))
    return PipelineLogs(pipeline, Settings(state_dir=folder / "none"), folder)


def run_alone(key: str) -> tuple[LocalRun, list[Outgoing]]:
    """Play what the whole run plays, of one key, in a pipeline without `per`."""
    run, out = LocalRun(PLAIN, source=factory_of(PLAIN), keep_examples=True), list[Outgoing]()
    events, labels = inputs(ROWS)
    run.scorer.intake.offer_labels([one for one in labels if one.key == key.encode()])
    run.scorer.intake.offer_events([one for one in events if one.key == key.encode()])
    while (left := run.advance()) is not None:
        out += left
    return run, out


@pytest.fixture(scope="module")
def all_logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PipelineLogs]:
    """The logs of the whole run under the empty name, and of each key's own run."""
    folder = tmp_path_factory.mktemp("recorded")
    run = KeyedRun(KEYED, source=factory_of(PLAIN), keep_examples=True)
    out = played(run, ROWS)
    logs = {"": recorded(folder / "all", KEYED, out, run.examples or ())}
    for number, key in enumerate(KEYS):
        alone, out = run_alone(key)
        logs[key] = recorded(folder / str(number), PLAIN, out, alone.examples or ())
    return logs


async def explanation(logs: PipelineLogs, event_id: str) -> dict[str, Any]:
    answer = await logs.prediction(event_id)
    logs = logs.race_of(answer)
    example = await logs.example(answer.message)
    told = explained(logs.pipeline, await logs.history(), answer, example)
    return told | await replayed(await logs.replay(), answer.message, example)


def placeless(told: Any) -> Any:
    """Return an explanation without what says where in the logs things lie."""
    if isinstance(told, Mapping):
        places = {"decision_id", "sequence"}
        return {
            name: placeless(value)
            for name, value in told.items()
            if name not in places and not name.endswith("offset")
        }
    return [placeless(one) for one in told] if isinstance(told, list) else told


def test_an_answer_is_explained_as_in_a_pipeline_of_its_key_alone(all_logs: dict[str, PipelineLogs]) -> None:
    seen = set()
    for number in (*range(6), *range(60, 80), *range(220, 240)):
        key = ROWS[number][0]
        told = asyncio.run(explanation(all_logs[""], f"e{number}"))
        assert placeless(told) == placeless(asyncio.run(explanation(all_logs[key], f"e{number}")))
        seen.add((key, told["served"]["version"], told["label"] is None))
    assert {key for key, _, _ in seen} == {*KEYS}
    assert {unlabelled for _, _, unlabelled in seen} == {False, True}
    assert len({version for _, version, _ in seen}) > 2, "nothing has changed hands"


def race_log(records: Sequence[Record], key: str) -> list[Record]:
    """Return the log of a key's race, taken out of these records."""

    class Log:
        async def read(self, _start: int | None = None) -> Any:
            yield list(records)

    async def read() -> list[Record]:
        return [record async for batch in RaceLog(Log(), key).read() for record in batch]

    return asyncio.run(read())


def test_the_log_of_a_race_gives_its_models_whatever_acts_on_others() -> None:
    """Commands, those of others too, and pauses of all."""
    asked = COMMANDS | {40: Command("p", "pause", 5), 60: Command("r", "resume", 6)}
    _, log = log_of([("b", 0.5, 0), ("a", 0.5, 0)] * 8 + ROWS, asked)
    learner = build_keyed_learner(KEYED, source=factory_of(PLAIN))
    decisions = folded(learner, log)
    for key in KEYS:
        alone = build_learner(PLAIN, source=factory_of(PLAIN), key=key)
        own = race_log(log, key)
        assert [one.offset for one in own] == [one.offset for one in log]
        of_alone = [one for one in folded(alone, own) if not one.type.startswith("learning.")]
        race = learner.races.peek(key)
        assert race is not None
        assert race.digests() == alone.digests()
        assert [one for one in decisions if one.key == key] == of_alone


@pytest.mark.parametrize("end", [60, 500])
def test_a_lesson_that_a_pause_held_back_is_found_behind_its_end(end: int) -> None:
    """Where the pause has no end in the log, it was not learned."""
    _, log = log_of(ROWS, {20: Command("p", "pause", 5), end: Command("r", "resume", 6)})
    own = race_log(log, "a")
    held = [one.offset for one in own if one.value is not None and 22 < one.offset < 60]
    assert len(held) > 5

    class Log:
        async def read(self, start: int | None = None) -> Any:
            if left := [one for one in own if one.offset >= (start or 0)]:
                yield left

    async def learned() -> list[int]:
        replay, counts = Replay(PLAIN, Log(), source=factory_of(PLAIN), key="a", begins=PLAIN.field), []
        for offset in held:
            await replay.to(offset)
            before = replay.learner.examples
            await replay.to(offset + 1)
            counts.append(replay.learner.examples - before)
        return counts

    assert asyncio.run(learned()) == [int(end == 60)] * len(held)


def test_recorded_states_of_a_race_are_reproduced_and_exported(all_logs: dict[str, PipelineLogs]) -> None:
    answer = asyncio.run(all_logs[""].prediction("e0"))
    logs = all_logs[""].race_of(answer)
    history = asyncio.run(logs.history(fold=True))
    states = {one.version: one.states[-1] for one in history.versions.values() if one.states}
    run = KeyedRun(KEYED, source=factory_of(PLAIN))
    played(run, ROWS)
    race = run.learner.races.peek(ROWS[0][0])
    assert race is not None
    assert {version: state.digest for version, state in states.items() if state.record == "fold"} == {
        racer.version: digest(racer.model) for racer in race.roster.racers.values()
    }
    result = asyncio.run(reproduce(logs, "champion"))
    assert result["reproduced"], json.dumps(result)
    assert result["decisions_compared"] > 3
    champion = race.roster.racers[race.roster.champion]
    _, meta = asyncio.run(exported(logs, "champion", KEYS_OF_ALL))
    assert (meta["version"], meta["updates"], meta["digest"]) == (
        champion.version,
        champion.updates,
        digest(champion.model),
    )
