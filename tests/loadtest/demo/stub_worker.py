"""A stand-in for `headrace run`: answers events of the demo's topics as told, and serves the two pages.

Run as `python stub_worker.py BEHAVIOUR`: `good` answers each event once; `twice` answers the
fifth again; `retry` sends its record again, as a broker without idempotence may; `deaf` never
answers the fifth; `refuses` makes a dead letter of it; `dies` ends with exit code 7 at the fifth.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from engine.settings import load_settings
from loadtest.demo.figures import CATALOG
from topics.codec import encode
from topics.headers import dead_letter
from topics.messages import Decision, Record

ODD = 5
"""The event that gets the odd treatment."""


class Stub:
    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.events = 0
        self.labels = 0

    async def page(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = (
            f'headrace_labels_total{{outcome="joined"}} {self.labels}\n'
            f"headrace_examples_total {self.labels}\n"
            'headrace_model_score{model="tree",metric="Brier",window="all"} 0.1\n'
            'headrace_model_info{model="tree",version="1",kind="Stub",alias="champion"} 1\n'
        ).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async def work(self, kafka: Any) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest")
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, linger_ms=2)
        await consumer.start()
        await producer.start()
        consumer.assign([TopicPartition(CATALOG[role], 0) for role in ("events", "labels")])
        await producer.send(
            CATALOG["predictions"],
            b'{"source_partition":0,"claim":1}',
            headers=[("headrace-kind", b"claim")],
            timestamp_ms=1,
        )
        drift = Decision("flights:0:7:0", "drift.detected", 1, "tree", 1, 7, "ADWIN on loss", "headrace", 7)
        await producer.send(CATALOG["decisions"], encode(drift))
        sequence = 0
        async for record in consumer:
            if record.topic == CATALOG["labels"]:
                self.labels += 1
                continue
            self.events += 1
            odd = self.events == ODD
            if odd and self.behaviour == "dies":
                print("the stub falls over", flush=True)
                sys.exit(7)
            answers = {"twice": 2, "deaf": 0, "refuses": 0}.get(self.behaviour, 1) if odd else 1
            if odd and self.behaviour == "refuses":
                refused = Record(record.topic, 0, record.offset, record.timestamp, record.key, record.value)
                reason = dead_letter(
                    refused, stage="decode", exception="ValueError", message="not to its taste"
                )
                await producer.send(CATALOG["dead-letters"], record.value, headers=list(reason))
            copies = 2 if odd and self.behaviour == "retry" else 1
            for _ in range(answers):
                event = json.loads(record.value)
                answer = {
                    "prediction_id": f"{CATALOG.pipeline}:{event['event_id']}",
                    "event_id": event["event_id"],
                    "event_time": event["event_time"],
                    "model_name": "tree",
                    "prediction_score": 0.25,
                    "claim": 1,
                    "sequence": sequence,
                }
                sequence += 1
                for _ in range(copies):
                    await producer.send(CATALOG["predictions"], json.dumps(answer).encode(), record.key)

    async def run(self) -> None:
        settings = load_settings()
        server = await asyncio.start_server(self.page, settings.web.host, settings.web.port)
        work = asyncio.create_task(self.work(settings.kafka))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        try:
            await work
        except asyncio.CancelledError:
            server.close()


if __name__ == "__main__":
    asyncio.run(Stub(sys.argv[1]).run())
