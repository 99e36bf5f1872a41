"""What outlives a process, and what is known beside the stream.

Lives here: checkpoints, entries on disk, static features and look-ups, features served to others.
Never here: what entries mean (the operators that write them), topics.

Read in this order: `checkpoints`, then `files` (SQLite) with `sqlite_checkpoints`, or
`redis_checkpoints`, `redis_scripts`, `redis_connection`; `reading` (how far one has come);
`places` (which of them it is); then `artefacts`, `saved` (models of a backtest), `hashes`, `lookups`,
`online_features`.  Others may import everything here.
"""
