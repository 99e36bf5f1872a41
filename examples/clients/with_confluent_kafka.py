"""Publish events and print every answer once, as it comes, with confluent-kafka.

python with_confluent_kafka.py localhost:9092 flights.departures origin flights.predictions < departures.jsonl
"""

import json
import sys

from claim_rule import counts
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition


def main(servers: str, events: str, key: str, predictions: str) -> None:
    # librdkafka's own partitioner is another one: labels would not meet their events.
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})
    for line in sys.stdin:
        producer.produce(events, line.strip().encode(), key=str(json.loads(line)[key]).encode())
        producer.poll(0)
    producer.flush()
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "unused", "enable.auto.commit": False})
    partitions = consumer.list_topics(predictions, timeout=30).topics[predictions].partitions
    consumer.assign([TopicPartition(predictions, number, OFFSET_BEGINNING) for number in partitions])
    while True:
        record = consumer.poll(1.0)
        if record is None:
            continue
        if record.error():
            raise KafkaException(record.error())
        value = json.loads(record.value())
        if counts(record.partition(), value, ("headrace-kind", b"claim") in (record.headers() or ())):
            print(value["event_id"], value["prediction_score"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
