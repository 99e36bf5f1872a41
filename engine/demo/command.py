"""The demo: a broker, a worker, three months of flights, and a race to watch.

Lives here: the processes, the clock, publishing and reading.  Never here: counting
(`account.py`), what the screen says (`view.py`), anything the worker computes: the
demo sees it only as any client would, through topics and `/metrics`.

Strategy: events and labels leave in one order, that of the sample's own clock, at a
given rate, and never more than a bound ahead of what came back: a label is published
only after everything that happened before its landing.  Whatever was started is stopped
by its own process id, in the reverse order, also on Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rich.console import Console
from rich.live import Live

from engine.demo.account import Answer, Tally, WorkerPage, read_page
from engine.demo.hints import commands_after, commands_beside
from engine.demo.sample import EXAMPLE, Publication, Sample, read_sample
from engine.demo.view import Frame, decision_line, live_view, plain_line, summary_lines
from engine.demo.worker import WorkerProcess, worker_command
from engine.kafka.embedded import EmbeddedBroker
from engine.kafka.topic_admin import ensure_topics
from engine.settings import KafkaSettings
from operators.claims.rule import Reader
from topics.catalog import Catalog
from topics.errors import BrokerError, HeadraceError
from topics.headers import kind_of
from topics.messages import Claim, Decision

__all__ = ["run"]

RATE = 10_000.0
"""Ceiling in events per second, beyond one worker: by default the worker sets the pace."""
AHEAD_EVENTS_MAX = 4_096
"""Events published and not yet answered.  Time runs 50,000 times faster than life: were the worker to reach
the end of a topic, the 50 ms until it learns of new labels would be an hour, and it would go ahead without
what landed in it.  With records of both topics always waiting, their order is exactly that of their times."""
TICK_S = 0.05
"""Publishing goes by such slices; the broker acknowledges one before the next.  The embedded broker's work
for one batch grows with the batches it holds, so few and larger ones keep it fast to the end."""
SCRAPE_S = 0.5
FRAME_S = 0.25
PLAIN_S = 5.0
RATE_S = 5.0
"""The rate on the screen is a mean over this long."""
READY_DEADLINE_S = 60.0
"""Importing River and joining the group takes 2 to 5 s, on a loaded machine some more."""
STALL_DEADLINE_S = 30.0
"""Without any answer for this long, while one is due, the demo gives up and says so."""
LINGER_MS = 2
"""Records of both topics that leave together arrive together."""
FETCH_WAIT_MS = 20
"""One fetch asks for both topics and decisions are rare: short, or they would delay the predictions."""
CATALOG = Catalog("flights", events="flights.departures", labels="flights.arrivals")
"""The names that examples/flights/pipeline.py gives its topics."""
READ = (CATALOG["predictions"], CATALOG["decisions"], CATALOG["dead-letters"])
"""The topics that the demo reads."""


def run(
    *,
    events: int | None = None,
    rate: float = RATE,
    keep: bool = False,
    example: Path = EXAMPLE,
    console: Console | None = None,
) -> int:
    """Run the whole demo; return 0, or 1 where an answer was missing or the worker died.

    `events` bounds the flights, `rate` the events per second, `keep` leaves broker and worker
    up after the summary until Ctrl-C.  Raises SettingsError where the broker or the sample
    is missing.
    """
    started_s = time.perf_counter()
    console = console or Console()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what goes wrong is raised, or seen as a stall
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    try:
        _with_processes(_Demo(console, folder, started_s, rate), example, events, keep=keep)
    except KeyboardInterrupt:
        console.print("stopped: broker and worker are down")
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    except HeadraceError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        console.print(f"logs: {folder}/worker.log {folder}/broker.log", soft_wrap=True, highlight=False)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _with_processes(demo: _Demo, example: Path, events: int | None, *, keep: bool) -> None:
    """Start broker and worker, run the demo between them, stop both."""
    pipeline = example / "pipeline.py"
    plan = [topic._replace(create=True) for topic in CATALOG.plan(events=1)]
    with EmbeddedBroker(log=demo.folder / "broker.log") as broker:
        kafka = broker.kafka_settings().model_copy(update={"replication_factor": -1})  # the broker's own
        asyncio.run(ensure_topics(kafka, plan))
        with WorkerProcess(worker_command(pipeline), kafka, demo.folder) as worker:
            demo.say(f"broker {kafka.bootstrap_servers}, worker http://127.0.0.1:{worker.port}/metrics")
            sample = read_sample(example, events)  # while the worker imports River
            asyncio.run(demo.race(worker, kafka, sample))
            if keep:
                demo.stay(worker, kafka)
            code = worker.stop()
        if code != 0:
            raise BrokerError(
                f"the worker did not leave cleanly: exit code {code}", hint=f"read {worker.log}"
            )
    demo.say_next(pipeline)


class _Demo:
    """One run: what it counts, and the loops that feed the counting."""

    def __init__(self, console: Console, folder: Path, started_s: float, rate: float) -> None:
        self.folder = folder
        self._console = console
        self._started_s = started_s
        self._rate = rate
        self._tally = Tally({})
        self._page = WorkerPage()
        self._first_champion: str | None = None
        self._ended_s = 0.0
        self._frames: deque[tuple[float, int]] = deque(maxlen=round(RATE_S / FRAME_S) + 1)
        self._sample = Sample([], 0, {})
        self._moved = asyncio.Event()
        """Set by whatever came back; the publisher waits on it."""

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    async def race(self, worker: WorkerProcess, kafka: KafkaSettings, sample: Sample) -> None:
        """Publish the sample, read what comes back, show it; return when all is answered and learned.

        Raises BrokerError if the worker dies, stalls or answers wrongly.
        """
        self._sample = sample
        self._tally = Tally(sample.truth)
        async with _consumer(kafka) as consumer, _producer(kafka) as producer:
            work = asyncio.create_task(self._publish_all(producer))
            others = [
                asyncio.create_task(loop)
                for loop in (self._read(consumer), self._scrape(worker), self._watch(), self._show())
            ]
            try:
                done, _ = await asyncio.wait([work, *others], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (work, *others):
                    task.cancel()
                await asyncio.gather(work, *others, return_exceptions=True)
        self._judge()

    async def _publish_all(self, producer: AIOKafkaProducer) -> None:
        """Publish in time order, within the bounds; return when everything has come back."""
        per_slice = max(1, round(self._rate * TICK_S))
        due_s = time.perf_counter()
        left = iter(self._sample.publications)
        while chunk := list(_slice(left, per_slice)):
            await asyncio.gather(*[await self._publish(producer, one) for one in chunk])
            due_s = max(due_s + sum(one.label is None for one in chunk) / self._rate, time.perf_counter() - 1)
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            await self._until(lambda: self._tally.waiting < AHEAD_EVENTS_MAX)
        await self._until(lambda: not self._tally.waiting and self._page.learned >= self._tally.labels)
        self._ended_s = time.perf_counter()
        await asyncio.sleep(2 * SCRAPE_S)  # the last decisions and the models' last figures

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._moved.clear()
            await self._moved.wait()

    async def _publish(self, producer: AIOKafkaProducer, one: Publication) -> asyncio.Future[Any]:
        if one.label is None:
            self._tally.event_sent(one.event_id, one.time_ms)
        else:
            self._tally.label_sent(one.time_ms, one.event_time)
        topic = CATALOG["events"] if one.label is None else CATALOG["labels"]
        sent: asyncio.Future[Any] = await producer.send(
            topic, one.value, key=one.key, timestamp_ms=one.time_ms
        )
        return sent

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """Count the answers by the rule for every reader of a claimed log (`operators/claims/rule.py`)."""
        predictions, dead_letters = CATALOG["predictions"], CATALOG["dead-letters"]
        decode_answer = msgspec.json.Decoder(Answer).decode
        decode_decision = msgspec.json.Decoder(Decision).decode
        decode_claim = msgspec.json.Decoder(Claim).decode
        reader = Reader()
        while True:
            for partition, records in (await consumer.getmany(timeout_ms=1_000)).items():
                now_s = time.perf_counter()
                for record in records:
                    if partition.topic == dead_letters:
                        self._tally.dead_letters.add(record.headers)
                    elif partition.topic != predictions:
                        self._decided(decode_decision(record.value))
                    elif kind_of(record.headers) == "claim":
                        claim = decode_claim(record.value)
                        reader.claim(claim.source_partition, claim.claim)
                    else:
                        answer = decode_answer(record.value)
                        counts = reader.counts(partition.partition, answer.claim, answer.sequence)
                        self._answered(answer, now_s) if counts else self._tally.not_counted()

    def _answered(self, answer: Answer, now_s: float) -> None:
        if self._tally.first_answer_s is None:
            self.say(f"first prediction after {now_s - self._started_s:.1f} s")
        self._tally.answered(answer, now_s)
        self._moved.set()

    def _decided(self, decision: Decision) -> None:
        self._tally.decided(decision)
        if not self._live:
            self.say(decision_line(decision))

    async def _scrape(self, worker: WorkerProcess) -> None:
        while True:
            worker.check()
            text = await asyncio.to_thread(worker.metrics)
            if text is not None:
                self._page = read_page(text)
                self._moved.set()
                if self._first_champion is None and self._page.champion is not None:
                    self._first_champion = self._page.champion.name
            await asyncio.sleep(SCRAPE_S)

    async def _watch(self) -> None:
        """Raise BrokerError when nothing has come back for too long."""
        seen, since_s = (0, 0), time.perf_counter()
        while True:
            now = (self._tally.answers, self._page.learned)
            if now != seen:
                seen, since_s = now, time.perf_counter()
            patience_s = STALL_DEADLINE_S if self._tally.answers else READY_DEADLINE_S
            if time.perf_counter() - since_s > patience_s:
                raise self._failed(
                    f"nothing came back for {patience_s:.0f} s: {self._tally.waiting} events without a "
                    f"prediction, {self._tally.labels - self._page.learned} labels not learned"
                )
            await asyncio.sleep(SCRAPE_S)

    @property
    def _live(self) -> bool:
        return self._console.is_terminal and not self._console.no_color

    def _frame(self) -> Frame:
        now_s = self._ended_s or time.perf_counter()
        self._frames.append((now_s, self._tally.answers))
        while len(self._frames) > 2 and now_s - self._frames[1][0] > RATE_S:
            self._frames.popleft()
        (then_s, then), elapsed_s = self._frames[0], now_s - (self._tally.first_answer_s or now_s)
        rate = (self._tally.answers - then) / (now_s - then_s) if now_s > then_s else 0.0
        first, last = self._sample.publications[0], self._sample.publications[-1]
        return Frame(
            self._tally, self._page, self._sample.events, first.time_ms, last.time_ms, elapsed_s, rate
        )

    async def _show(self) -> None:
        if not self._live:
            while True:
                await asyncio.sleep(PLAIN_S)
                self.say(plain_line(self._frame()))
        with Live(console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(live_view(self._frame()), refresh=True)
                    await asyncio.sleep(FRAME_S)
            finally:
                live.update(live_view(self._frame()), refresh=True)

    def _judge(self) -> None:
        """Print the summary; raise BrokerError unless every event and label is accounted for."""
        tally, page = self._tally, self._page
        self.say("")
        for line in summary_lines(self._frame(), first_champion=self._first_champion):
            self.say(line)
        complaint = tally.complaint()
        if complaint is None and page.joined != tally.labels:
            complaint = f"{page.joined:,} labels joined of {tally.labels:,}"
        if complaint is None and page.learned != tally.labels:
            complaint = f"{page.learned:,} examples learned from {tally.labels:,} labels"
        if complaint is not None:
            raise self._failed(complaint)

    def _failed(self, complaint: str) -> BrokerError:
        """Return a complaint with what was refused, and where to look."""
        refused = [f"dead letters: {line}" for line in self._tally.refused()]
        return BrokerError("\n  ".join([complaint, *refused]), hint=f"read {self.folder}/worker.log")

    def stay(self, worker: WorkerProcess, kafka: KafkaSettings) -> None:
        """Keep broker and worker up for the user's own commands, until Ctrl-C."""
        self.say("\nbroker and worker stay up; in another terminal, in this folder:")
        commands = commands_beside(
            CATALOG, kafka.bootstrap_servers, worker.port, decisions=len(self._tally.decisions)
        )
        for command in commands:
            self.say(f"  {command}")
        self.say("Ctrl-C stops them")
        while True:
            time.sleep(SCRAPE_S)
            worker.check()

    def say_next(self, pipeline: Path) -> None:
        """Name the next commands to try."""
        self.say("\nnext:")
        for command in commands_after(pipeline):
            self.say(f"  {command}")


def _slice(publications: Iterator[Publication], events: int) -> Iterator[Publication]:
    """Yield the next publications up to and including the given number of events."""
    for one in publications:
        yield one
        events -= one.label is None
        if not events:
            return


def _producer(kafka: KafkaSettings) -> AIOKafkaProducer:
    return AIOKafkaProducer(**kafka.aiokafka_options(), acks="all", linger_ms=LINGER_MS)


@contextlib.asynccontextmanager
async def _consumer(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaConsumer]:
    """Read what the worker writes for others from its beginning, in no group."""
    consumer = AIOKafkaConsumer(
        **kafka.aiokafka_options(), auto_offset_reset="earliest", fetch_max_wait_ms=FETCH_WAIT_MS
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0) for topic in READ])
        yield consumer
    finally:
        await consumer.stop()
