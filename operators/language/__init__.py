"""What a definition says: fields, windows, expressions, conditions, rules, alerts, and the plan of it all.

Lives here: immutable values whose text is their meaning, the types they have, what is refused, the catalogue.
Never here: an event, memory, the computation of a value (`operators/windows`).

Read in this order: `by` (the words a user writes), `fields`, `expressions` and `position` (what they make),
`conditions`, `transforms`, `window_kinds`, `rules`, `signals`, `alerts`; then `types` (what is refused),
`plan` (what is kept for it) and `catalogue` (versions, descriptions).  Others may import everything here.
"""
