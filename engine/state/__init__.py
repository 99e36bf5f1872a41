"""What a person asks of the stored state of a pipeline: what is there, is it whole, a copy, the copy back.

Lives here: every command about checkpoints that is no worker's, over any store.
Never here: how a store keeps them (`engine/stores`), what a worker does at a takeover (`engine/worker`),
words and tables (`engine/cli/state.py`).

Read in this order: `contents` (copies of all checkpoints, checked), `inspection`, `verification`,
`snapshots`.  Others may import everything here.
"""
