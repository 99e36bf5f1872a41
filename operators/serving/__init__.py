"""Who answers meanwhile: the state machines behind the serving policies, and what their logs say afterwards.

Lives here: canary, split, switchback and bandit as folds of the training log, each with its routing table;
the intervals they decide by.  Never here: what a definition says (`operators/race/routing.py`), the pick of
one event (`operators/models/table.py`), who is champion (`operators/race/arena.py`).

Read in this order: `routes` (which one runs), `policy_machine` (what all share), `split`, `switchback`,
`canary`, `bandits`; `intervals` (when is a difference proven); `off_policy` (what another policy would have
given), `policy_replay` (and one that learns).  Others may import everything here.
"""
