"""The page of a real worker in a real browser: it needs nothing but this machine, updates, and can be used.

A worker runs in this process on the embedded broker; what is published is a day of flights, then a swap that
somebody asks for.  Pictures of every width, light and dark, are left in `var/page`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from chromium import Tab, tab
from paths import CHECKOUT
from running import FLIGHTS, Message, flights, in_process, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.host.pages import serving
from engine.kafka.embedded import EmbeddedBroker, free_port
from engine.page.facts import PageFacts
from engine.page.features import features_told
from engine.page.site import page_of
from engine.settings import KafkaSettings, Settings
from engine.worker.loop import Worker
from operators.drift.watch import Watch

PICTURES = CHECKOUT / "var" / "page"
WIDTHS = (400, 800, 1280)
WATCH = Watch(block="1h", reference_span="14h", false_alarm_every="30d")
"""Short enough for one day of flights."""
DEPARTURES = 600
SETTLED = """[...document.querySelectorAll('.uplot')].every(
    chart => Math.abs(chart.clientWidth - Math.max(160, chart.parentElement.clientWidth)) < 1)"""
"""Whether all charts are as wide as their panels: they follow a layout that has changed."""
ROWS = "document.querySelectorAll('#answers tbody tr').length"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


SOURCE = """
    from msgspec import Struct
    from river import linear_model, naive_bayes, tree

    from engine import Labels, Pipeline, Topic
    from operators import field


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float
        truth: KIND


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor"),
        labels=Labels(field="truth"),
        features={"value": field("value")},
        models={"one": MODEL},
        champion="one",
    )
"""


class Known(NamedTuple):
    """A pipeline of a task, and what its page must say where all labels are the same."""

    model: str
    kind: str
    truth: str | float
    metric: str
    judged: str
    shown: str


TASKS = {
    "multiclass": Known("naive_bayes.GaussianNB()", "str", "a tulip", "Accuracy", "Brier score", "a tulip"),
    "regression": Known(
        "tree.HoeffdingTreeRegressor()", "float", 161_988.82679, "MAE", "absolute error", "161989"
    ),
}


class Shown(NamedTuple):
    """A worker, its broker, and the address of its page."""

    pipeline: Pipeline
    kafka: KafkaSettings
    worker: Worker
    url: str

    async def fly(self, first: int, departures: int) -> None:
        """Publish flights with their arrivals, and a record that is none; wait until all is learned."""
        pipeline = self.pipeline
        messages = flights(
            pipeline.events.name, pipeline.labels.topic or "", first=first, departures=departures
        )
        broken = Message(pipeline.events.name, messages[-1].time, b"JFK", b'{"event_id": "<b>no flight</b>"}')
        await publish(self.kafka, [*messages, broken])
        learner, due = self.worker.follower.shown, first + departures
        assert learner is not None
        await until(lambda: learner.examples == due, f"{due} are learned")

    def check_open_parts(self) -> None:
        """What is for all names no key, id or value of an event, and what is not does."""
        facts = PageFacts(self.pipeline, self.worker, self.worker.metrics)
        open_parts = b"".join(
            part()
            for part in (facts.about, facts.facts, facts.marks, facts.group, facts.race, facts.features)
        )
        closed = b"".join(part() for part in (facts.persons, facts.slices, facts.cells))
        answer, key, _ = self.worker.rings.answers[-1]
        carrier = str(answer.features["carrier"])
        for text in (answer.event_id, f'"{key}"', f'"{carrier}"', "no flight"):
            assert text.encode() in closed, text
            assert text.encode() not in open_parts, text

    async def promote(self, model: str) -> None:
        """Ask for a swap."""
        command = {
            "command_id": "c1",
            "command": "promote",
            "time": _now_ms(),
            "actor": "ann",
            "model_name": model,
        }
        await self.worker.ask(json.dumps(command).encode(), ())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def shown(pipeline: Pipeline, folder: Path, *, token: str | None = None) -> AsyncIterator[Shown]:
    """Run a worker and serve its page for the block."""
    with EmbeddedBroker() as broker:
        kafka = broker.kafka_settings()
        await make_topics(kafka, pipeline)
        settings = Settings(kafka=kafka, state_dir=folder)
        async with in_process(pipeline, settings) as (worker, _):
            metrics, port = worker.metrics, free_port()
            pages = page_of(PageFacts(pipeline, worker, metrics, Path("pipeline.py")), metrics.counts)
            async with serving("127.0.0.1", port, pages, token=token, counts=metrics.counts):
                yield Shown(pipeline, kafka, worker, f"http://127.0.0.1:{port}/")


def test_the_page_of_a_worker(tmp_path: Path) -> None:
    asyncio.run(_the_page(tmp_path))


async def _the_page(folder: Path) -> None:
    pipeline = replace(load_pipeline(FLIGHTS / "pipeline.py"), slices=["carrier"], watch=WATCH)
    async with shown(pipeline, folder) as seen, tab() as page:
        await page.look(width=1400)
        await page.open(seen.url)
        await page.until("document.getElementById('standing').textContent === 'ready'")
        assert await page.evaluate("!document.getElementById('loss-none').hidden"), "no curve is said"
        await _keep(page, "empty-1400-light")

        await seen.fly(0, DEPARTURES)
        await page.until(f"{ROWS} === 20")
        await page.until("document.querySelectorAll('#loss canvas').length === 1")
        await page.until("document.getElementById('field').textContent.includes('blend')")
        await page.until("document.getElementById('letters').textContent.includes('<b>no flight</b>')")
        first = await page.evaluate("document.querySelector('#answers tbody').textContent")
        seen.check_open_parts()
        await seen.fly(DEPARTURES, DEPARTURES)
        await page.until(f"document.querySelector('#answers tbody').textContent !== {json.dumps(first)}")
        await _features(page, seen)

        assert await page.evaluate(
            "![...document.querySelectorAll('.mark')].some(m => m.title.includes('linear'))"
        )
        await seen.promote("linear")
        await page.until("document.querySelector('#field .champion')?.textContent.includes('linear')")
        await page.until("document.getElementById('marks').textContent.includes('model.promoted linear')")
        await page.until(
            "[...document.querySelectorAll('#loss .mark')].some(m => m.title.includes('promoted linear'))"
        )
        await _by_keyboard(page)

        for width in WIDTHS:
            for dark in (False, True):
                await page.look(width=width, dark=dark)
                await page.until(SETTLED)
                assert await page.evaluate(OVERFLOW) <= 0, f"the page is wider than {width} px"
                await _keep(page, f"page-{width}-{'dark' if dark else 'light'}")
        assert page.said == []
        assert {url.removeprefix(seen.url).split("?")[0] for url in page.asked} == {
            "", "page/uPlot.css", "page/page.css", "page/uPlot.js", "page/page.js", "page/panels.js",
            "page/charts.js", "page/elements.js", "page/group.js", "page/features.js", "page/stream",
        }  # fmt: skip


async def _features(page: Tab, seen: Shown) -> None:
    """Each feature is drawn twice, the most unusual first, with the categories to who may see them."""
    learner = seen.worker.follower.shown
    assert learner is not None
    assert learner.watching is not None
    await page.until("document.querySelectorAll('#features svg').length > 0")
    told = features_told(learner.watching.watcher)["features"]
    rows = "[...document.querySelectorAll('#features tbody tr')]"
    names = await page.evaluate(f"{rows}.map(row => row.cells[0].textContent)")
    assert names == [one["name"] for one in told]
    assert await page.evaluate(f"{rows}.every(row => row.querySelectorAll('svg').length === 2)")
    origin = f"{rows}.find(row => row.cells[0].textContent === 'origin')"
    drawn = f"[...{origin}.querySelectorAll('.now')].map(one => Number(one.getAttribute('height')))"
    heights = await page.evaluate(drawn)
    shares = next(one for one in told if one["name"] == "origin")["now"]["cells"]
    assert [round(one / max(heights), 2) for one in heights] == [
        round(one / max(shares), 2) for one in shares
    ]
    titles = f"{rows}.flatMap(row => [...row.querySelectorAll('title')].map(one => one.textContent))"
    await page.until(f"{titles}.some(title => title.startsWith('JFK: '))")


async def _by_keyboard(page: Tab) -> None:
    """Open the record of the last mark by keys alone, read it, and close it by Escape."""
    assert await page.evaluate("document.getElementById('record').open") is False
    await page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        await page.press("Tab")
        if await page.evaluate("document.activeElement.matches('#marks button')"):
            break
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert await page.evaluate(f"document.activeElement.matches('#marks button') && {outline} !== 'none'")
    await page.press("Enter")
    await page.until("document.getElementById('record').open")
    record = json.loads(await page.evaluate("document.getElementById('record-text').textContent"))
    assert record["type"] == "model.promoted"
    assert (record["from_model"], record["actor"]) == ("blend", "ann")
    await page.press("Escape")
    await page.until("!document.getElementById('record').open")
    assert await page.evaluate("document.activeElement.matches('#marks button')"), "focus is where it was"


async def _keep(page: Tab, name: str) -> None:
    picture = await page.picture()
    assert picture.startswith(b"\x89PNG")
    await asyncio.to_thread(_write, PICTURES / f"{name}.png", picture)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("task", TASKS)
def test_the_page_asks_for_the_token_and_shows_a_race_of_any_task(task: str, tmp_path: Path) -> None:
    asyncio.run(_asks_for_the_token(task, tmp_path))


async def _asks_for_the_token(task: str, folder: Path) -> None:
    token = "a token of enough bytes"
    known = TASKS[task]
    file = write_pipeline(folder, SOURCE.replace("MODEL", known.model).replace("KIND", known.kind), name=task)
    async with shown(load_pipeline(file), folder, token=token) as seen, tab() as page:
        await page.look(width=900)
        await page.open(seen.url)
        await page.until("!document.getElementById('door').hidden")
        assert await page.evaluate("document.activeElement.id") == "token"
        assert await page.evaluate("document.getElementById('tiles').children.length") == 0
        await page.call("Input.insertText", text=token)
        await page.press("Enter")
        await page.until("document.getElementById('standing').textContent === 'ready'")
        assert await page.evaluate("document.getElementById('door').hidden")
        assert token not in "".join(page.asked)
        await publish(seen.kafka, [reading(seen.pipeline.events.name, number, known) for number in range(60)])
        await page.until("document.getElementById('tiles').textContent.includes('60 examples')")
        await page.until(f"document.getElementById('metric-all').textContent === '{known.metric}'")
        await page.until("/^[0-9.,]+$/.test(document.querySelector('#field .champion').cells[3].textContent)")
        assert known.judged in await page.evaluate("document.getElementById('race-hint').textContent")
        await page.until(
            f"document.querySelector('#answers tbody tr').cells[5].textContent === '{known.shown}'"
        )


def reading(topic: str, number: int, known: Known) -> Message:
    time = 1_700_000_000_000 + 1_000 * number
    event = {"event_id": f"r{number}", "event_time": time, "sensor": "s", "value": 1.0, "truth": known.truth}
    return Message(topic, time, b"s", json.dumps(event).encode())
