"""A pipeline under development: an embedded broker, one worker, a new worker whenever the file is saved.

Lives here: what is started when, what a saved file leads to, what is told of it.  Never here: how that is
printed (`engine/cli/project/dev.py`), what a changed file does to a race (`machines/field_records.py`).

Everything that is started is a command that a user could type, with the settings of this broker:

    saved ──> check ──refused──> told; the running worker stays
                └──sound──> topics that are missing ──> the worker drains and leaves ──> one of this file
                               it is ready: the race goes on, with a field record <──────┴──> it dies:
                                                                          the file before it runs again

State lies in a folder that goes when the session ends, as the broker's records do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine.kafka.embedded import EmbeddedBroker
from engine.kafka.log_reader import read_log
from engine.kafka.topic_admin import ensure_topics
from engine.local.worker import WorkerPage, WorkerProcess, environment, worker_command
from engine.settings import KafkaSettings
from topics.catalog import TopicPlan
from topics.codec import decode_decision
from topics.errors import BrokerError, DefinitionError
from topics.messages import REPORTED

__all__ = ["DevFeed", "DevSession", "DevTold"]

LOOK_S = 0.25
"""How often it is looked whether the file or the worker has changed."""
FIGURES_S = 5.0
"""Between two lines of figures, where they have changed."""
CHECK_DEADLINE_S = 120.0
"""A file whose check takes longer hangs."""
QUIET = REPORTED | {"blend.weighed"}
"""Decisions that are not told: they come all the time."""
SAID_MAX = 4_000
"""Characters of what a command says that are told."""

DevTold = Callable[[str, str, Mapping[str, Any]], object]
"""Takes what happened: its kind, a line for people, its facts."""


class DevFeed(NamedTuple):
    """What is published, and how fast."""

    events: Path
    labels: Path | None
    rate: float
    """Records per second."""


class _Checked(NamedTuple):
    """A file as it was checked."""

    source: bytes
    plan: tuple[TopicPlan, ...]
    refusal: str
    """Why it does not run; empty where it does."""


class DevSession:
    """One file, run until `stop` is set."""

    def __init__(self, file: Path, feed: DevFeed | None, port: int, told: DevTold) -> None:
        """`port` is that of the worker's pages, in every restart the same."""
        self._file = file.resolve()
        self._feed, self._port, self._told = feed, port, told
        self._folder = Path(tempfile.mkdtemp(prefix="headrace-dev-"))
        self._tasks: list[asyncio.Task[None]] = []
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Run until `stop` is set; whatever was started has ended then.

        Raises DefinitionError where the file does not run at the start, SettingsError without a broker.
        """
        checked = await self._check(self._file.read_bytes() if self._file.is_file() else b"")
        if checked.refusal:
            raise DefinitionError(checked.refusal)
        try:
            with EmbeddedBroker(log=self._folder / "broker.log") as broker:
                kafka = broker.kafka_settings().model_copy(update={"replication_factor": -1})
                await self._make_topics(kafka, checked)
                self._tell("broker", f"broker {kafka.bootstrap_servers}", servers=kafka.bootstrap_servers)
                self._follow_decisions(kafka, checked.plan)
                try:
                    await self._generations(kafka, checked)
                finally:
                    for task in self._tasks:
                        task.cancel()
                    await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- the file -------------------------------------------------------------------------------------

    async def _check(self, source: bytes) -> _Checked:
        """Check the file as `headrace check` does, in a process of its own: it may do anything."""
        command = [sys.executable, "-m", "headrace", "check", str(self._file), "--json"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), CHECK_DEADLINE_S)
        except TimeoutError:
            return _Checked(source, (), f"its check takes longer than {CHECK_DEADLINE_S:g} s")
        finally:
            await _ended(process)
        if process.returncode != 0:
            said = err.decode(errors="replace").strip().removeprefix("error: ")
            return _Checked(source, (), said[-SAID_MAX:] or f"exit code {process.returncode}")
        # A print of the file's own may stand before the object.
        rows = msgspec.json.decode(out.splitlines()[-1], type=dict[str, msgspec.Raw])["topic_plan"]
        plan = tuple(TopicPlan(**row) for row in msgspec.json.decode(rows, type=list[dict[str, Any]]))
        return _Checked(source, plan, "")

    async def _make_topics(self, kafka: KafkaSettings, checked: _Checked) -> None:
        await ensure_topics(kafka, [one._replace(create=True) for one in checked.plan])

    async def _saved(self, kafka: KafkaSettings, seen: bytes) -> _Checked | bytes:
        """Return the file if it was saved since `seen` and runs; else its bytes, told why they do not."""
        try:
            source = self._file.read_bytes()
        except OSError:
            return seen  # an editor puts a new file in the place of the old one
        if source == seen:
            return seen
        checked = await self._check(source)
        if not checked.refusal:
            try:
                await self._make_topics(kafka, checked)
            except BrokerError as error:
                checked = checked._replace(refusal=str(error))
        if not checked.refusal:
            return checked
        self._tell(
            "refused", f"the saved file does not run, the one before it does: {checked.refusal}",
            reason=checked.refusal,
        )  # fmt: skip
        return source

    # -- workers --------------------------------------------------------------------------------------

    async def _generations(self, kafka: KafkaSettings, first: _Checked) -> None:
        """Run one worker after the other: the next when the file was saved, or the last one has died."""
        good: _Checked | None = None
        current, seen = first, first.source
        while not self.stop.is_set():
            is_old = current is good  # the file on disk is a newer one
            with self._worker(kafka, current if is_old else None) as worker:
                if await self._becomes_ready(worker):
                    word = (
                        "started"
                        if good is None
                        else "goes on with the file before"
                        if is_old
                        else "reloaded"
                    )
                    page = f"http://127.0.0.1:{worker.port}/"
                    self._tell(word.split(maxsplit=1)[0], f"{word}: the page is {page}", page=page)
                    good = current
                    if self._feed is not None:
                        self._tasks.append(asyncio.create_task(self._send(kafka, self._feed)))
                        self._feed = None
                elif not self.stop.is_set():
                    self._tell_died(worker)
                    if good is not None and not is_old:
                        current = good
                        continue
                found = await self._until_saved(kafka, worker, seen)
                if found is not None:
                    current, seen = found, found.source
                await asyncio.to_thread(worker.stop)

    def _worker(self, kafka: KafkaSettings, old: _Checked | None) -> WorkerProcess:
        """Return a worker of the file, or of one as it was before."""
        file, told = self._file, {}
        if old is not None:
            file = self._folder / "before" / self._file.name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(old.source)
            path = os.environ.get("PYTHONPATH", "")
            told["PYTHONPATH"] = os.pathsep.join(filter(None, (str(self._file.parent), path)))
        command = [*worker_command(file), "--accept-changed-features"]
        return WorkerProcess(command, kafka, self._folder, told, port=self._port)

    async def _becomes_ready(self, worker: WorkerProcess) -> bool:
        """Return whether the worker answers events; False where it has died, or the session ends."""
        while worker.exit_code is None and not self.stop.is_set():
            if await asyncio.to_thread(worker.ready):
                return True
            await self._pause()
        return False

    async def _until_saved(self, kafka: KafkaSettings, worker: WorkerProcess, seen: bytes) -> _Checked | None:
        """Tell figures until the file was saved and runs; return it, None where the session ends."""
        lived, shown, next_s = worker.exit_code is None, WorkerPage(), time.monotonic() + FIGURES_S
        while not self.stop.is_set():
            found = await self._saved(kafka, seen)
            if isinstance(found, _Checked):
                return found
            seen = found
            if lived and worker.exit_code is not None:
                lived = False
                self._tell_died(worker)
            if lived and time.monotonic() >= next_s:
                next_s = time.monotonic() + FIGURES_S
                shown = self._tell_figures(await asyncio.to_thread(worker.metrics), shown)
            await self._pause()
        return None

    def _tell_figures(self, page: WorkerPage | None, shown: WorkerPage) -> WorkerPage:
        """Tell what a worker has done, where it has done more; return what was told last."""
        if page is None or (page.answered, page.learned) == (shown.answered, shown.learned):
            return shown
        champion = "" if page.champion is None else page.champion.name
        self._tell(
            "figures",
            f"answered {page.answered:,}, learned {page.learned:,}, dead letters {page.dead_letters:,}, "
            f"lag {page.lag:,}; {champion} answers",
            answered=page.answered,
            learned=page.learned,
            dead_letters=page.dead_letters,
            lag=page.lag,
            champion=champion,
        )
        return page

    def _tell_died(self, worker: WorkerProcess) -> None:
        said = "\n  ".join(worker.log_tail())
        self._tell("died", f"the worker ended with code {worker.exit_code}:\n  {said}", log=said)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), LOOK_S)

    # -- beside the worker ----------------------------------------------------------------------------

    async def _send(self, kafka: KafkaSettings, feed: DevFeed) -> None:
        """Publish the files by `headrace send`, and tell how that ended."""
        labels = () if feed.labels is None else ("--labels", str(feed.labels.resolve()))
        command = [
            *(sys.executable, "-m", "headrace", "send", str(self._file)),
            *("--events", str(feed.events.resolve()), *labels, "--rate", str(feed.rate)),
        ]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self._folder,
            env=environment(kafka, state_dir=self._folder, web_port=self._port),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
        )
        try:
            out, err = await process.communicate()
        finally:
            await _ended(process)
        said = out.decode(errors="replace").partition("\n")[0]
        if process.returncode == 0:
            self._tell("sent", said, said=said)
        else:
            reason = err.decode(errors="replace").strip().removeprefix("error: ")[-SAID_MAX:]
            self._tell("unsent", f"the data cannot be sent: {reason}", reason=reason)

    def _follow_decisions(self, kafka: KafkaSettings, plan: tuple[TopicPlan, ...]) -> None:
        """Tell the decisions of the race as they are written."""
        topic = next(one for one in plan if one.role == "decisions")

        async def follow(partition: int) -> None:
            async for records in read_log(kafka, topic.name, partition, 0):
                for record in records:
                    decision = decode_decision(record.value or b"")
                    if decision.type not in QUIET:
                        line = f"{decision.type} {decision.model_name}: {decision.reason}"
                        facts = {
                            "type": decision.type,
                            "model": decision.model_name,
                            "reason": decision.reason,
                        }
                        self._tell("decision", line, **facts)

        self._tasks += [asyncio.create_task(follow(number)) for number in range(topic.partitions)]

    def _tell(self, kind: str, line: str, **facts: Any) -> None:
        self._told(kind, line, facts)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Kill a process that is left behind: this very one, by its own id."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
