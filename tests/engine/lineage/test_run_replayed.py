"""Dead letters go back to their topic: what was left out is answered and learned once, however often sent."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from reading import watching
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline
from test_run_ends import SOURCE, readings

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.lineage.letters import Chosen, LetterReplay, groups, letter_at
from engine.local.worker import environment
from engine.settings import KafkaSettings
from topics.letters import REPLAYS_MAX

COUNT, LEFT_OUT = 20, 3
EXAMPLES, AGAIN = "examples_total", "predictions_total{again}"
SKIPPED, REFUSED = "dead_letters_total{skip}", "dead_letters_total{decode}"
DECODE, SKIP = Chosen(stage="decode"), Chosen(stage="skip")


async def replayed(pipeline: Pipeline, kafka: KafkaSettings, chosen: Chosen, **limits: int) -> LetterReplay:
    replay = LetterReplay(pipeline, kafka, chosen, records_max=limits.get("records_max", 100))
    await replay.send(rate=1_000)
    return replay


def typed(kafka: KafkaSettings, folder: Path, *words: str) -> tuple[int, Any]:
    """Type a command of `dlq`; return its exit code and the JSON that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "dlq", *words],
        env=environment(kafka, state_dir=folder / "none", web_port=0),
        capture_output=True,
        check=False,
    )
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def test_what_was_left_out_is_answered_and_learned_once(tansu: KafkaSettings, tmp_path: Path) -> None:
    file = write_pipeline(tmp_path, SOURCE, name=fresh_name("replayed"))
    pipeline = load_pipeline(file)
    events, answers = pipeline.events.name, pipeline.catalog["predictions"]

    async def scenario() -> None:
        await make_topics(tansu, pipeline)
        await publish(tansu, [*readings(pipeline, COUNT), Message(events, 1_700_000_000_000, b"s", b"{")])
        worker = Worker(file, tansu, tmp_path).start("--skip", f"{events}:0:{LEFT_OUT}")
        with worker:

            async def counted(wanted: dict[str, int]) -> None:
                def holds() -> bool:
                    found = worker.metrics()
                    return all(found[f"headrace_{name}"] == count for name, count in wanted.items())

                await until(holds, f"{wanted}", worker=worker)

            async with watching(tansu, answers, pipeline.catalog["examples"]) as watch:
                await counted({EXAMPLES: COUNT - 1, SKIPPED: 1, REFUSED: 1})
                replay = await replayed(pipeline, tansu, SKIP, records_max=1)
                assert (replay.records, replay.repeats, dict(replay.refused)) == (1, 0, {})
                await counted({EXAMPLES: COUNT, AGAIN: 0})
                await replayed(pipeline, tansu, SKIP)
                await counted({EXAMPLES: COUNT, AGAIN: 1})
                for tries in range(1, REPLAYS_MAX + 1):
                    replay = await replayed(pipeline, tansu, DECODE)
                    assert (replay.records, replay.repeats) == (1, tries - 1)
                    await counted({REFUSED: 1 + tries})
                replay = await replayed(pipeline, tansu, DECODE)
                assert (replay.records, replay.repeats) == (0, REPLAYS_MAX)
                assert [*replay.refused] == [f"it was replayed {REPLAYS_MAX} times and refused each time"]
                assert await worker.stop() == 0, worker.said()
                await until(lambda: watch.counted(answers) >= COUNT, "all answers")
                assert set(watch.counts[answers]) == {f"r{number}" for number in range(COUNT)}
                assert watch.counted(pipeline.catalog["examples"]) == COUNT

    async def look() -> None:
        found = await groups(pipeline, tansu, DECODE)
        assert [(group.letters, group.replayed) for group in found.values()] == [
            (1 + REPLAYS_MAX, REPLAYS_MAX)
        ]
        (name,) = found
        assert name[:2] == (events, "decode")
        skipped = next(iter((await groups(pipeline, tansu, SKIP)).values())).first
        letter = await letter_at(pipeline, tansu, skipped.letter.partition, skipped.letter.offset)
        assert letter == skipped
        assert await letter_at(pipeline, tansu, 0, 1_000) is None

    asyncio.run(scenario())
    asyncio.run(look())
    code, listed = typed(tansu, tmp_path, "list", str(file), "--json")
    assert (code, sorted((row["stage"], row["letters"]) for row in listed)) == (
        0, [("decode", 1 + REPLAYS_MAX), ("skip", 1)],
    )  # fmt: skip
    code, shown = typed(tansu, tmp_path, "show", str(file), listed[0]["last"])
    assert (code, shown["value"], shown["topic"], shown["replayed"]) == (0, "{", events, REPLAYS_MAX)
    code, said = typed(tansu, tmp_path, "replay", str(file), "--dry-run", "--json")
    assert (code, said["records"], said["sent"], sum(said["refused"].values())) == (1, 1, False, 1)
