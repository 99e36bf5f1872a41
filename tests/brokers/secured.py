"""A Kafka that lets nobody in without a certificate or a password, and nobody write without leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from brokers.certificates import KEY_PASSWORD, Authority
from brokers.kafka import JAVA_MIN, NativeKafka, have_jars, java_is_new_enough
from brokers.process import missing
from engine.kafka.embedded import free_port
from engine.settings import KafkaSettings

USER, PASSWORD = "headrace", "four-horses-in-a-mill"
READER, READERS_PASSWORD = "reader", "looks-and-never-writes"
PROPERTIES = """\
sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{user}="{password}" user_{reader}="{readers_password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{user};User:CN={user}
"""
"""`PLAINTEXT` stays, for the broker itself: to it nobody else is pointed."""

TOPIC, GROUP, CLUSTER = 2, 3, 4
LITERAL, PREFIXED = 3, 4
READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS, IDEMPOTENT_WRITE = 3, 4, 8, 10, 12
"""Numbers of the protocol: what a right is for, how its name is matched, what may be done."""
ALLOW = 3


class Right(NamedTuple):
    """What `READER` may do."""

    operation: int
    resource: int
    name: str
    pattern: int = LITERAL


class SecuredKafka:
    """One Kafka with a listener for passwords over TLS and one for certificates.

    `USER` may do everything; `READER` has a password and no rights.
    """

    def __init__(self, directory: Path) -> None:
        if not (java_is_new_enough() and have_jars()):
            missing(f"a Kafka with TLS (Maven and Java {JAVA_MIN})")
        ours, strangers = Authority(directory, "ours"), Authority(directory, "strangers")
        self._ours, self._strangers = ours.certificate, strangers.certificate
        self._client = ours.identity(USER, password=KEY_PASSWORD)
        server = ours.identity("broker", host="127.0.0.1")
        keystore = directory / "broker.pem"
        keystore.write_text(server.key.read_text() + server.certificate.read_text())
        self._passwords, self._certificates = free_port(), free_port()
        self._kafka = NativeKafka(
            directory,
            more_listeners=(f",SASL_SSL://127.0.0.1:{self._passwords},SSL://127.0.0.1:{self._certificates}"),
            more_properties=PROPERTIES.format(
                keystore=keystore,
                authority=ours.certificate,
                user=USER,
                password=PASSWORD,
                reader=READER,
                readers_password=READERS_PASSWORD,
            ),
            format_arguments=[
                f"--add-scram={mechanism}=[name={USER},password={PASSWORD}]"
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            ],
        )

    def with_password(self, mechanism: str, **changed: Any) -> KafkaSettings:
        """Return settings for the listener for passwords; `changed` ones may be wrong."""
        return self._settings(
            self._passwords,
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": mechanism,
                "sasl_username": USER,
                "sasl_password": PASSWORD,
                **changed,
            },
        )

    def with_certificate(self, **changed: Any) -> KafkaSettings:
        """Return settings for the listener for certificates; `changed` ones may be wrong."""
        return self._settings(
            self._certificates,
            {
                "security_protocol": "SSL",
                "ssl_certificate_location": self._client.certificate,
                "ssl_key_location": self._client.key,
                "ssl_key_password": self._client.key_password,
                **changed,
            },
        )

    async def allow(self, *rights: Right) -> None:
        """Give rights to `READER`."""
        for right in rights:
            await self._change(CreateAclsRequest(*_acl(right)))

    async def forbid(self, right: Right) -> None:
        """Take a right from `READER` that it was given."""
        await self._change(DeleteAclsRequest(*_acl(right)))

    async def _change(self, request: CreateAclsRequest | DeleteAclsRequest) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._kafka.settings.bootstrap_servers)
        await admin.start()
        try:
            answer = (await admin._send_to_controller(request)).to_object()
        finally:
            await admin.close()
        (one,) = answer.get("creation_responses") or answer["filter_responses"]
        assert one["error_code"] == 0, one

    @property
    def strangers_authority(self) -> Path:
        """The certificate of an authority that did not sign the broker's."""
        return self._strangers

    def _settings(self, port: int, how: dict[str, Any]) -> KafkaSettings:
        return KafkaSettings.model_validate(
            self._kafka.settings.model_dump()
            | {
                "bootstrap_servers": f"127.0.0.1:{port}",
                "ssl_ca_location": self._ours,
                "connect_deadline_ms": 3_000,
            }
            | how
        )

    def __enter__(self) -> Self:
        self._kafka.start()
        return self

    def __exit__(self, *exit_: object) -> None:
        self._kafka.__exit__(*exit_)


def _acl(right: Right) -> tuple[int, str, int, str, str, int, int]:
    """Return a right as the requests have it."""
    return (
        right.resource,
        right.name,
        right.pattern,
        f"User:{READER}",
        "*",
        right.operation,
        ALLOW,
    )
