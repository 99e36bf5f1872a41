"""The walk: which functions of the product one event, or one label, enters in a real worker.

Lives here: a worker on the embedded broker, one record published into it, and a trace of the tasks that carry
it.  Never here: limits (`test_rooms.py`).

A trace holds every function of the product that is entered, in order, by the task that carries the record:

    event   from the poll that hands it out until its prediction is packed into a batch; one that a single
            model answers, and one that a blend answers, which asks several and so takes the longer way
    label   from the poll that hands it out until its example is handed to the dispatch; then the send of the
            example; then the task that reads the example back, until the champion is another
"""

from __future__ import annotations

import ast
import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from paths import CHECKOUT
from river import compose, linear_model, optim
from running import FLIGHTS, Message, flights, in_process, make_topics, publish, until

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.kafka import sink
from engine.kafka.embedded import EmbeddedBroker
from engine.kafka.sink import Dispatch
from engine.kafka.source import Source
from engine.settings import KafkaSettings, Settings
from engine.worker.loop import Worker
from operators.race.blend import BLEND
from operators.race.evidence import Promotion
from topics.messages import Content, Outgoing, OutgoingRole, Record

PRODUCT = ("topics", "operators", "engine", "loadtest", "headrace")
DEPARTURES = 200
SWAP_EXAMPLES = 100
"""The swap comes with this one."""
NEVER_MS = 3_600_000
"""Between checkpoints: none begins in the middle of a walk."""


class Walk:
    """Functions in the order in which they were entered."""

    def __init__(self) -> None:
        self.codes: dict[CodeType, None] = {}
        self.generated: list[str] = []
        """Product code that lies in no file."""

    def enter(self, frame: FrameType) -> None:
        code = frame.f_code
        if code in self.codes:
            return
        if code.co_filename.startswith("<") and _is_ours(frame):
            self.generated.append(f"{code.co_filename}: {code.co_qualname}")
        elif _room(code.co_filename):
            self.codes[code] = None

    @property
    def lines(self) -> dict[str, int]:
        """Lines of the functions entered, by file, in order; docstrings count."""
        entered: dict[str, set[int]] = {}
        for code in self.codes:
            path = str(Path(code.co_filename).relative_to(CHECKOUT))
            entered.setdefault(path, set()).update(_span(code.co_filename, code.co_firstlineno))
        return {path: len(lines) for path, lines in entered.items()}

    def functions(self, path: str) -> list[str]:
        """Return the names of the functions entered in a file, in order."""
        return [code.co_qualname for code in self.codes if code.co_filename == str(CHECKOUT / path)]

    def table(self, title: str) -> str:
        rows = [
            f"{lines:6}  {path:42} {' '.join(name.rpartition('.')[2] for name in self.functions(path))}"
            for path, lines in self.lines.items()
        ]
        total = f"{title}: {len(rows)} files, {sum(self.lines.values())} lines of the functions entered"
        return "\n".join([total, *rows, *(f"  generated: {name}" for name in self.generated)])


@cache
def _room(filename: str) -> str:
    """Return the top-level package that a file of the product lies in, or the empty string."""
    path = Path(filename)
    room = path.relative_to(CHECKOUT).parts[0] if path.is_relative_to(CHECKOUT) else ""
    return room if room in PRODUCT else ""


def _is_ours(frame: FrameType) -> bool:
    """Return whether code without a file was made by the product: not by `namedtuple` or `dataclass`."""
    module = str(frame.f_globals.get("__name__", ""))
    by_library = module.startswith("namedtuple_") or frame.f_code.co_qualname.startswith("__create_fn__.")
    return not by_library and (
        not module or module == "builtins" or module.split(".", maxsplit=1)[0] in PRODUCT
    )


@cache
def _spans(filename: str) -> dict[int, int]:
    """Return the last line of every function of a file by its first, decorators included."""
    spans: dict[int, int] = {}
    for node in ast.walk(ast.parse(Path(filename).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            spans[first] = node.end_lineno or first
        elif isinstance(node, ast.Lambda | ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp):
            spans.setdefault(node.lineno, node.end_lineno or node.lineno)
    return spans


def _span(filename: str, first: int) -> range:
    return range(first, _spans(filename).get(first, first) + 1)


class Tracer:
    """Keeps what each task enters while it is on: `sys.setprofile`, told apart by task."""

    def __init__(self) -> None:
        self.walks: dict[asyncio.Task[Any] | None, Walk] = {}
        self.held: set[asyncio.Task[Any] | None] = set()
        """Tasks that are not looked at for now."""
        self._outer: set[FrameType] = set()
        self._ended: Callable[[], bool] = bool
        self.ended_in: asyncio.Task[Any] | None = None

    def start(self, ended: Callable[[], bool] = bool) -> None:
        """Begin anew; `ended` is asked after every function of the product."""
        self.walks.clear()
        self.held.clear()
        self.ended_in = None
        self._ended = ended
        # Who polls is part of the walk; whoever awaits that one has been entered before.
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not _room(frame.f_code.co_filename):
            frame = frame.f_back
        self._outer = set()
        while frame is not None and (frame := frame.f_back) is not None:
            self._outer.add(frame)
        self.enter_stack()
        sys.setprofile(self._profile)

    def stop(self) -> None:
        sys.setprofile(None)

    def enter_stack(self) -> None:
        """Take note of the functions that have led to this one since the start, in their order."""
        walk, frames = self.walks.setdefault(_task(), Walk()), []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame not in self._outer:
            frames.append(frame)
            frame = frame.f_back
        for entered in reversed(frames):
            walk.enter(entered)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            if frame not in self._outer and (task := _task()) not in self.held:
                self.walks.setdefault(task, Walk()).enter(frame)
        elif event == "return" and _room(frame.f_code.co_filename) and self._ended():
            self.ended_in = _task()
            self.stop()


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


# -- a worker, a record, and what carries it ----------------------------------------------------------


class Stage:
    """Stands around a worker in this process and traces the one record that is awaited."""

    def __init__(self) -> None:
        self.tracer = Tracer()
        self.polling = threading.Event()
        """A poll is under way that hands out what is published now."""
        self.sent = threading.Event()
        """The prediction, or the example, is in a batch."""
        self.carrier: asyncio.Task[Any] | None = None
        """The task that has polled the record."""
        self._awaited = b""
        self._log: OutgoingRole = "predictions"
        self._ended: Callable[[], bool] = bool

    def expect(self, message: Message, log: OutgoingRole, ended: Callable[[], bool] = bool) -> None:
        """Trace a message from the poll that hands it out to what is made of it for a log."""
        assert message.value is not None
        self._awaited = json.loads(message.value)["event_id"].encode()
        self._log, self._ended = log, ended
        self.carrier = None
        self.polling.clear()
        self.sent.clear()

    def _is_in(self, records: Iterable[Record | Outgoing]) -> bool:
        return bool(self._awaited) and any(self._awaited in (record.value or b"") for record in records)

    def _is_made(self, records: Iterable[Outgoing | Content]) -> bool:
        made = (one for one in records if isinstance(one, Outgoing) and one.target == self._log)
        return self._is_in(made)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put this in the way of polls, of what is handed to the dispatch, and of batches."""
        poll, put, pack = Source.poll, Dispatch.put, sink._pack

        async def traced_poll(source: Source, *limits: int) -> Any:
            if not self._awaited or self.carrier is not None:
                return await poll(source, *limits)
            self.tracer.start(self._ended)
            self.polling.set()
            batches = await poll(source, *limits)
            if any(self._is_in(records) for records in batches.values()):
                self.carrier = asyncio.current_task()
            else:
                self.tracer.stop()
            return batches

        async def traced_put(dispatch: Dispatch, out: Sequence[Outgoing]) -> None:
            await put(dispatch, out)
            if self._log == "examples" and self._is_made(out):
                self.tracer.held.add(self.carrier)

        def traced_pack(batch: Any, records: Sequence[Outgoing | Content], *rest: Any) -> int:
            if not self._is_made(records):
                return pack(batch, records, *rest)
            self.tracer.enter_stack()
            index = pack(batch, records, *rest)
            if self._log == "predictions":
                self.tracer.stop()
            self.sent.set()
            return index

        monkeypatch.setattr(Source, "poll", traced_poll)
        monkeypatch.setattr(Dispatch, "put", traced_put)
        monkeypatch.setattr(sink, "_pack", traced_pack)

    def walk(self) -> Walk:
        """Return what the carrier entered, and then what the task entered in which the walk ended."""
        walk = self.tracer.walks[self.carrier]
        if self.tracer.ended_in not in {None, self.carrier}:
            walk.codes |= self.tracer.walks[self.tracer.ended_in].codes
        return walk


def led_by(pipeline: Pipeline, champion: str) -> Pipeline:
    """Return the race of the models alone, one of them named: no blend joins it."""
    models = {name: model for name, model in pipeline.models.items() if name != BLEND}
    return replace(pipeline, models=models, champion=champion)


def contested(pipeline: Pipeline) -> Pipeline:
    """Return the flights with a champion for which every flight is late, and an early swap."""
    late = compose.Select("distance") | linear_model.LogisticRegression(
        optimizer=optim.SGD(0.0), intercept_init=10.0, intercept_lr=0.0
    )
    return replace(
        led_by(replace(pipeline, models={**pipeline.models, "late": late}), "late"),
        promotion=Promotion(false_swap_every=10, evidence_block=1, min_examples=SWAP_EXAMPLES, cooldown=0),
    )


def live(message: Message) -> Message:
    """Return the message as a record that is written now: behind a backlog, a worker asks for more."""
    return message._replace(time=time.time_ns() // 1_000_000)


@asynccontextmanager
async def staged(pipeline: Pipeline, folder: Path) -> AsyncIterator[tuple[Stage, Worker, KafkaSettings]]:
    """Run a worker over its stage, on a broker of its own."""
    stage = Stage()
    with EmbeddedBroker() as broker, pytest.MonkeyPatch.context() as patches:
        kafka = broker.kafka_settings()
        stage.install(patches)
        await make_topics(kafka, pipeline)
        settings = Settings(kafka=kafka, state_dir=folder, checkpoint_interval_ms=NEVER_MS)
        async with in_process(pipeline, settings) as (worker, _):
            yield stage, worker, kafka


async def walk_of_event(folder: Path, champion: str | None) -> Walk:
    """Return the walk of one event after a few hundred others and their labels.

    `champion` answers; None: the blend, as the file of the flights has it.
    """
    pipeline = load_pipeline(FLIGHTS / "pipeline.py")
    pipeline = pipeline if champion is None else led_by(pipeline, champion)
    messages = flights(pipeline.events.name, pipeline.labels.topic or "", departures=DEPARTURES)
    last = max(n for n, message in enumerate(messages) if message.topic == pipeline.events.name)
    async with staged(pipeline, folder) as (stage, worker, kafka):
        learner, labels = worker.follower.learner, 0
        for part in (messages[: last // 2], messages[last // 2 : last]):  # no model answers without a lesson
            await publish(kafka, part)
            labels += sum(message.topic == pipeline.labels.topic for message in part)
            await until(lambda due=labels: learner.examples == due, "what went before is learned")
        stage.expect(messages[last], "predictions")
        await until(stage.polling.is_set, "the worker polls")
        await publish(kafka, [live(messages[last])])
        await until(stage.sent.is_set, "the prediction is sent")
    return stage.walk()


async def walk_of_label(folder: Path) -> Walk:
    """Return the walk of the one label that brings a swap."""
    pipeline = contested(load_pipeline(FLIGHTS / "pipeline.py"))
    messages = flights(pipeline.events.name, pipeline.labels.topic or "", departures=DEPARTURES)
    labels = [n for n, message in enumerate(messages) if message.topic == pipeline.labels.topic]
    decisive = labels[SWAP_EXAMPLES - 1]
    async with staged(pipeline, folder) as (stage, worker, kafka):
        learner = worker.follower.learner
        await publish(kafka, messages[:decisive])
        await until(lambda: learner.examples == SWAP_EXAMPLES - 1, "what went before is learned")
        assert learner.roster.champion == "late"
        stage.expect(messages[decisive], "examples", lambda: learner.roster.champion != "late")
        await until(stage.polling.is_set, "the worker polls")
        await publish(kafka, [live(messages[decisive])])
        await until(lambda: stage.sent.is_set() and learner.roster.champion != "late", "the swap")
    return stage.walk()
