"""The demo: a broker, a worker, three months of flights or a made-up stream, and a race to watch.

Lives here: what `headrace demo` starts, publishes and shows.  Never here: what a worker does, matching
answers to events (`loadtest/bench/ledger.py`).

Read in this order: `command`, `scenarios`, `generated`, `race`, `figures`, `view`.  Nobody else imports
from here.
"""
