"""A schedule carried out: workers, a stream for as long as faults come, the account at the end."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from reading import Watch, folded, folded_digests, read_topic, saved_digests, watching
from running import Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings
from fault_runs.account import account, account_labels, account_windows
from fault_runs.schedule import CLAIMING, INSIDE_CLAIM, Fault, Schedule
from fault_runs.stream import EVENTS_MIN, GRACE_MS, SOURCE, messages
from fault_runs.worker import DIRECTORY

PARTITIONS = 4
CHECKPOINT_MS = 700
PAUSE_S = 0.1
"""Between two slices of records."""
JUMP_SEEN_MS = 2_900_000
"""Answers carry the wall clock of who gave them: the least difference after a jump."""
PROGRESS = 30
"""Answers between two faults."""
GIVEN_UP = "takeover given up: the group has taken partitions back"


class Load(NamedTuple):
    """How fast is published."""

    slice_records: int = 10
    """At most 100 records a second, so that a run of a minute is verified in seconds."""
    ahead_max: int = 400
    """Events published and not answered; more are not needed to keep every worker at work."""


@dataclass
class Report:
    """The figures of one run: what happened, and that it was put to the test."""

    seed: int
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    events: int = 0
    lessons: int = 0
    windows: int = 0
    """Values of windows that were compared."""
    starts: int = 0
    points: list[str] = field(default_factory=list)
    """Named points where a worker died or froze."""
    rebalances: int = 0
    claimed: int = 0
    kept: int = 0
    """Partitions that came back to a member in a rebalance, and were claimed anew or were still its own."""
    given_up: int = 0
    """Takeovers given up for the next rebalance."""
    restores: int = 0
    """Partitions taken over in the middle of their log."""
    replayed: int = 0
    """Logged records that takeovers found and did not write again."""
    dropped: int = 0
    """Records in claimed logs that do not count: of zombies."""

    def check(self) -> None:
        """Check that the run has put the promises to the test."""
        assert self.points, "no named point was reached"
        assert self.rebalances > 0, "no partition has moved"
        assert self.restores > 0, "no partition was restored in the middle of its log"
        assert self.replayed > 0, "no takeover found anything to leave out"

    def line(self) -> str:
        """Return the figures as one line."""
        return (
            f"seed {self.seed}: {self.events} events, {self.lessons} lessons, {self.windows} windows,"
            f" {self.starts} starts, {self.rebalances} rebalances, {self.restores} restores,"
            f" {self.replayed} replayed, {self.dropped} dropped, {self.seconds:.0f} s;"
            f" {', '.join(self.faults)}"
        )


class FaultRun:
    """One run.

    `shared` are the settings of a store that all workers share; empty: each has a directory of its own, as on
    machines that have nothing in common but Kafka.
    """

    def __init__(
        self,
        plan: Schedule,
        kafka: KafkaSettings,
        folder: Path,
        *,
        shared: Mapping[str, Any],
        more: str = "",
        broken: str = "",
        load: Load = Load(),  # noqa: B008 - a constant
        workers_kafka: KafkaSettings | None = None,
    ) -> None:
        """`more` are further arguments of the pipeline, `broken` a step of the product that is left out.

        `workers_kafka` is the way of the workers to the same broker, where it is another.
        """
        name = fresh_name(f"faults-{plan.seed}")
        self.plan = plan
        self.kafka = kafka
        self.report = Report(plan.seed)
        self._file = write_pipeline(folder, SOURCE.replace("MORE", more), name=name)
        self._pipeline = load_pipeline(self._file)
        catalog = self._pipeline.catalog
        self.predictions, self._examples = catalog["predictions"], catalog["examples"]
        self._events, self._labels = catalog["events"], catalog["labels"]
        self._shared = dict(shared)
        self._load = load
        self.published_s: list[float] = []
        """When each event was to be published, by the monotonic clock; that of `rN` is the N-th."""
        self._over = False
        """Whether the last fault is over, and with it the stream."""
        self._folders = [folder / str(number) for number in range(plan.workers)]
        for one in self._folders:
            one.mkdir()
            (one / "broken").write_text(broken)
        self.workers = [
            Worker(
                self._file,
                workers_kafka or kafka,
                one,
                name=one.name,
                module="fault_runs.worker",
                checkpoint_interval_ms=CHECKPOINT_MS,
                **self._shared,
            ).given(**{DIRECTORY: str(one)})
            for one in self._folders
        ]

    async def run(self) -> Report:
        """Carry the schedule out and judge the logs.  Raises AssertionError for what does not hold."""
        return await self.under_load(self._carry_all_out)

    async def under_load(self, harm: Callable[[Watch], Awaitable[None]]) -> Report:
        """Do harm to workers while they are at work, and judge the logs.

        All workers must be up again afterwards.  Raises AssertionError for what does not hold.
        """
        began_s = time.monotonic()
        await make_topics(self.kafka, self._pipeline)
        async with watching(self.kafka, self.predictions, self._examples) as watch:
            with ExitStack() as running:
                for worker in self.workers:
                    running.enter_context(worker)
                await self.settled()
                async with self._publishing(watch):
                    await harm(watch)
                    await self._progress(watch)
                last = await self._finished(watch)
            self.report.dropped = watch.dropped
        await self._judge(last)
        self._tell()
        self.report.seconds = time.monotonic() - began_s
        return self.report

    # -- the stream -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _publishing(self, watch: Watch) -> AsyncIterator[None]:
        """Publish beside the block; wait for the end of the stream after it."""

        def enough(events: int) -> bool:
            if self._over and events >= EVENTS_MIN:
                return True
            self.published_s.append(time.monotonic())
            return False

        def least() -> int:
            return len(self.published_s) - self._load.ahead_max

        async def pace(_: int) -> None:
            await asyncio.sleep(PAUSE_S)
            if not self._over:
                await until(
                    lambda: self._over or watch.answered(self.predictions) >= least(),
                    "answers to what is published",
                )

        stream = messages(self.plan.seed, self._events, self._labels, enough)
        publishing = asyncio.create_task(
            publish(self.kafka, stream, pace=pace, slice_records=self._load.slice_records)
        )
        try:
            yield
        finally:
            self._over = True
            await publishing

    async def _progress(self, watch: Watch) -> None:
        """Wait until answers go on."""
        before = watch.answered(self.predictions)
        await until(
            lambda: watch.answered(self.predictions) >= before + PROGRESS, "answers", worker=self._up()[0]
        )

    # -- faults -----------------------------------------------------------------------------------

    def _up(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.process is not None]

    async def _carry_all_out(self, watch: Watch) -> None:
        for fault in self.plan.faults:
            await self._progress(watch)
            await self._carry_out(fault, watch)

    async def _carry_out(self, fault: Fault, watch: Watch) -> None:
        up = self._up()
        victim = up[fault.who % len(up)]
        rest = [worker for worker in up if worker is not victim]
        what = f"{fault.kind} {victim.name}"
        match fault.kind:
            case "kill":
                victim.kill()
                victim.start()
            case "stop":
                assert await victim.stop() == 0, victim.said()
                victim.start()
            case "freeze":
                victim.send(signal.SIGSTOP)
                await self._thawed(victim, rest, watch)
            case "jump":
                what += f" {fault.seconds:+.0f} s"
                before = answers_of(victim)
                self._set(victim, "clock", str(fault.seconds))
                await until(lambda: answers_of(victim) > before + PROGRESS, "answers since", worker=victim)
            case "point":
                what = f"{fault.how} {victim.name} {fault.point} {fault.passes}"
                await self._at_point(fault, victim, rest, watch)
        self.report.faults.append(what)
        await self.settled()

    def _set(self, worker: Worker, name: str, text: str) -> None:
        """Write a file that the worker reads, whole or not at all."""
        folder = self._folders[self.workers.index(worker)]
        fresh = folder / f"{name}.new"
        fresh.write_text(text)
        fresh.rename(folder / name)

    async def _at_point(self, fault: Fault, victim: Worker, rest: list[Worker], watch: Watch) -> None:
        """Make a worker fail at a named point; one of a takeover it meets when others die.

        Who stays need not claim: it may keep what it has, however often another one comes and goes.  So the
        others die one after the other until it has claimed often enough: the last one left owns all.
        """
        log = victim.log
        hits = len(victim.logged("fault point", log=log))
        self._set(victim, "point", f"{fault.how} {fault.passes} {fault.point}")

        def met() -> bool:
            return len(victim.logged("fault point", log=log)) > hits

        if fault.point in (*CLAIMING, INSIDE_CLAIM):
            first = fault.other % len(rest)
            left = [*rest[first:], *rest[:first]]
            while left and not met():
                left.pop(0).kill()
                await until(
                    lambda: met() or owned([victim, *left]) == PARTITIONS,
                    "a takeover that is over",
                    worker=left,
                )
        await until(met, fault.point)
        self.report.points.append(fault.point)
        for worker in rest:
            if worker.process is None:
                worker.start()
        if fault.how == "SIGKILL":
            assert await victim.ended() == -signal.SIGKILL
            victim.start()
        else:
            await self._thawed(victim, rest, watch)

    async def _thawed(self, victim: Worker, others: list[Worker], watch: Watch) -> None:
        """Let a frozen worker go on when others have had its partitions for a while."""
        await until(lambda: owned(others) == PARTITIONS, "the others own all partitions", worker=others[0])
        before = watch.answered(self.predictions)
        await until(lambda: watch.answered(self.predictions) > before, "answers of others", worker=others[0])
        victim.send(signal.SIGCONT)

    async def settled(self) -> None:
        """Wait until all workers are ready and own all partitions among them, each at least one."""
        await until(self._is_settled, "every worker owns a share", worker=self.workers[0])

    def _is_settled(self) -> bool:
        each = [owned([worker]) for worker in self.workers]
        return all(each) and sum(each) == PARTITIONS

    # -- the end ----------------------------------------------------------------------------------

    async def _finished(self, watch: Watch) -> Worker:
        """Let all be answered and learned; stop every worker, and return the last of them."""
        published = len(self.published_s)
        await until(
            lambda: watch.answered(self.predictions) == published, "every answer", worker=self.workers[0]
        )
        await until(
            lambda: watch.counted(self._examples) >= published, "every lesson", worker=self.workers[0]
        )
        *others, last = self.workers
        for worker in others:
            assert await worker.stop() == 0, worker.said()
        await until(lambda: owned([last]) == PARTITIONS, "the last one owns all", worker=last)
        await until(lambda: last.metrics()["headrace_examples_total"] >= published, "learned", worker=last)
        assert await last.stop() == 0, last.said()
        return last

    async def _judge(self, last: Worker) -> None:
        events, labels, answers_log, examples_log = [
            await read_topic(self.kafka, topic)
            for topic in (self._events, self._labels, self.predictions, self._examples)
        ]
        counted = account(events, answers_log, examples_log)
        account_labels(labels, counted.lessons)
        self.report.windows = account_windows(self._pipeline, events, counted.answers, grace_ms=GRACE_MS)
        digests = await saved_digests(self._file, last.state_dir, **self._shared)
        fold = folded_digests(self._file, examples_log)
        assert digests == fold, f"saved models {digests}, those of the log {fold}"
        assert digests[1] == len(counted.lessons), f"{digests[1]} learned of {len(counted.lessons)}"
        assert [read for read in folded(answers_log) if read.counts], "nothing counts"
        if any(fault.kind == "jump" for fault in self.plan.faults):
            times = [answer["prediction_time"] for answer in counted.answers.values()]
            assert max(times) - min(times) > JUMP_SEEN_MS, "no clock has jumped"
        self.report.events, self.report.lessons = len(counted.answers), len(counted.lessons)

    def _tell(self) -> None:
        """Gather from the workers' logs what the run has put to the test."""
        report = self.report
        for folder, worker in zip(self._folders, self.workers, strict=True):
            for log in sorted(folder.glob("*.log")):
                report.starts += 1
                report.rebalances += len(worker.logged("partitions revoked", log=log))
                report.given_up += len(worker.logged(GIVEN_UP, log=log))
                for taken in worker.logged("partitions taken over", log=log):
                    report.kept += len(taken["kept"])
                for claimed in worker.logged("partition claimed", log=log):
                    report.claimed += 1
                    report.restores += claimed["events_position"] > 0
                    report.replayed += claimed["logged_since"]


def answers_of(worker: Worker) -> float:
    """Return how many answers a worker has given."""
    metrics = worker.metrics().items()
    return sum(count for name, count in metrics if name.startswith("headrace_predictions_total"))


def owned(workers: list[Worker]) -> int:
    """Return how many partitions these workers own that are ready to answer."""
    return sum(
        int(worker.metrics()["headrace_partitions"]) for worker in workers if worker.get("/readyz")[0] == 200
    )
