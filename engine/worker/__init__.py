"""The loop of one process, and what it owns: poll, step, send, flush, checkpoint, commit.

Lives here: the order of the shell, partitions taken over and saved, the follower of the examples log.
Never here: what a record means (`engine/machines`), how Kafka is spoken to (`engine/kafka`).

Read in this order: `loop`, `partition`, `owned_partitions`, `claim`, `header`, `checkpointing`, `unsaved`,
`idle`, `follower`, `snapshots`, `budgets`, `assembly`, `model_factory`, `entry`, `keyed` (one race per key).
Others may import `Worker` from `loop`, `Place` and `places` from `partition`, and `assembly`, `header` and
`model_factory`.
"""
