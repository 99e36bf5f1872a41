"""The learners of a process with one race per key: one for each partition that it owns.

Lives here: reading each partition's examples log, what their leader writes and saves.
Never here: the races (`engine/machines/keyed`), the one learner of other pipelines (`follower.py` above).

Read in this order: `partition_log` (one partition), `keyed_follower` (all of this process); `race_size` (for
`headrace check`) last.  The loop and the commands may import everything here.
"""
