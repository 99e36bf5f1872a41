"""Print every answer once: `python consumer.py flights.predictions localhost:9092`."""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer


async def main(topic: str, servers: str) -> None:
    seen: dict[str, None] = {}
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        async for record in consumer:
            if ("headrace-kind", b"claim") in record.headers:
                continue  # a worker took the partition over
            answer = json.loads(record.value)
            if answer["prediction_id"] in seen:
                continue  # sent again: the event came twice, or a worker died before it could take note
            seen[answer["prediction_id"]] = None
            if len(seen) > 100_000:
                del seen[next(iter(seen))]
            print(answer["event_id"], answer["prediction_score"], flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
