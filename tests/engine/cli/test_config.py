"""What holds here and who says so; and every secret there is, through everything that prints settings."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import structlog
from pydantic import BaseModel, SecretStr
from typer.testing import CliRunner

from engine.cli.main import app
from engine.host.logging import CHATTY, configure_logging
from engine.settings import ENV_PREFIX, Settings, load_settings
from topics.errors import HeadraceError, SettingsError

CANARY = "correct-horse-battery-staple"
URL = f"rediss://worker:{CANARY}@redis.example:6379/0"
VALUES = {
    "HEADRACE_STORE_URL": URL,
    "HEADRACE_REDIS_URL": URL,
    "HEADRACE_SIGNING_KEYS": json.dumps({"2026-11": CANARY}),
    "HEADRACE_COMMAND_KEYS": json.dumps({"ada": CANARY}),
    "HEADRACE_ALERTS__WEBHOOK_URL": f"https://chat.example/hooks/{CANARY}",
    "HEADRACE_ALERTS__ALERTMANAGER_URL": f"https://headrace:{CANARY}@alerts.example",
}
"""Of secrets that are not one text, or an address."""
AROUND = {
    "HEADRACE_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
    "HEADRACE_KAFKA__SASL_USERNAME": "worker",
}
"""Without which a secret is refused."""


def secrets_of(model: type[BaseModel] = Settings, prefix: str = ENV_PREFIX) -> Iterator[str]:
    """Return the variables of all settings that hold a secret, however deep, by their types."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from secrets_of(kind, f"{prefix}{name.upper()}__")
        elif SecretStr in {kind, *get_args(kind)}:
            yield f"{prefix}{name.upper()}"


SECRETS = sorted(secrets_of())


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def log() -> Iterator[None]:
    """Leave the log of this process as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


@pytest.fixture(params=SECRETS)
def secret(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set one secret, and what it needs; return its variable."""
    if request.param.startswith("HEADRACE_KAFKA__"):
        for name, value in AROUND.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HEADRACE_KAFKA__SASL_PASSWORD", CANARY)
    name: str = request.param
    monkeypatch.setenv(name, VALUES.get(name, CANARY))
    return name


def shown(*words: str) -> dict[str, tuple[str, str]]:
    done = CliRunner().invoke(app, ["config", "show", "--json", *words])
    assert done.exit_code == 0, done.output
    return {row["name"]: (row["value"], row["source"]) for row in json.loads(done.output)}


def test_the_secrets_are_those_that_are_known() -> None:
    names = {name.removeprefix(ENV_PREFIX).lower() for name in SECRETS}
    assert names == {
        "kafka__sasl_password", "kafka__ssl_key_password", "web__token", "store_url", "redis_url",
        "signing_key", "signing_keys", "command_keys", "alerts__webhook_url", "alerts__webhook_key",
        "alerts__alertmanager_url",
    }  # fmt: skip


@pytest.mark.usefixtures("log")
def test_a_secret_is_shown_by_nothing(
    secret: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    value, source = shown()[secret]
    assert ("***" in value, source) == (True, "environment")
    for words in ([], ["--json"], ["--bootstrap-servers", "k:1"]):
        assert CANARY not in CliRunner().invoke(app, ["config", "show", *words]).output
    settings = load_settings()
    texts = (
        f"{settings!r} {settings} {settings.model_dump()}",
        settings.model_dump_json(),
        str(vars(settings)),
    )
    assert not [text for text in texts if CANARY in text]

    configure_logging(settings.model_copy(update={"log_level": "debug"}))
    logging.getLogger("anything").error("started with %r", settings, extra={"settings": settings})
    logging.getLogger("faust").warning("%s %r", settings.kafka, settings.web)
    err = capfd.readouterr()
    assert "started with" in err.err
    assert CANARY not in err.err + err.out

    monkeypatch.setenv("HEADRACE_WEB__PORT", "70000")
    monkeypatch.setenv("HEADRACE_WEB__HOST", "0.0.0.0")
    monkeypatch.setenv("HEADRACE_KAFKA__SASL_MECHANISM", CANARY)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert (
        CANARY not in f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        '{"a": 1',
        '["' + CANARY + '"]',
        '{"\\u0000": "' + CANARY + '"}',
        CANARY,
        f"http://{CANARY}/",
    ],
)
def test_a_secret_that_is_wrong_is_not_quoted(
    secret: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(secret, wrong)
    for words in (["config", "show"], ["static", "get", "nobody"]):
        done = CliRunner().invoke(app, words)
        assert CANARY not in f"{done.output} {done.exception}"
        assert done.exception is None or isinstance(done.exception, HeadraceError | SystemExit), words


def test_who_says_what_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("headrace.toml").write_text(
        "checkpoint_interval_ms = 7\nlog_level = 'error'\n[web]\nport = 1\n[kafka]\nclient.id = 'x'\n"
    )
    monkeypatch.setenv("HEADRACE_CHECKPOINT_INTERVAL_MS", "8")
    monkeypatch.setenv("headrace_web__port", "2")
    rows = shown("--bootstrap-servers", "k:1")
    assert {name: row for name, row in rows.items() if row[1] != "default"} == {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": ("k:1", "flag"),
        "HEADRACE_KAFKA__CLIENT_ID": ("x", "file"),
        "HEADRACE_CHECKPOINT_INTERVAL_MS": ("8", "environment"),
        "HEADRACE_WEB__PORT": ("2", "environment"),
        "HEADRACE_LOG_LEVEL": ("error", "file"),
    }
    assert rows["HEADRACE_WEB__HOST"] == ("127.0.0.1", "default")
    assert CliRunner().invoke(app, ["config", "show"]).output.count("HEADRACE_") == len(rows)
