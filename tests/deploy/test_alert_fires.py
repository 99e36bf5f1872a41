"""The whole way of an alert: a worker dies, Prometheus sees it, Alertmanager tells, and takes it back.

Prometheus and Alertmanager run with the configuration of `deploy`; changed are only its intervals, where
workers are found and to whom alerts go.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from boards import BOARDS, queries
from brokers.alertmanager import Hook, alertmanager_server, alerts_at, webhook
from brokers.prometheus import asked, prometheus_with
from paths import CHECKOUT
from running import Worker, fresh_name, make_topics, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings

DEPLOY = CHECKOUT / "deploy"
QUICK = {"group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import field


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor"),
        labels=Labels("NAME.truths", wait="1h"),
        features={"value": field("value")},
        models={"linear": linear_model.LogisticRegression()},
        champion="linear",
    )
"""


def quick_rules(folder: Path) -> Path:
    """Copy the rules; what they wait for a minute or more they wait for a second here."""
    text, waits = re.subn(r"\bfor: \w+", "for: 1s", (DEPLOY / "prometheus/rules.yml").read_text())
    assert waits
    rules = folder / "rules.yml"
    rules.write_text(text)
    return rules


def quick_prometheus(rules: Path, manager: str, target: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(rules)]
    (managers,) = config["alerting"]["alertmanagers"]
    managers["static_configs"] = [{"targets": [urllib.parse.urlsplit(manager).netloc]}]
    (scrape,) = config["scrape_configs"]
    del scrape["dns_sd_configs"]
    scrape["static_configs"] = [{"targets": [target]}]
    return config


def quick_alertmanager(hook: Hook) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    config["route"] |= QUICK
    for route in config["route"]["routes"]:
        route.update(QUICK)
    for receiver in config["receivers"]:
        url = f"{hook.url}?receiver={receiver['name']}"
        receiver["webhook_configs"] = [{"url": url, "send_resolved": True}]
    return config


def told(hook: Hook, status: str) -> dict[str, dict[str, Any]]:
    """Return the alerts of one status about a worker, by name; each with the receiver that it came by."""
    return {
        alert["labels"]["alertname"]: alert | {"receiver": message["receiver"]}
        for message in hook.alerts
        for alert in message["alerts"]
        # Without an instance one tells that nothing has been scraped yet, as before the first time.
        if alert["status"] == status and "instance" in alert["labels"]
    }


def test_a_dead_worker_is_told_and_taken_back(tansu: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(dead_and_back(tansu, tmp_path))


async def dead_and_back(kafka: KafkaSettings, folder: Path) -> None:
    file = write_pipeline(folder, SOURCE, name=fresh_name("watched"))
    await make_topics(kafka, load_pipeline(file))
    worker = Worker(file, kafka, folder)
    async with webhook() as hook:
        with ExitStack() as servers:
            manager = servers.enter_context(alertmanager_server(folder, quick_alertmanager(hook)))
            config = quick_prometheus(quick_rules(folder), manager, f"127.0.0.1:{worker.port}")
            with worker:
                await worker.ready()
                address = servers.enter_context(prometheus_with(folder, config))
                await until(lambda: asked(address, "headrace_partitions > 0"), "scraped", worker=worker)
                await asyncio.to_thread(panels_can_be_evaluated, address)
                assert "HeadraceGone" not in told(hook, "firing")

                worker.kill()
                await until(lambda: "HeadraceGone" in told(hook, "firing"), "told that it is gone")
                gone = told(hook, "firing")["HeadraceGone"]
                assert gone["receiver"] == "on-call"
                assert gone["labels"]["instance"] == f"127.0.0.1:{worker.port}"
                assert gone["labels"]["pipeline"] == "flights", "as prometheus.yml names it"
                assert gone["annotations"]["summary"] == f"a worker is gone: 127.0.0.1:{worker.port}"
                assert gone["annotations"]["runbook_url"] == "docs/runbooks.md#headracegone"

                worker.start()
                await until(lambda: "HeadraceGone" in told(hook, "resolved"), "told that it is back")
                assert told(hook, "resolved")["HeadraceGone"]["labels"] == gone["labels"]
                await until(lambda: "HeadraceGone" not in active(manager), "nothing is left of it")


def active(manager: str) -> set[str]:
    return {alert["labels"]["alertname"] for alert in alerts_at(manager)}


def panels_can_be_evaluated(address: str) -> None:
    """Every query of every dashboard is one for a real Prometheus, and each one has something to show."""
    for name, board in BOARDS.items():
        expressions = {
            re.sub(r'"\$(pipeline|instance|metric)"', '".*"', query) for _, query, _ in queries(board)
        }
        answered = [expression for expression in sorted(expressions) if asked(address, expression)]
        assert answered, name
