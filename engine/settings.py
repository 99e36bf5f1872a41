"""The surroundings of a run: addresses, directories, deadlines, secrets.

Lives here: everything that differs between two machines running one pipeline.  Never
here: what the pipeline computes (that is the user's file, and its digest guards the
checkpoints).

Strategy: command line > environment (`HEADRACE_`, nested by `__`) > `headrace.toml` >
default, read once at start, every mistake in one message, no secret in any of them.
Kafka's settings keep Kafka's own names; dots may stand for underscores.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from aiokafka.helpers import create_ssl_context
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as UnreadableError

from topics.errors import SettingsError
from topics.signatures import check_key

__all__ = [
    "CONFIG_FILE",
    "ENV_PREFIX",
    "NOTHING_ACCEPTED",
    "Accepted",
    "KafkaSettings",
    "PredictSettings",
    "Settings",
    "WebSettings",
    "is_loopback",
    "load_settings",
    "origins",
]

ENV_PREFIX = "HEADRACE_"
CONFIG_FILE = Path("headrace.toml")
OTHERS = ("HEADRACE_DATA", "HEADRACE_KAFKA_JARS", "HEADRACE_MODEL_RUNS")
"""Read by tests and load tests, no settings of a worker."""
SIGNER_CHARS_MAX = 64
"""Of a name that signs: it stands in every decision that was asked for."""
STATUS_INTERVAL_MIN_MS = 500
FAUST = "HEADRACE_FAUST_"
"""Faust's own options."""
_SERVICE = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
_ADDRESS = re.compile(r"^(tcp|udp|sctp)://")

Milliseconds = Annotated[int, Field(gt=0)]


def _undotted(given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten Kafka's dotted names: {"bootstrap": {"servers": x}} and "bootstrap.servers" alike."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        full = prefix + name.replace(".", "_")
        if isinstance(value, Mapping):
            flat.update(_undotted(value, f"{full}_"))
        else:
            flat[full] = value
    return flat


class KafkaSettings(BaseModel):
    """How to reach Kafka and how patient to be with it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    bootstrap_servers: str = "127.0.0.1:9092"
    client_id: str = "headrace"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    allow_sasl_plaintext: bool = False
    """Passwords over an unencrypted connection are refused unless this says so."""
    ssl_ca_location: Path | None = None
    """None trusts the system's authorities."""
    ssl_certificate_location: Path | None = None
    ssl_key_location: Path | None = None
    ssl_key_password: SecretStr | None = None

    group_instance_id: str | None = None
    """Static membership (the pod's name): a restart within the session timeout moves no partition."""
    session_timeout_ms: Milliseconds = 12_000
    """A dead worker's partitions move after this; brokers refuse less than 6 s by default."""
    heartbeat_interval_ms: Milliseconds = 3_000
    """A quarter of the session: three may be lost."""
    rebalance_timeout_ms: Milliseconds = 30_000
    """How long the others wait for a worker to flush and checkpoint when partitions move."""
    max_poll_interval_ms: Milliseconds = 120_000
    """A worker that polls no more for this long gives its partitions up."""
    request_timeout_ms: Milliseconds = 40_000
    """Longer than the session, or a slow join looks like a dead broker."""
    connect_deadline_ms: Milliseconds = 30_000
    """How long a start keeps trying a broker that does not answer before it gives up."""
    outage_deadline_ms: Milliseconds = 600_000
    """How long a worker that is up waits for a broker that does not answer, before it gives up."""
    flush_deadline_ms: Milliseconds = 15_000
    """Longest wait for acknowledgements before a command such as `send` gives up."""
    commit_deadline_ms: Milliseconds = 5_000
    """Offsets are committed for lag tools only: never worth a stall."""
    stop_deadline_ms: Milliseconds = 3_000
    """Longest goodbye to a broker; a client that hangs is left behind."""
    fetch_max_wait_ms: Milliseconds = 100
    """Longest idle fetch.  aiokafka has one fetch per broker on its way, so while an idle topic is
    waited for, a busy one is not asked: short.  New records answer at once all the same."""
    fetch_max_bytes: int = Field(default=262_144, ge=1_024)
    """Most bytes of one partition in one fetch, a thousand events or so.  Measured as fast as 1 MiB without
    headers and a third faster with them (caches), and no decode holds the loop for long."""
    enable_idempotence: bool = True
    """The broker drops a retry's repeats.  Off only for brokers without it; claims keep the logs exact
    either way."""
    compression_type: Literal["gzip", "snappy", "lz4", "zstd"] | None = None
    replication_factor: int = Field(default=-1, ge=-1)
    """For topics that are created; -1 takes the broker's default."""

    @model_validator(mode="before")
    @classmethod
    def _kafka_names(cls, given: Any) -> Any:
        return _undotted(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heartbeat_interval_ms * 2 > self.session_timeout_ms:
            raise ValueError("heartbeat_interval_ms must be at most half of session_timeout_ms")
        if self.request_timeout_ms < self.session_timeout_ms:
            raise ValueError("request_timeout_ms must be at least session_timeout_ms")
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise ValueError(f"{self.security_protocol} needs sasl_username and sasl_password")
        if self.sasl_username and not self.security_protocol.startswith("SASL"):
            raise ValueError("sasl_username is set: security_protocol must be SASL_SSL")
        if self.security_protocol == "SASL_PLAINTEXT" and not self.allow_sasl_plaintext:
            raise ValueError(
                "SASL_PLAINTEXT sends the password readable to anyone on the way: "
                "use SASL_SSL, or set allow_sasl_plaintext = true"
            )
        return self

    def patient(self) -> KafkaSettings:
        """Return settings under which every wait for a broker outlasts an outage: for a worker that is up."""
        longest = ("connect_deadline_ms", "flush_deadline_ms")
        return self.model_copy(update=dict.fromkeys(longest, self.outage_deadline_ms))

    def aiokafka_options(self) -> dict[str, Any]:
        """Return the connection arguments that aiokafka's consumer, producer and admin share.

        Raises SettingsError where certificates cannot be read.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "request_timeout_ms": self.request_timeout_ms,
        }
        if self.security_protocol.startswith("SASL") and self.sasl_password is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value()
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        return options

    def _ssl_context(self) -> Any:
        password = self.ssl_key_password.get_secret_value() if self.ssl_key_password else None
        try:
            return create_ssl_context(
                cafile=self.ssl_ca_location,
                certfile=self.ssl_certificate_location,
                keyfile=self.ssl_key_location,
                password=password,
            )
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"the certificates for Kafka cannot be read: {error}",
                hint="check kafka.ssl_ca_location, ssl_certificate_location and ssl_key_location",
            ) from error


class WebSettings(BaseModel):
    """The pages and metrics of a worker.

    Nested, so that the variables are HEADRACE_WEB__PORT: Kubernetes sets HEADRACE_WEB_PORT
    itself for a service called headrace-web.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = "127.0.0.1"
    """Loopback; another address takes a token, or `allow_anonymous`."""
    port: int = Field(default=6066, ge=0, le=65_535)
    """Faust's own default; 0 takes a free one."""
    token: SecretStr | None = None
    """Who sends it (`Authorization: Bearer`) sees all pages; others only whether the process lives and is
    ready.  None: all pages are for all who reach the port."""
    allow_anonymous: bool = False
    """Pages for all who reach an address beyond the loopback are refused unless this says so."""

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.token is not None:
            check_key("token", self.token.get_secret_value().encode())
        if self.token is None and not self.allow_anonymous and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reached from other machines, and there is no token: "
                "set token (openssl rand -hex 32), or allow_anonymous = true if the network is the guard"
            )
        return self


class PredictSettings(BaseModel):
    """The route `POST /predict` of a worker's pages."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    enabled: bool = False
    """Events may be posted there, and are published and answered."""
    deadline_ms: int = Field(default=1_000, gt=0, le=8_000)
    """Longest wait for an answer; a connection of the pages is cut after 10 s, whatever it waits for."""
    requests_max: int = Field(default=32, gt=0, le=64)
    """Requests that wait at once; beyond, they are refused.  The pages have 128 connections in all."""


class AlertSettings(BaseModel):
    """The channels of alerts, and how long they are tried."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    webhook_url: SecretStr | None = None
    """Where alerts are posted as JSON; it may hold a token."""
    webhook_key: SecretStr | None = None
    """Signs what is posted there: HMAC-SHA256 of the body in the header `X-Headrace-Signature-256`."""
    alertmanager_url: SecretStr | None = None
    """An Alertmanager, without `/api/v2/alerts`; it may hold a password."""
    request_deadline_ms: Milliseconds = 10_000
    """Longest wait for one answer of a channel."""
    give_up_ms: Milliseconds = 900_000
    """For how long a channel that is away is tried before an alert is dropped."""
    repeat_ms: Milliseconds = 60_000
    """How often Alertmanager is told again of what fires; after four without, it ends it."""
    queue_max: int = Field(default=1_000, gt=0)
    """Alerts that wait for one channel; more are dropped."""

    @field_validator("webhook_url", "alertmanager_url")
    @classmethod
    def _reachable(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parts = urlsplit(url.get_secret_value())
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError("it is no address: write https://HOST/PATH")
        return url

    @field_validator("webhook_key")
    @classmethod
    def _strong(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            check_key("it", key.get_secret_value().encode())
        return key


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address.

    >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "", "worker-1")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shows_password(url: str) -> bool:
    """Return whether an address of a Redis sends a password to another machine unencrypted.

    >>> urls = ("redis://u:p@host/0", "rediss://u:p@host", "redis://u:p@[::1]:1", "redis://host")
    >>> [_shows_password(url) for url in urls]
    [True, False, False, False]
    """
    try:
        parts = urlsplit(url)
        password = parts.password or "password" in parse_qs(parts.query)
        host = parts.hostname or ""
    except ValueError:
        return False  # no address at all: who opens it says so, without its text
    if parts.scheme != "redis" or not password:
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


class Settings(BaseSettings):
    """Everything a worker is told from outside."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        nested_model_default_partial_update=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    web: WebSettings = WebSettings()
    predict: PredictSettings = PredictSettings()
    alerts: AlertSettings = AlertSettings()
    state_dir: Path = Path("var/headrace")
    """Checkpoints, artefacts and static features of one machine; must outlive the process, unless a
    `store_url` has them."""
    store_url: SecretStr | None = None
    """A Redis with checkpoints and artefacts, for workers on more than one machine (None: `state_dir` has
    them).  It may hold a user and a password; rediss:// is TLS."""
    store_deadline_ms: Milliseconds = 5_000
    """Longest wait for one answer of that Redis."""
    store_outage_deadline_ms: Milliseconds = 60_000
    """How long a start or a takeover waits for it before it gives up; answers do not wait."""
    unsaved_max: int = Field(default=500_000, gt=0)
    """Events answered since the last checkpoint, beyond which a worker takes no more until one is written: a
    takeover does their work again."""
    redis_url: SecretStr | None = None
    """Static features come from its hashes, served features go there; None: `store_url`, and without that
    static features come from the embedded store.  It may hold a password."""
    allow_redis_plaintext: bool = False
    """Passwords to a Redis of another machine over an unencrypted connection are refused unless this says
    so."""
    lookup_deadline_ms: Milliseconds = 50
    """Longest that static features hold up a batch; what comes later is missing in it."""
    lookup_ttl_ms: Milliseconds = 60_000
    """Static features change by the day: a minute of the old value spares most reads."""
    signing_key: SecretStr | None = None
    """Signs model artefacts; every process of a pipeline needs the same."""
    signing_keys: dict[str, SecretStr] = {}
    """In its place, while a key is replaced by another: the first one signs, all are taken."""
    command_keys: dict[str, SecretStr] = {}
    """Who may command, each with a key of 16 bytes at the least: a worker then acts on signed commands alone,
    and their `actor` is the name of the key.  A sender needs its own.  Empty: the ACL of the commands topic
    decides."""
    checkpoint_interval_ms: Milliseconds = 5_000
    """Work that a crash repeats; also the longest an idle tail stays unsaved."""
    leader_partitions_max: int = Field(default=0, ge=0)
    """Of each topic, for the worker that learns where the others follow: it has less time for answers.  0: as
    many as any other.  The same for all workers of a pipeline."""
    replay_max: int = Field(default=2_000_000, gt=0)
    """Logged records that a takeover may have to leave out; about 1 KB of memory each."""
    idle_timeout_ms: int = Field(default=0, ge=0)
    """A partition whose events and labels have been quiet for this long is idle: its watermark goes on with
    the wall clock, by records that the worker writes into the events topic; 0: only events move it."""
    rekey_idle_timeout_ms: Milliseconds = 5_000
    """Where windows have other keys than the topic: a partition with nothing to read for this long holds the
    others' events back no more.  What it gets later may be counted late."""
    drain_deadline_ms: Milliseconds = 25_000
    """From SIGTERM to the end; Kubernetes kills after 30 s."""
    progress_deadline_ms: int = Field(default=300_000, ge=10_000)
    """Work that stands still for so long, with nothing that explains it, ends the worker: longer than any
    rebalance."""
    status_interval_ms: int = Field(default=5_000, ge=0, le=60_000)
    """Between two records in which a worker tells the others how it is; who has been silent for four of them
    counts as gone.  0: it tells nothing, and its page knows of no other worker."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON otherwise."""

    @field_validator("command_keys", "signing_keys")
    @classmethod
    def _named(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, key in keys.items():
            check_key(f"the key of `{name}`", key.get_secret_value().encode())
            if not name.isprintable() or not 0 < len(name) <= SIGNER_CHARS_MAX:
                raise ValueError(
                    f"a name that signs has 1 to {SIGNER_CHARS_MAX} printable characters, not {name!r}"
                )
        return keys

    @field_validator("status_interval_ms")
    @classmethod
    def _seldom(cls, interval_ms: int) -> int:
        if 0 < interval_ms < STATUS_INTERVAL_MIN_MS:
            raise ValueError(f"it is 0 or at least {STATUS_INTERVAL_MIN_MS}")
        return interval_ms

    @field_validator("signing_key")
    @classmethod
    def _strong(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            check_key("it", key.get_secret_value().encode())
        return key

    @model_validator(mode="after")
    def _one_place_of_keys(self) -> Self:
        if self.signing_key is not None and self.signing_keys:
            raise ValueError("signing_key and signing_keys are both set: put the one key among the others")
        return self

    @model_validator(mode="after")
    def _predict_guarded(self) -> Self:
        if self.predict.enabled and self.web.token is None and not is_loopback(self.web.host):
            raise ValueError(
                "predict.enabled lets whoever reaches the pages write events: set web.token"
                " (openssl rand -hex 32), or a loopback web.host"
            )
        return self

    @model_validator(mode="after")
    def _passwords_hidden(self) -> Self:
        for name, url in (("store_url", self.store_url), ("redis_url", self.redis_url)):
            if url is not None and not self.allow_redis_plaintext and _shows_password(url.get_secret_value()):
                raise ValueError(
                    f"{name} sends its password readable to anyone on the way: use rediss://, or set "
                    "allow_redis_plaintext = true"
                )
        return self

    def signing_secrets(self) -> dict[str, bytes]:
        """Return the keys that sign models, by name, the one that signs first; empty where none is set."""
        if self.signing_key is not None:
            return {"": self.signing_key.get_secret_value().encode()}
        return {name: key.get_secret_value().encode() for name, key in self.signing_keys.items()}

    def command_secrets(self) -> dict[str, bytes]:
        """Return the keys that sign commands, by the name of who asks."""
        return {name: key.get_secret_value().encode() for name, key in self.command_keys.items()}

    @property
    def features_url(self) -> SecretStr | None:
        """Return the Redis of static and served features; None: there is none."""
        return self.redis_url or self.store_url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings names its arguments
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file that `load_settings` found."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


class Accepted(NamedTuple):
    """The risks that were accepted when the worker was started."""

    changed_features: bool = False
    lost_records: bool = False
    """Records were deleted before they were read."""


NOTHING_ACCEPTED = Accepted()


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Return the settings of this process; `flags` are what the command line gave.

    `config` must exist if given; without it `headrace.toml` is read if it is there.
    Raises SettingsError naming every wrong value at once, never a secret, and variables that are no setting.
    """
    path = config or CONFIG_FILE
    if config is not None and not config.is_file():
        raise SettingsError(f"there is no file {config}", hint="leave --config out, or name the file")
    _check_names()

    class Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        loaded = Loaded(**flags)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in detail['loc']) or 'settings'}: "
            + detail["msg"].removeprefix("Value error, ")
            for detail in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise SettingsError("; ".join(lines), hint=_where(path)) from None
    except UnreadableError as error:
        raise SettingsError(
            f"a variable is no JSON: {error}", hint='keys by name are written {"name": "key"}'
        ) from None
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", hint="it must be a TOML file") from error
    return loaded


def origins(config: Path | None = None, **flags: Any) -> dict[str, str]:
    """Return which of the settings is said by a flag, the environment or the file: `web__port` -> `file`.

    Arguments are those of `load_settings`; what is not named is a default.
    """
    said: dict[str, str] = {}
    for origin, given in (
        ("file", TomlConfigSettingsSource(Settings, config or CONFIG_FILE)()),
        ("environment", EnvSettingsSource(Settings)()),
        ("flag", flags),
    ):
        for name, value in given.items():
            field = Settings.model_fields[name].annotation
            if isinstance(field, type) and issubclass(field, BaseModel):
                said |= dict.fromkeys((f"{name}__{part}" for part in _undotted(value)), origin)
            else:
                said[name] = origin
    return said


def _check_names() -> None:
    """Raise SettingsError for variables that are no setting: they would be defaults in silence."""
    names = set()
    for name, field in Settings.model_fields.items():
        names.add(f"{ENV_PREFIX}{name.upper()}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            parts = field.annotation.model_fields
            names.update(f"{ENV_PREFIX}{name.upper()}__{part.upper()}" for part in parts)
    wrong = _misspelt(os.environ, names)
    if wrong:
        meant = [f"did you mean {name}?" for name in wrong.values() if name]
        raise SettingsError(
            f"{', '.join(wrong)} in the environment: no such setting",
            hint=" ".join(dict.fromkeys(meant)) or "unset it; docs/operations.md lists all settings",
        )


def _misspelt(environment: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Return variables of ours that are no setting, with the one that was likely meant, or "".

    Left alone are those of Kubernetes (a service called `headrace-web` gives
    `HEADRACE_WEB_PORT=tcp://10.0.0.7:6066` to every pod), of Faust, and of our tests.
    `known` are the names of all settings; one that is a group has its parts behind two underscores.

    >>> given = {"HEADRACE_STATEDIR": "/x", "HEADRACE_WEB_PORT": "tcp://10.0.0.7:6066", "HEADRACE_DATA": "/d"}
    >>> _misspelt(given, ["HEADRACE_STATE_DIR", "HEADRACE_WEB__PORT"])
    {'HEADRACE_STATEDIR': 'HEADRACE_STATE_DIR'}
    """
    misspelt, short = {}, [name.removeprefix(ENV_PREFIX) for name in names]
    for name, value in sorted(environment.items()):
        upper = name.upper()
        if not upper.startswith(ENV_PREFIX) or upper in names or upper in OTHERS or upper.startswith(FAUST):
            continue
        if _SERVICE.search(upper) or (upper.endswith("_PORT") and _ADDRESS.match(value)):
            continue
        close = difflib.get_close_matches(upper.removeprefix(ENV_PREFIX), short, 1, 0.7)
        misspelt[name] = ENV_PREFIX + close[0] if close else ""
    return misspelt


def _where(path: Path) -> str:
    given = sorted(name for name in os.environ if name.startswith(ENV_PREFIX))
    places = [str(path)] if path.is_file() else []
    return f"mend it where it is set: {', '.join([*places, *given]) or 'the command line'}"
