"""Commands under keys: a worker acts on those that are signed, and knows who asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from reading import read_topic
from running import Worker, fresh_name, make_topics, write_pipeline
from test_run_ends import SOURCE

from engine.definition.file import load_pipeline
from engine.local.worker import environment
from engine.settings import ENV_PREFIX, KafkaSettings
from topics.codec import decode_decision

KEYS = {"ada": "the key that ada has", "pipeline-ci": "the key that a robot has"}
OWN = {"web__token": "who sees the figures", "signing_key": "the key that models have"}
ONE = 'models={"linear": linear_model.LogisticRegression()}'
TWO = ONE[:-1] + ', "other": linear_model.LogisticRegression(l2=0.1)}, champion="linear"'


def asked(kafka: KafkaSettings, folder: Path, keys: dict[str, str], *words: str) -> tuple[int, str]:
    """Type a command; return its exit code and what it said."""
    given = environment(kafka, state_dir=folder / "of-ada", web_port=0)
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "models", *words],
        env=given | ({f"{ENV_PREFIX}COMMAND_KEYS": json.dumps(keys)} if keys else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_only_signed_commands_act_and_the_key_says_who(tansu: KafkaSettings, tmp_path: Path) -> None:
    file = write_pipeline(tmp_path, SOURCE.replace(ONE, TWO), name=fresh_name("signed"))
    pipeline, promote = load_pipeline(file), ("promote", str(file), "other")

    async def scenario() -> None:
        await make_topics(tansu, pipeline)
        settings = {"command_keys": json.dumps(KEYS), "log_level": "debug", **OWN}
        with Worker(file, tansu, tmp_path, **settings) as worker:
            await worker.ready()

            async def ask(keys: dict[str, str], *words: str) -> tuple[int, str]:
                return await asyncio.to_thread(asked, tansu, tmp_path, keys, *words)

            code, said = await ask({}, *promote, "--actor", "ada")
            assert code == 1, said
            assert "not signed" in said
            assert "HEADRACE_COMMAND_KEYS" in said
            code, said = await ask({"ada": "a key of somebody else"}, *promote)
            assert code == 1, said
            assert "not signed with the key of `ada`" in said
            code, said = await ask(KEYS, *promote)
            assert code == 2, said
            assert "more than one key" in said
            code, said = await ask({"pipeline-ci": KEYS["pipeline-ci"]}, *promote)
            assert code == 0, said
            assert await worker.stop() == 0
            said = worker.log.read_text()
            assert "aiokafka" in said, "what libraries say is there too"
            assert not [key for key in (*KEYS.values(), *OWN.values()) if key in said]

    asyncio.run(scenario())
    records = asyncio.run(read_topic(tansu, pipeline.catalog["decisions"]))
    decisions = [decode_decision(record.value) for record in records]
    acted = [(one.type, one.actor) for one in decisions if "command_id" in one.evidence]
    assert acted == [
        ("command.refused", "headrace"),
        ("command.refused", "headrace"),
        ("model.promoted", "pipeline-ci"),
    ]
