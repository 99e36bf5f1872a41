"""Kafka behind passwords and certificates: a worker runs there, and who is not let in is told why."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from brokers.ports import fresh, made, numbered, polled, run, source_of, values
from brokers.secured import PASSWORD, READER, READERS_PASSWORD, SecuredKafka
from reading import watching
from running import Worker, fresh_name, make_topics, publish, until, write_pipeline
from test_run_ends import SOURCE, readings

from engine.definition.file import load_pipeline
from engine.kafka.log_reader import log_bounds
from engine.kafka.sink import Sink, open_sink
from engine.kafka.topic_admin import partition_counts
from engine.settings import KafkaSettings
from topics.errors import BrokerError, SettingsError

ANSWERS = 50
pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with SecuredKafka(tmp_path_factory.mktemp("secured")) as kafka:
        yield kafka


async def refused(start: Callable[[], Awaitable[object]], says: str) -> BrokerError:
    """Return the error of a start that must fail, once the connections that TLS closes are closed."""
    with pytest.raises(BrokerError, match=says) as caught:
        await start()
    sockets = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
    await until(lambda: len(sockets) <= 1, "connections closed")  # the loop has one of its own
    return caught.value


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
def test_records_come_and_go_by_every_mechanism(secured: SecuredKafka, mechanism: str) -> None:
    kafka = secured.with_password(mechanism)

    async def play() -> None:
        topic = fresh("secured")
        await made(kafka, topic)
        async with open_sink(kafka) as sink, source_of(kafka, topic) as (source, _):
            await source.seek({(topic, 0): None})
            await sink.send(topic, 0, numbered(5))
            await sink.flush()
            assert values((await polled(source, 5))[topic, 0]) == [0, 1, 2, 3, 4]
            await source.commit({(topic, 0): 5})

    run(play())


def test_workers_share_a_pipeline_there_by_password_and_by_certificate(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    """Faust's own clients, too, for the commands topic.  One worker leaves, the other answers the rest."""
    by_password, by_certificate = secured.with_password("SCRAM-SHA-512"), secured.with_certificate()
    file = write_pipeline(tmp_path, SOURCE, name=fresh_name("secured"))
    pipeline = load_pipeline(file)
    predictions = pipeline.catalog["predictions"]

    async def scenario() -> None:
        await make_topics(by_password, pipeline)
        messages = readings(pipeline, 2 * ANSWERS)
        with (
            Worker(file, by_password, tmp_path, name="password") as leaving,
            Worker(file, by_certificate, tmp_path, name="certificate") as staying,
        ):
            async with watching(by_certificate, predictions) as watch:
                await leaving.ready()
                await staying.ready()
                await publish(by_password, messages[:ANSWERS])
                await until(lambda: watch.counted(predictions) == ANSWERS, "answers", worker=leaving)
                assert await leaving.stop() == 0
                await publish(by_certificate, messages[ANSWERS:])
                await until(lambda: watch.counted(predictions) == 2 * ANSWERS, "the rest", worker=staying)
            assert await staying.stop() == 0
            assert PASSWORD not in leaving.log.read_text() + staying.log.read_text()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("settings", "says", "helps"),
    [
        (
            lambda secured: secured.with_password("SCRAM-SHA-512", sasl_password="not-this-one"),
            "lets this client in at .* SaslAuthenticationFailed",
            "HEADRACE_KAFKA__SASL_PASSWORD",
        ),
        (
            lambda secured: secured.with_password("PLAIN", ssl_ca_location=secured.strangers_authority),
            "lets this client in at .* certificate verify failed",
            "HEADRACE_KAFKA__SSL_CA_LOCATION",
        ),
        (
            lambda secured: secured.with_certificate(
                ssl_certificate_location=None, ssl_key_location=None, ssl_key_password=None
            ),
            "no Kafka answers at .* closed",
            "HEADRACE_KAFKA__SSL_CERTIFICATE_LOCATION",
        ),
    ],
    ids=["password", "authority", "certificate"],
)
def test_who_is_not_let_in_is_told_why(
    secured: SecuredKafka,
    settings: Callable[[SecuredKafka], KafkaSettings],
    says: str,
    helps: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """By the error alone, with no lines of the client beside it; who is refused for good, at once."""
    deadline_ms = 2_000 if "answers" in says else 60_000
    kafka = settings(secured).model_copy(update={"connect_deadline_ms": deadline_ms})

    async def play() -> None:
        for start in (
            Sink(kafka).start,
            lambda: partition_counts(kafka, ["x"]),
            lambda: log_bounds(kafka, "x"),
        ):
            error = await refused(start, says)
            assert helps in error.hint
            assert "not-this-one" not in str(error)

    run(play())
    assert not re.search("Unable connect", capfd.readouterr().err)


def test_a_password_that_is_refused_is_not_tried_until_the_deadline(secured: SecuredKafka) -> None:
    """A minute of tries would lock the account, and look like a broker that is down."""
    kafka = secured.with_password("SCRAM-SHA-512", sasl_password="no", connect_deadline_ms=3_600_000)
    asyncio.run(refused(Sink(kafka).start, "lets this client in"))


def test_a_key_that_does_not_open_is_named(secured: SecuredKafka) -> None:
    with pytest.raises(SettingsError, match="certificates for Kafka cannot be read") as caught:
        secured.with_certificate(ssl_key_password="wrong").aiokafka_options()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


def test_who_may_not_write_is_told_which_right_is_missing(secured: SecuredKafka) -> None:
    kafka = secured.with_password("PLAIN", sasl_username=READER, sasl_password=READERS_PASSWORD)
    error = asyncio.run(refused(Sink(kafka).start, "ClusterAuthorizationFailedError"))
    assert "IDEMPOTENT_WRITE" in error.hint
