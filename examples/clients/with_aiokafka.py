"""Publish events and print every answer once, as it comes, with aiokafka.

python with_aiokafka.py localhost:9092 flights.departures origin flights.predictions < departures.jsonl
"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from claim_rule import counts


async def main(servers: str, events: str, key: str, predictions: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:  # partitions by murmur2, as Java does
        for line in sys.stdin:
            await producer.send(events, line.strip().encode(), key=str(json.loads(line)[key]).encode())
    consumer = AIOKafkaConsumer(predictions, bootstrap_servers=servers, auto_offset_reset="earliest")
    async with consumer:
        async for record in consumer:
            value = json.loads(record.value)
            if counts(record.partition, value, ("headrace-kind", b"claim") in record.headers):
                print(value["event_id"], value["prediction_score"], flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
