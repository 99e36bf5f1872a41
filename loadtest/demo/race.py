"""One race: events out, answers in, a live table, a summary.

Lives here: the clock, publishing and reading, and how fast: at two thirds of what the worker can do, or as
fast as it can.  Never here: counting (`figures.py`), what the screen says (`view.py`), anything the worker
computes: the demo sees it only as any client would, through topics and `/metrics`.

Strategy.  Events and labels leave in one order, that of the sample's own clock, in slices.  The labels of a
slice are acknowledged half a slice before its events leave, so that the worker meets no event before a label
that is older.  How many leave, and how far ahead of the answers, says the pace.  Records carry the time at
which they leave, as live ones do, unless the pace is that of a backlog: by timestamps of years ago the worker
takes them for one, and asks the broker for the end of the labels before it answers.

A saturated worker answers late, however fast it is: its queue is the latency.  So the feed keeps
to a share of its capacity, and finds that without loading it.  The worker's page tells how long its steps
have taken: answers per second of steps, times the part of the time that a saturated worker is in steps.

    page         answered 4,000   steps 2.10 s
    0.5 s later  answered 4,450   steps 2.37 s     450 / 0.27 s * 0.9 = 1,500/s, so the rate is 1,000/s

A slow or a busy machine needs longer for a step and so gets a lower rate.  Where the worker falls behind all
the same, because something else holds it up, the feed waits for it (`ahead_max`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console
from rich.live import Live

from engine.kafka.client import assigned_consumer
from engine.kafka.sink import Sink, open_sink
from engine.local.worker import WorkerPage, WorkerProcess
from engine.offline.publish import FileLine, send_step
from engine.settings import KafkaSettings
from loadtest.bench.ledger import Ledger
from loadtest.demo.figures import Figures, Sample, ServedAnswer
from loadtest.demo.scenarios import Scenario
from loadtest.demo.view import Frame, decision_line, live_view, plain_line, summary_lines
from operators.claims.rule import Reader
from topics.catalog import Role
from topics.codec import decode_claim, decode_decision
from topics.errors import BrokerError
from topics.headers import record_type_of
from topics.messages import Decision

__all__ = ["DemoRace", "FeedPace", "Flood", "TwoThirds"]

SLICE_S = 0.05
"""Each slice is a batch in either topic, and the embedded broker's work for a fetch grows with the batches it
holds: at 5,000 it takes 20 ms.  So few and large ones, but not more than a worker answers in some ms."""
SCRAPE_S = 0.5
FRAME_S = 0.25
PLAIN_S = 5.0
RATE_S = 5.0
"""The rate on the screen is a mean over this long."""
READY_DEADLINE_S = 60.0
"""Importing River and joining the group takes 2 to 5 s, on a loaded machine some more."""
STALL_DEADLINE_S = 30.0
"""Without any answer for this long, while one is due, the demo gives up and says so."""
FETCH_WAIT_MS = 20
"""One fetch asks for all topics and decisions are rare: short, or they would delay the predictions."""
READ: tuple[Role, ...] = ("predictions", "decisions", "dead-letters")
"""The topics that the demo reads."""

SHARE = 2 / 3
"""Of the worker's capacity."""
STEPS_SHARE = 0.9
"""Of a saturated worker's time, measured under `--flood`: the rest goes into polling, sending, saving."""
RATE_FIRST = 200.0
"""Events per second before the worker has told anything: little for any machine."""
RATE_MIN = 20.0
RISE_MAX = 1.5
"""From one page to the next the rate grows by no more: what the first events cost says little."""
PAGES = 7
"""Pages that the capacity is taken from: about the last three seconds."""
BEHIND_S = 0.25
"""So many seconds' events may be without an answer; beyond that the feed waits."""
BEHIND_EVENTS_MIN = 32
FLOOD_AHEAD_MAX = 4_096
"""Records of both topics always wait, so that the worker never meets the end of one of them."""


class TwoThirds:
    """A rate of two thirds of the worker's capacity, `rate_max` at most.

    >>> pace = TwoThirds(rate_max=10_000)
    >>> pace.see(0, 0.0)
    >>> for page in range(1, 20):
    ...     pace.see(450 * page, 0.27 * page)
    >>> round(pace.rate)
    1000
    """

    backlog = False

    def __init__(self, rate_max: float) -> None:
        self._rate_max = rate_max
        self._rate = min(RATE_FIRST, rate_max)
        self._pages: deque[tuple[int, float]] = deque(maxlen=PAGES)

    @property
    def rate(self) -> float:
        """Events per second."""
        return self._rate

    @property
    def ahead_max(self) -> int:
        """Events without an answer from which on the feed waits."""
        return max(BEHIND_EVENTS_MIN, round(self._rate * BEHIND_S))

    def see(self, answered: int, busy_s: float) -> None:
        """Take the worker's totals: events answered, seconds spent in steps."""
        self._pages.append((answered, busy_s))
        answers, seconds = answered - self._pages[0][0], busy_s - self._pages[0][1]
        if answers > 0 and seconds > 0:
            wanted = SHARE * STEPS_SHARE * answers / seconds
            self._rate = min(max(wanted, RATE_MIN), self._rate * RISE_MAX, self._rate_max)


class Flood:
    """As fast as the worker takes it, `rate_max` at most: how a saturated worker answers."""

    backlog = True

    def __init__(self, rate_max: float) -> None:
        self.rate = rate_max
        self.ahead_max = FLOOD_AHEAD_MAX

    def see(self, answered: int, busy_s: float) -> None:
        """Do nothing: the pace is not the worker's."""


FeedPace = TwoThirds | Flood


class DemoRace:
    """One run: what it counts, and the loops that feed the counting."""

    def __init__(
        self, scenario: Scenario, console: Console, folder: Path, started_s: float, pace: FeedPace
    ) -> None:
        self.folder = folder
        self.scenario = scenario
        self._catalog = scenario.catalog
        self._console = console
        self._started_s = started_s
        self._pace = pace
        self._figures = Figures(Ledger(self._catalog.pipeline), {}, {})
        self._page = WorkerPage()
        self._first_champion: str | None = None
        self._ended_s = 0.0
        self._frames: deque[tuple[float, int]] = deque(maxlen=round(RATE_S / FRAME_S) + 1)
        self._sample = Sample([], 0, {}, {})
        self._ready = False
        self._moved = asyncio.Event()
        """Set by whatever came back; the publisher waits on it."""

    def say(self, text: str) -> None:
        """Print a line, beside the live table where there is one."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    async def run(self, worker: WorkerProcess, kafka: KafkaSettings, sample: Sample) -> Figures:
        """Publish the sample, read what comes back, show it; return its figures when all is learned.

        Raises BrokerError if the worker dies, stalls or answers wrongly.
        """
        self._sample = sample
        self._figures = Figures(Ledger(self._catalog.pipeline), sample.truth, sample.times)
        held = [TopicPartition(self._catalog[role], 0) for role in READ]
        quick = kafka.model_copy(update={"fetch_max_wait_ms": FETCH_WAIT_MS})
        async with assigned_consumer(quick, held) as consumer, open_sink(kafka) as sink:
            await consumer.seek_to_beginning(*held)
            work = asyncio.create_task(self._publish_all(sink))
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
        return self._figures

    async def _publish_all(self, sink: Sink) -> None:
        """Publish in time order, once the worker is ready; return when everything has come back."""
        await self._until(lambda: self._ready)
        left, pace = iter(self._sample.lines), self._pace
        due_s = time.perf_counter()
        while any(part := next_slice(left, max(1, round(pace.rate * SLICE_S)))):
            labels, events = part
            await self._send(sink, labels)
            await asyncio.sleep(SLICE_S / 2)
            await self._send(sink, events)
            due_s += len(events) / pace.rate
            due_s = max(due_s, time.perf_counter() - SLICE_S)  # what a stall has cost is not made up for
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            await self._until(lambda: self._figures.ledger.waiting < pace.ahead_max)
        await self._until(
            lambda: not self._figures.ledger.waiting and self._page.learned >= self._figures.labels
        )
        self._ended_s = time.perf_counter()
        await asyncio.sleep(2 * SCRAPE_S)  # the last decisions and the models' last figures

    async def _send(self, sink: Sink, step: list[FileLine]) -> None:
        """Publish events alone or labels alone; return when they are acknowledged."""
        for line in step:
            self._figures.sent(line, time.perf_counter())
        if not self._pace.backlog:
            now_ms = time.time_ns() // 1_000_000
            step = [line._replace(time_ms=now_ms) for line in step]
        if step:
            await send_step(sink, self._catalog, step)

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._moved.clear()
            await self._moved.wait()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """Count the answers by the rule for every reader of a claimed log (`operators/claims/rule.py`)."""
        predictions, dead_letters = self._catalog["predictions"], self._catalog["dead-letters"]
        decode_answer = msgspec.json.Decoder(ServedAnswer).decode
        reader = Reader()
        while True:
            for partition, records in (await consumer.getmany(timeout_ms=1_000)).items():
                now_s = time.perf_counter()
                for record in records:
                    if partition.topic == dead_letters:
                        self._figures.dead_letters.add(record.headers)
                    elif partition.topic != predictions:
                        self._decided(decode_decision(record.value))
                    elif record_type_of(record.headers) == "claim":
                        claim = decode_claim(record.value)
                        reader.claim(claim.source_partition, claim.claim)
                    else:
                        served = decode_answer(record.value)
                        if reader.counts(partition.partition, served.claim, served.sequence):
                            self._answered(served, record.key, partition.partition, now_s)
                        else:
                            self._figures.superseded += 1

    def _answered(self, served: ServedAnswer, key: bytes | None, partition: int, now_s: float) -> None:
        if self._figures.first_answer_s is None:
            self.say(f"first prediction after {now_s - self._started_s:.1f} s")
        self._figures.answered(served, key, partition, now_s)
        self._moved.set()

    def _decided(self, decision: Decision) -> None:
        self._figures.decided(decision)
        if not self._live:
            self.say(decision_line(decision))

    async def _scrape(self, worker: WorkerProcess) -> None:
        while True:
            worker.check()
            self._ready = self._ready or await asyncio.to_thread(worker.ready)
            page = await asyncio.to_thread(worker.metrics)
            if page is not None:
                self._page = page
                self._pace.see(self._page.answered, self._page.busy_s)
                self._moved.set()
                if self._first_champion is None and self._page.champion is not None:
                    self._first_champion = self._page.champion.name
            await asyncio.sleep(SCRAPE_S)

    async def _watch(self) -> None:
        """Raise BrokerError when nothing has come back for too long."""
        seen, since_s = (0, 0), time.perf_counter()
        while True:
            now = (self._figures.answers, self._page.learned)
            if now != seen:
                seen, since_s = now, time.perf_counter()
            patience_s = STALL_DEADLINE_S if self._figures.answers else READY_DEADLINE_S
            if time.perf_counter() - since_s > patience_s:
                waiting, unlearned = self._figures.ledger.waiting, self._figures.labels - self._page.learned
                raise self._failed(
                    f"nothing came back for {patience_s:.0f} s: {waiting} events without a prediction, "
                    f"{unlearned} labels not learned"
                )
            await asyncio.sleep(SCRAPE_S)

    @property
    def _live(self) -> bool:
        return self._console.is_terminal and not self._console.no_color

    def _frame(self) -> Frame:
        now_s = self._ended_s or time.perf_counter()
        self._frames.append((now_s, self._figures.answers))
        while len(self._frames) > 2 and now_s - self._frames[1][0] > RATE_S:
            self._frames.popleft()
        (then_s, then), elapsed_s = self._frames[0], now_s - (self._figures.first_answer_s or now_s)
        rate = (self._figures.answers - then) / (now_s - then_s) if now_s > then_s else 0.0
        first, last = self._sample.lines[0], self._sample.lines[-1]
        return Frame(
            self.scenario.counted,
            self._figures,
            self._page,
            self._sample.events,
            first.time_ms,
            last.time_ms,
            elapsed_s,
            rate,
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
        figures, page = self._figures, self._page
        self.say("")
        for line in summary_lines(self._frame(), first_champion=self._first_champion):
            self.say(line)
        complaint = figures.ledger.complaint()
        if complaint is None and page.joined != figures.labels:
            complaint = f"{page.joined:,} labels joined of {figures.labels:,}"
        if complaint is None and page.learned != figures.labels:
            complaint = f"{page.learned:,} examples learned from {figures.labels:,} labels"
        if complaint is not None:
            raise self._failed(complaint)

    def _failed(self, complaint: str) -> BrokerError:
        """Return a complaint with what was refused, and where to look."""
        refused = [f"dead letters: {line}" for line in self._figures.refused()]
        return BrokerError("\n  ".join([complaint, *refused]), hint=f"read {self.folder}/worker.log")


def next_slice(lines: Iterator[FileLine], count: int) -> tuple[list[FileLine], list[FileLine]]:
    """Return the next `count` events, and before them all labels up to the last; of the end, what is left."""
    labels: list[FileLine] = []
    events: list[FileLine] = []
    for line in lines:
        (labels if line.is_label else events).append(line)
        if len(events) == count:
            break
    return labels, events
