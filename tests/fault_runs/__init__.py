"""Seeded runs of real workers under faults, and the account of their logs.

    PYTHONPATH=tests .venv/bin/python -m fault_runs --seed 7 --seconds 30 --store redis
    PYTHONPATH=tests .venv/bin/python -m fault_runs --rebalance-every 10 --seconds 600 --store sqlite
    PYTHONPATH=tests .venv/bin/python -m fault_runs --slow --seconds 60 --store sqlite

Lives here: which faults come when (`schedule`), the events and labels meanwhile (`stream`), a worker that
fails where it is told to (`worker`), carrying a schedule out (`run`), a member that leaves and joins by the
clock (`storm`), a slow line to the broker (`slow`), how long answers take meanwhile (`waits`), and what must
hold of the logs afterwards (`account`).  Never here: a test, a broker (`brokers`), a second way to start
workers or to read topics (`running.py`, `reading.py`).

Read in this order: `schedule`, `stream`, `worker`, `run`, `account`, `waits`, `storm`, `slow`, `__main__`.
"""
