"""SQLite files of entries: what lies in one, written at once and read whole or one by one.

Lives here: tables, checksums, a file of a checkpoint and its copy, a file of entries that lie elsewhere.
Never here: who may write a checkpoint, which file counts (`engine/stores/sqlite_checkpoints.py`).

Read in this order: `entry_tables`, `checkpoint_file`, `apart_file`.  Others may import everything here.
"""
