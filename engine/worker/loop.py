"""The loop of one process: poll, step, send, flush, checkpoint, commit.

Lives here: in which order the shell does things, and what it does when partitions come and
go.  Never here: what a record means (`scorer.py`, `learner.py`), how Kafka is spoken to
(`engine/kafka`), how the log is followed (`follower.py`).

Two loops share the models: this one answers, `Follower.follow` learns what it reads back
from the examples log.  Both run on one thread; `models` is held while a run is answered and
scored by the shadows, and while a slice is learned, so that neither sees half of the other.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from engine.alerts.alerting import Alerting
from engine.alerts.surroundings import Surroundings
from engine.definition.pipeline import Pipeline
from engine.group.exchange import exchange_of
from engine.group.record import Buckets, SeenWorker, tallies
from engine.host.garbage import search_rarely
from engine.host.progress import ProgressWatch, Seen
from engine.kafka.client import LogPartition, last_answer_s, log_outages, unanswered_s
from engine.kafka.sink import Dispatch, Lookers, Sink
from engine.kafka.source import Source
from engine.kafka.topic_admin import prepare_topics
from engine.machines.admission import Run
from engine.machines.scorer import Scorer
from engine.metrics import Metrics, Status
from engine.page.rings import Rings
from engine.settings import NOTHING_ACCEPTED, Accepted, Settings
from engine.stores.lookups import StaticFeatures
from engine.stores.online_features import ServedFeatures
from engine.watches import CountWatch, LabelWatch, LetterWatch, counted_lines
from engine.worker.checkpointing import CheckpointWriter
from engine.worker.claim import RevokedError
from engine.worker.idle import IdlePartitions
from engine.worker.keyed.keyed_follower import follower_of
from engine.worker.owned_partitions import OwnedPartitions
from engine.worker.partition import Inputs, Partition, Place, merge_values
from engine.worker.unsaved import Unsaved
from topics.codec import COMMAND_BYTES_MAX
from topics.errors import BrokerError, ClaimError, HeadraceError, StoreUnavailableError
from topics.messages import Headers, Outgoing
from topics.signatures import admission

__all__ = ["Worker"]

POLL_MS = 50
"""Longest wait for records: bounds how late a checkpoint, a stop or a command is noticed."""
POLL_MAX = 1_000
"""Records of one poll: bounds one turn, and so how late a checkpoint or a rebalance is noticed."""
BEHIND_MAX = 256
"""Examples the learner may lag, where it follows the log, before scoring waits for it."""
PREPARE_SHARE = 0.2
"""The last share of the time between checkpoints in which changed entries are encoded turn by turn: what came
and went before needs no encoding."""
COMMANDS_MAX = 100
"""Commands that wait for the loop; more wait in their topic."""
SHADOWS_QUICK_S = 0.005
"""Answers do not wait for the shadows of a run that take longer; quick ones are not worth a batch."""
STALLED_S = 60.0
"""A loop that has not turned for this long is not alive."""

AGAIN = "fenced: another owner claimed; claiming again"

log = structlog.get_logger("headrace")

_Asked = tuple[list[Outgoing], asyncio.Future[None]]
"""A command as records, one for each partition that it concerns, and the future that is resolved when they
are written."""


class Worker:
    """One worker process: every partition the group gives it, and the learner's followers.

    Raises out of `run` whatever ends it: BrokerError for a failed send, ClaimError where other owners
    never rest or a lost checkpoint cannot be made up for.  A restart goes on from the last checkpoint.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        metrics: Metrics,
        accepted: Accepted = NOTHING_ACCEPTED,
        skip: frozenset[Place] = frozenset(),
    ) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.metrics = metrics
        self._accepted = accepted
        self.connected = asyncio.Event()
        """Set once Kafka has answered and the topics are there."""
        metrics.status = self.status
        catalog = pipeline.catalog
        self._inputs = Inputs(
            pipeline,
            idle_after_ms=settings.rekey_idle_timeout_ms,
            skip=skip,
            command_keys=settings.command_secrets(),
        )
        # Once Kafka has answered, an outage is waited for.
        patient = settings.model_copy(update={"kafka": settings.kafka.patient()})
        self._sink = Sink(patient.kafka)
        self._source = _source(pipeline, settings, self._inputs, self)
        self._static = StaticFeatures(pipeline.plan.lookups, settings)
        self._served = ServedFeatures(pipeline, settings)
        self.follower = follower_of(
            pipeline, patient, metrics, self._sink, accept_features=accepted.changed_features
        )
        self.partitions = OwnedPartitions(
            pipeline, patient, self._source, self._sink, self.follower, self._inputs, accepted
        )
        self._checkpoints = CheckpointWriter(
            self.partitions, self.follower, self._source, self._sink, self._served
        )
        self._idle = IdlePartitions(pipeline, settings)
        self._unsaved = Unsaved(settings.unsaved_max)
        self._holding = False
        """Whether nothing more is taken until a checkpoint is written."""
        self.progress = ProgressWatch(
            settings.progress_deadline_ms / 1000, takeover_s=settings.store_outage_deadline_ms / 1000
        )
        """Whether all this gets on; looked at from outside."""
        self._restoring = False
        """Whether a takeover is under way."""
        self._models = self.follower.models
        self._turn = asyncio.Lock()
        """Held for one turn of the loop, and while partitions are given up."""
        self._assigned: frozenset[LogPartition] | None = None
        """Partitions that the group has assigned and that are not taken over yet."""
        self._moving = False
        """The group has taken partitions back and given none since."""
        letters, rings = LetterWatch(catalog["dead-letters"]), self.rings
        lookers: Lookers = {"dead-letters": (letters.see, rings.refused), "alerts": (rings.alerted,)}
        self._dispatch = Dispatch(self._sink, patient.kafka, catalog, self.follower.stopwatch, lookers)
        self._watches = (CountWatch(counted_lines(pipeline.labels)), LabelWatch(), letters)
        self._alerting = Alerting(pipeline, patient, metrics.counts, self._surroundings)
        self.group = exchange_of(pipeline, settings, metrics.counts, self._moment)
        self._ready = False
        self._stopping = asyncio.Event()
        self._command_keys, self._commands_topic = settings.command_secrets(), catalog["commands"]
        self._commands: asyncio.Queue[_Asked] = asyncio.Queue(COMMANDS_MAX)
        """Commands yet to be written into the examples log."""
        self._slow: list[Outgoing] = []
        """Records about candidates over their budget, yet to be written into the examples log."""
        self._answered = 0
        self._turned_s = time.monotonic()
        self._saved_s = self._taken_over_s = 0.0

    # -- lifecycle --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop`; drain before returning."""
        try:
            await self._prepare()
            async with asyncio.TaskGroup() as group:
                beside = (
                    group.create_task(self.follower.follow()),
                    group.create_task(self.follower.warm()),
                    group.create_task(self.follower.share()),
                    group.create_task(self._alerting.run()),
                    group.create_task(self.group.run()),
                    group.create_task(log_outages(self.settings.kafka.outage_deadline_ms)),
                )
                try:
                    await self._work()
                finally:
                    for task in beside:
                        task.cancel()
        except ExceptionGroup as errors:
            known, others = errors.split(HeadraceError)
            if known is None or others is not None:
                raise
            raise known.exceptions[0] from None
        finally:
            self._ready = False
            await self._checkpoints.abandon()
            await self._source.stop()
            await self._sink.stop()
            await self._dispatch.stop()
            await self._idle.close()
            await self.partitions.close()
            await self._static.close()
            await self._served.close()
            await self.follower.close()

    def stop(self) -> None:
        """Ask the loop to drain and end."""
        self._stopping.set()

    async def _prepare(self) -> None:
        """Create our topics, check the user's, connect, and join the group if the stores fit the logs."""
        whole = self.pipeline.catalog.plan(events=self.pipeline.events.partitions)
        plan = [topic for topic in whole if topic.role != "status"]  # no worker needs that one
        self._dispatch.limit(await prepare_topics(self.settings.kafka, plan))
        await self._sink.start()
        for topic in plan:  # known by now, each can be written to in an outage
            await self._sink.partitions(topic.name)
        await self.partitions.look()
        self.follower.partitions = self.partitions.count
        self.connected.set()
        await self._source.start()

    async def _work(self) -> None:
        """Score until `stop`; an owner that meets another one while it answers claims again."""
        while not self._stopping.is_set():
            try:
                await self._score()
            except ClaimError as error:
                if not self._ready:  # it was taking over: others never rest, or the logs do not fit
                    raise
                log.warning(AGAIN, reason=str(error))
                self._claim_again()

    async def _score(self) -> None:
        """Run turns until `stop`, then save once more."""
        while not self._stopping.is_set():
            if self._assigned is not None:
                async with self._turn:
                    await self._take_over()
            # 1 poll
            batches = await self._source.poll(POLL_MS, POLL_MAX)
            polled_s, now_ms = time.monotonic(), _now_ms()
            await self._inputs.look_ahead(batches, self._source, now_ms)
            async with self._turn:
                for (topic, number), records in batches.items():
                    if (partition := self.partitions.owned.get(number)) is not None:
                        partition.offer(topic, records, now_ms)
                for partition in list(self.partitions.owned.values()):
                    await self._advance(partition, polled_s)
                self._move_idle()
                self._count()
                await self._dispatch.put([*self.follower.take_decisions(), *self._alerting.take()])
                await self._dispatch.turn()
                await self._write_commands()
                await self._write_entries()
                await self._save_beside()
            self._turned_s = time.monotonic()
        async with self._turn:
            await self._save()

    # -- partitions -------------------------------------------------------------------------------

    async def on_revoked(self, partitions: frozenset[LogPartition]) -> None:
        """Save and park every partition: the group waits until all members have."""
        self._ready = False
        self._moving = True
        async with self._turn:
            log.info("partitions revoked", partitions=sorted({number for _, number in partitions}))
            await self._save()
            self.partitions.park()
            self._assigned = None
            self.follower.release()

    async def on_assigned(self, partitions: frozenset[LogPartition]) -> None:
        """Record the assignment; the loop takes the partitions over."""
        self._moving = False
        self._assigned = partitions

    async def _take_over(self) -> None:
        """Claim each assigned partition, restore it, and go on where its checkpoint stands.

        Given up half-way where the group takes partitions back: it waits for this member, and would go on
        without it, so that takeovers longer than `rebalance_timeout_ms` would follow each other for ever.
        """
        self._restoring = True
        try:
            await self._restore()
        except RevokedError:
            log.info("takeover given up: the group has taken partitions back")
            self.partitions.park()
        finally:
            self._restoring = False

    def _go_on(self) -> None:
        """Raise RevokedError where what is being taken over is assigned no more."""
        if self._moving:
            raise RevokedError

    async def _restore(self) -> None:
        await self._saved()
        assigned, self._assigned = self._assigned, None
        if assigned is None:
            return
        numbers = self._inputs.numbers(assigned)
        self._ready = False  # of a member that held nothing, nothing was revoked
        self._unsaved.clear()
        self._dispatch.clear()
        # Leading may put a restored learner in place of this one: before scorers get its models.
        await self.follower.lead(numbers, self._go_on)
        await self.follower.catch_up(self._go_on)
        await self._settle_field()
        await self.partitions.take_over(numbers, self._go_on)
        await self.follower.catch_up(self._go_on)
        if self.pipeline.labels.field is not None and len(numbers) == self.partitions.count:
            self.follower.learn_row_by_row([owned.scorer for owned in self.partitions.owned.values()])
        else:
            self.follower.read_back()
        if not await self._opened(self.partitions.starts()):
            self.partitions.park()
            return
        search_rarely()  # what is restored stays
        self._ready = True
        self._saved_s = time.monotonic()
        self._taken_over_s = time.time()
        kept = self.partitions.kept
        log.info("partitions taken over", partitions=numbers, kept=kept, leader=self.follower.leading)

    async def _opened(self, positions: dict[LogPartition, int | None]) -> bool:
        """Begin to read at these positions; False if the group has moved on during the takeover."""
        try:
            if positions:
                await self._source.seek(positions, accept_lost=self._accepted.lost_records)
        except BrokerError:
            if not self._moving:
                raise
        return not self._moving

    # -- one turn ---------------------------------------------------------------------------------

    async def _advance(self, partition: Partition, polled_s: float) -> None:
        """Answer every run that is ready, while the partition is ours."""
        if self._ready:
            partition.check_inputs(self._source)
            if self._inputs.rekey is not None and not self._holding:
                await self._dispatch.put(partition.route(_now_ms()))
        while self._ready and not self._holding and (found := partition.next_run()) is not None:
            run, values = found
            if self.pipeline.plan.lookups and (stored := await self._static.of(run)) is not None:
                values = merge_values(stored, values)
            async with self._models:
                # 2 step   3 send
                steps = partition.scorer.step(run, _now_ms(), values)
                await self._dispatch.put(next(steps))
                if partition.answers_first:
                    await self._dispatch.answers()
                self._observe(run, polled_s)
                started_s = time.monotonic()
                if (follows := next(steps, None)) is not None:
                    partition.shadows_slow = time.monotonic() - started_s > SHADOWS_QUICK_S
                    await self._dispatch.put(follows)
            self._hand_on(partition.scorer)
            if self._saved_ago() >= 1 - PREPARE_SHARE:
                partition.prepare_checkpoint()
            self.metrics.label_delay.observe_ms(partition.scorer.label_delays_ms)
            await self.follower.wait_until_near(BEHIND_MAX)

    def _move_idle(self) -> None:
        """Let the watermark of quiet partitions go on."""
        if self._ready:
            now_ms = int(time.monotonic() * 1_000)
            self._idle.turn(self.partitions.owned, now_ms=now_ms, wall_ms=_now_ms())

    def _count(self) -> None:
        """Export the counts since the last turn, those of partitions that only compute for others too."""
        for partition in self.partitions.owned.values():
            partition.absorb_counts(self.metrics.absorb)
        self.metrics.absorb(self.partitions.counts)
        self.metrics.absorb(self._served.counts)
        self.metrics.absorb(self._unsaved.counts)
        self.metrics.absorb(self._dispatch.counts)
        self.metrics.absorb(self._idle.counts)
        self.metrics.absorb(self.follower.counts)
        if self.follower.snapshots is not None:
            self.metrics.absorb(self.follower.snapshots.counts)
        self.follower.check()
        counts = self.metrics.counts
        answered = sum(n for (name, by), n in counts.items() if name == "predictions" and by != "again")
        self._slow += self.follower.measure(answered - self._answered)
        self._unsaved.take(answered - self._answered)
        self._holding = self._unsaved.full()
        self._answered = answered
        self.metrics.absorb_seconds(self.follower.stopwatch, self.follower.racers)
        for outcome, count in self._static.counts.items():
            self.metrics.counts["lookups", outcome] = count
        for watch in self._watches:
            watch.tell(self.metrics.counts, self._turned_s)

    def _hand_on(self, scorer: Scorer) -> None:
        """Hand on what a run has answered and erased: to the store of served features, and to the page."""
        self._served.put(scorer.scored, scorer.erased)
        self.rings.answered(scorer.scored)
        self.rings.erased(scorer.erased)

    def _observe(self, run: Run, polled_s: float) -> None:
        if run.events:
            self.metrics.prediction_duration.observe_same(time.monotonic() - polled_s, len(run.events))
            now_ms = _now_ms()
            stamps = [read.record.timestamp_ms for read in run.events]
            self.metrics.end_to_end.observe_ms([now_ms - stamp for stamp in stamps if stamp is not None])

    # -- commands ---------------------------------------------------------------------------------

    async def ask(self, value: bytes, sent: Headers) -> None:
        """Queue the bytes of a command that came with headers; returns when the examples log has it."""
        taken = admission(sent, self._command_keys, topic=self._commands_topic, value=value)
        value = value[: COMMAND_BYTES_MAX + 1]  # one too many is refused there
        now_ms = _now_ms()
        records = [
            Outgoing("examples", partition, key, value, taken, now_ms)
            for partition, key in self.follower.command_places(value)
        ]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._commands.put((records, done))
        await done

    async def _write_commands(self) -> None:
        if self._writing_waits:
            return
        while self._slow:
            await self._write_logged([self._slow.pop()])
        while not self._commands.empty():
            records, done = self._commands.get_nowait()
            await self._write_logged(records)
            if not done.done():
                done.set_result(None)

    async def _write_entries(self) -> None:
        """Write the records that let candidates in which have learned the log, or refuse them."""
        while not self._writing_waits and (record := self.follower.take_entry()) is not None:
            if self.follower.leading:
                await self._write_logged([record])

    @property
    def _writing_waits(self) -> bool:
        """Return whether a record would wait for a checkpoint, and that for a store that cannot be used."""
        return self.follower.row_by_row and self._checkpoints.outage_s > 0

    async def _write_logged(self, records: list[Outgoing]) -> None:
        """Write records that no scorer made into the examples log, and see that they are folded."""
        if self.follower.row_by_row:
            await self._save()  # compares places in the log, before the record is read back from there
        await self._dispatch.put(records)
        await self._dispatch.all()
        await self._sink.flush()
        await self.follower.record_written()

    async def _settle_field(self) -> None:
        """Write our file's field into the examples log, where we lead and it is due, and fold it."""
        if not self.follower.leading or not (records := self.follower.fields_due()):
            return
        await self._write_logged(records)
        await self.follower.catch_up()
        self.follower.check_fields_taken()

    # -- saving -----------------------------------------------------------------------------------

    async def _save_beside(self) -> None:
        """Begin a checkpoint where one is due, without waiting for it; raise the error of the last one."""
        if self._checkpoints.ended:
            await self._saved()
        due = self._saved_ago() >= 1 or self._unsaved.due or self.follower.overfull
        if due and not self._checkpoints.in_flight:
            await self._capture()

    def _saved_ago(self) -> float:
        """Return how long ago the last checkpoint began, in intervals."""
        return (time.monotonic() - self._saved_s) * 1000 / self.settings.checkpoint_interval_ms

    async def _save(self) -> None:
        """Write a checkpoint of everything owned before anything else happens."""
        await self._saved()
        await self._capture()
        await self._saved()

    async def _capture(self) -> None:
        """Send all queued records, and begin a checkpoint."""
        if not self.partitions.owned:
            return
        async with self._models:
            await self._dispatch.put(self.follower.take_decisions())
            await self._dispatch.all()
            self._checkpoints.begin()
            self._unsaved.captured()
        self._saved_s = time.monotonic()

    async def _saved(self) -> None:
        """Wait for the checkpoint in flight; if it was fenced, claim what is still assigned again."""
        if not self._checkpoints.in_flight:
            return
        try:
            await self._checkpoints.finish()
        except ClaimError as error:
            log.warning(AGAIN, reason=str(error))
            self._claim_again()
        except StoreUnavailableError as error:
            if self._stopping.is_set():
                raise
            log.warning("partitions are given up unsaved", reason=error.message)
            self._claim_again()
        else:
            self._unsaved.saved()
            self.metrics.checkpoint_time_s = time.time()
            self.metrics.checkpoint_duration.observe_same(self._checkpoints.took_s, 1)

    def _claim_again(self) -> None:
        """Release what is owned, and claim what is still assigned."""
        self.partitions.release()
        self._assigned = self._source.assignment

    # -- what others ask --------------------------------------------------------------------------

    @property
    def rings(self) -> Rings:
        """Return what the page remembers."""
        return self.follower.race.rings

    def unhealthy(self) -> str:
        """Return why this process is not alive, or the empty string."""
        if unanswered_s():
            return ""  # it waits, and a restart would not help
        silent_s = time.monotonic() - max(self._turned_s, last_answer_s())
        return f"the loop has not turned for {silent_s:.0f} s" if silent_s > STALLED_S else ""

    def not_ready(self) -> str:
        """Return why this process cannot answer events yet, or the empty string."""
        if silent_s := unanswered_s():
            longest_s = self.settings.kafka.outage_deadline_ms // 1000
            return f"no broker has answered for {silent_s:.0f} s: holding still, for {longest_s} s at most"
        if self._holding:
            return f"{int(self._unsaved)} answers are in no checkpoint, and no more events are taken"
        return "" if self._ready else "partitions are not assigned and restored yet"

    def seen(self) -> Seen:
        """Return what there is to do and where it stands."""
        unread = taken = 0
        if self._ready:
            for partition in self.partitions.owned.values():
                left, reached = partition.reached(self._source)
                unread, taken = unread + left, taken + reached
        follower, unfolded = self.follower, self.follower.unfolded
        return Seen(
            restored=self._ready,
            restoring=self._restoring,
            restored_to=self.partitions.read + follower.folded,
            unread=unread,
            taken=taken,
            unlearned=unfolded,
            learned=follower.folded,
            paused=follower.paused,
            held=self._holding,
            store_away=self._checkpoints.outage_s > 0,
            broker_away=unanswered_s() > 0 or not self.connected.is_set(),
            learner_waited_for=not follower.paused and min(follower.lag, unfolded) > BEHIND_MAX,
            saving=self._checkpoints.in_flight,
            loop_silent_s=time.monotonic() - self._turned_s,
        )

    def _surroundings(self) -> Surroundings:
        """Return what alerts about this process go by."""
        owned = self.partitions.owned if self._ready else {}
        lag = sum(self._unread().values())
        saved_s = max(self.metrics.checkpoint_time_s, self._taken_over_s)
        age_ms = max(time.time() - saved_s, 0.0) * 1000
        return Surroundings(frozenset(owned), lag, age_ms, self._checkpoints.outage_s * 1000)

    def _moment(self) -> SeenWorker:
        """Return what the other workers are told of this one: no score, as those are counted for a while."""
        metrics, follower = self.metrics, self.follower
        champion, models = follower.served()
        reason = self.unhealthy() or self.not_ready()
        saved_s = metrics.checkpoint_time_s
        return SeenWorker(
            clock_s=time.monotonic(),
            tallies=tallies(metrics.counts),
            scoring=Buckets(*metrics.prediction_duration.read()),
            end_to_end=Buckets(*metrics.end_to_end.read()),
            ready=not reason,
            standing=reason or self.standing(),
            leading=follower.leading,
            paused=follower.paused,
            partitions=len(self.partitions.owned),
            lag=self._unread(),
            examples=follower.examples,
            unlearned=follower.unlearned,
            champion=champion,
            models=models,
            checkpoint_age_ms=int((time.time() - saved_s) * 1_000) if saved_s else None,
            unsaved=int(self._unsaved),
            store_away_ms=int(self._checkpoints.outage_s * 1_000),
            firing=self._alerting.firing(),
        )

    def _unread(self) -> dict[LogPartition, int]:
        """Return the lag of every partition of events and labels that is read here."""
        owned = self.partitions.owned if self._ready else {}
        inputs = [(topic, number) for number in owned for topic in self._inputs.topics]
        return {partition: self._source.lag(partition) for partition in inputs}

    async def look_at_ends(self) -> None:
        """Ask where the logs that are read end, other than by fetching."""
        if self._ready:
            inputs = [(topic, number) for number in self.partitions.owned for topic in self._inputs.topics]
            await self._source.look_at_ends(inputs)

    def standing(self) -> str:
        """Return in words what this process does while it is ready."""
        return "ok" if self.partitions.owned else "ok: a standby, other workers own all partitions"

    def status(self) -> Status:
        """Return the status that a scrape shows."""
        status = self.follower.status(
            lag=self._unread(),
            pending=self.partitions.pending,
            partitions=len(self.partitions.owned),
        )._replace(
            window_keys=self.partitions.key_count,
            unsaved=int(self._unsaved),
            store_outage_s=self._checkpoints.outage_s,
            stalled_s=self.progress.stalled_s,
        )
        return status._replace(firing=(*status.firing, *self._alerting.firing().items()))


def _source(pipeline: Pipeline, settings: Settings, inputs: Inputs, listener: Worker) -> Source:
    """Return the member of the group; where the leader alone learns, it may have fewer partitions."""
    leader_max = settings.leader_partitions_max
    if leader_max and pipeline.follow is None:
        log.warning(
            "leader_partitions_max is of no effect: the leader has as much to do as any other worker",
            leader_partitions_max=leader_max,
            fix='say follow="1s" in the pipeline, or leave the setting out',
        )
        leader_max = 0
    return Source(
        settings.kafka,
        group=pipeline.name,
        topics=inputs.topics,
        listener=listener,
        leader_partitions_max=leader_max,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
