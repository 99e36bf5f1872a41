"""Windows by several keys over several partitions: each event meets the owners of its other keys.

Lives here: which windows are computed where, several sources as one sequence, values that come back.
Never here: topics and owners (`engine/rekeying`), windows themselves (`operators/windows`).

Read in this order: `stages`, `merge`, `pending_values`.  Others may import everything here.
"""
