"""A worker process of one's own: what it is told, and that its end is never missed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.settings import KafkaSettings, load_settings
from loadtest.worker_process import WorkerProcess, environment
from topics.errors import BrokerError

KAFKA = KafkaSettings(bootstrap_servers="127.0.0.1:1", enable_idempotence=False, session_timeout_ms=2_000,
                      heartbeat_interval_ms=500)  # fmt: skip


def test_the_worker_is_told_the_password_and_not_its_mask(tmp_path: Path) -> None:
    secret = {"security_protocol": "SASL_SSL", "sasl_username": "me", "sasl_password": "s3cret"}
    told = environment(KafkaSettings.model_validate(secret), state_dir=tmp_path, web_port=7)
    assert {told[f"HEADRACE_KAFKA__{name.upper()}"] for name in secret} == set(secret.values())


def test_the_worker_reads_back_what_it_was_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_REDIS_URL", "redis://of-the-user")
    told = environment(KAFKA, state_dir=tmp_path, web_port=7)
    for name in ("HEADRACE_REDIS_URL", *told):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.kafka == KAFKA
    assert (settings.state_dir, settings.web.port, settings.web.host) == (tmp_path, 7, "127.0.0.1")
    assert settings.redis_url is None, "the demo shares no state with anything of the user's"


def test_a_death_is_reported_with_the_end_of_the_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('once upon a time'); raise SystemExit(4)"]
    with WorkerProcess(command, KAFKA, tmp_path) as worker:
        assert worker._process is not None
        worker._process.wait(30)
        assert worker.metrics() is None
        with pytest.raises(BrokerError, match=r"exit code 4(?s:.*)once upon a time"):
            worker.check()
        assert worker.stop() == 4
        assert worker.stop() is None


def test_leaving_the_block_ends_the_process(tmp_path: Path) -> None:
    with WorkerProcess([sys.executable, "-c", "import time; time.sleep(60)"], KAFKA, tmp_path) as worker:
        process = worker._process
        assert process is not None
        worker.check()
    assert process.poll() is not None
