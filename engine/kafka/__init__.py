"""Kafka: read, written and asked, with a deadline on every wait.

Lives here: aiokafka behind small ports; what it raises leaves as BrokerError.
Never here: what records mean, claims, the order of a turn (`engine/worker`).

Read in this order: `client` (connect, deadlines, waits, errors), `bootstrap` (why a first connection
failed), `assignor` (which partitions are whose), `source` (a member of a group), `sink` (order, batches,
acknowledgements), `log_reader` (without a group), `topic_admin`, `record_batches`, `cluster` (what a person
asks); `embedded` is the broker of demos and tests. Others may import everything here.
"""
