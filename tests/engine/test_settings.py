"""Where settings come from, what is refused, and that secrets stay secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.settings import KafkaSettings, Settings, load_settings
from topics.errors import SettingsError

SECRET = "correct-horse-battery"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_web_listens_on_this_machine_only() -> None:
    assert load_settings().web.host == "127.0.0.1"


def test_flags_beat_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("headrace.toml").write_text("checkpoint_interval_ms = 1\nlog_level = 'error'\n[web]\nport = 1\n")
    monkeypatch.setenv("HEADRACE_CHECKPOINT_INTERVAL_MS", "2")
    monkeypatch.setenv("HEADRACE_WEB__PORT", "2")
    settings = load_settings(checkpoint_interval_ms=3)
    assert (settings.checkpoint_interval_ms, settings.web.port) == (3, 2)
    assert settings.log_level == "error"
    assert settings.web.host == "127.0.0.1"


@pytest.mark.parametrize(
    "text",
    [
        '[kafka]\nbootstrap_servers = "k:1"',
        '[kafka]\nbootstrap.servers = "k:1"',
        '[kafka]\n"bootstrap.servers" = "k:1"',
    ],
)
def test_kafka_names_may_be_dotted(text: str) -> None:
    Path("headrace.toml").write_text(text)
    assert load_settings().kafka.bootstrap_servers == "k:1"


def test_every_mistake_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("headrace.toml").write_text("statedir = 'x'\n[kafka]\nbootstrap = 'k:1'\n")
    monkeypatch.setenv("HEADRACE_WEB__PORT", "70000")
    with pytest.raises(SettingsError) as caught:
        load_settings(log_level="loud")
    for place in (
        "web.port",
        "log_level",
        "statedir",
        "kafka.bootstrap",
        "headrace.toml",
        "HEADRACE_WEB__PORT",
    ):
        assert place in str(caught.value)


def test_secrets_are_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_REDIS_URL", f"rediss://:{SECRET}@host/0")
    monkeypatch.setenv("HEADRACE_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("HEADRACE_KAFKA__SASL_USERNAME", "me")
    monkeypatch.setenv("HEADRACE_KAFKA__SASL_PASSWORD", SECRET)
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.kafka.aiokafka_options()["sasl_plain_password"] == SECRET
    monkeypatch.setenv("HEADRACE_KAFKA__SASL_MECHANISM", SECRET)
    monkeypatch.setenv("HEADRACE_KAFKA__SESSION_TIMEOUT_MS", "7")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["store_url", "redis_url"])
def test_a_password_to_another_machines_redis_is_not_sent_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for shown in (
        f"redis://u:{SECRET}@host",
        f"redis://:{SECRET}@10.0.0.7:1/2",
        f"redis://h?password={SECRET}",
    ):
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", shown)
        with pytest.raises(SettingsError, match=f"{name} sends its password readable") as caught:
            load_settings()
        assert SECRET not in str(caught.value)
        assert getattr(load_settings(allow_redis_plaintext=True), name).get_secret_value() == shown
    for hidden in (
        f"rediss://u:{SECRET}@host", f"redis://u:{SECRET}@localhost:1", f"redis://u:{SECRET}@127.1.2.3", "redis://h",
        f"unix://u:{SECRET}@/run/redis.sock", f"redis://u:{SECRET}@[::1]:6379/1",
    ):  # fmt: skip
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", hidden)
        assert getattr(load_settings(), name).get_secret_value() == hidden


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "a", "sasl_password": "b"},
            "allow_sasl_plaintext",
        ),
        ({"sasl_username": "a", "sasl_password": "b"}, "SASL_SSL"),
        ({"security_protocol": "SASL_SSL"}, "sasl_username"),
        ({"session_timeout_ms": 4_000}, "half of session_timeout_ms"),
        ({"session_timeout_ms": 50_000}, "request_timeout_ms"),
        ({"bootstrapservers": "k"}, "bootstrapservers"),
    ],
)
def test_unsafe_and_contradicting_kafka_settings_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(kafka=given)


def test_a_password_in_the_clear_must_be_asked_for() -> None:
    kafka = KafkaSettings.model_validate(
        {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_username": "a",
            "sasl_password": "b",
            "allow_sasl_plaintext": True,
        }
    )
    assert kafka.aiokafka_options()["security_protocol"] == "SASL_PLAINTEXT"


def test_tls_verifies_the_broker() -> None:
    import ssl

    context = KafkaSettings(security_protocol="SSL").aiokafka_options()["ssl_context"]
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_missing_certificates_are_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="ssl_ca_location"):
        KafkaSettings(security_protocol="SSL", ssl_ca_location=Path("nowhere.pem")).aiokafka_options()


def test_a_config_file_that_was_named_must_exist_and_be_toml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no file"):
        load_settings(tmp_path / "absent.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("= 1")
    with pytest.raises(SettingsError, match=r"bad\.toml"):
        load_settings(bad)


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().state_dir = Path("elsewhere")
