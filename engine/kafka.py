"""aiokafka behind two small ports: a menu.

`Source` reads with a consumer group, `Sink` writes, `read_log` reads one partition without
a group, `ensure_topics` looks at topics and creates what is missing.  Each has a deadline
on every wait, and what aiokafka raises leaves as BrokerError.
"""

from __future__ import annotations

from engine.client import Partition
from engine.logs import log_bounds, read_log
from engine.provision import TopicState, ensure_topics, partition_counts, topic_states
from engine.sink import Sink, partition_of
from engine.source import Listener, Source

__all__ = [
    "Listener",
    "Partition",
    "Sink",
    "Source",
    "TopicState",
    "ensure_topics",
    "log_bounds",
    "partition_counts",
    "partition_of",
    "read_log",
    "topic_states",
]
