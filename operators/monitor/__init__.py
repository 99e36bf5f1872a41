"""Looking at labelled examples beside the race, and changing nothing of it.

Lives here: what is seen of examples as the learner folds them; and when somebody is told.
Never here: what decides who serves (`operators/race`), whether the world has changed (`operators/drift`).

A monitor takes the examples of the log in their order and says the same however they are cut into batches.
What a definition says of it is part of the field, so that a replay sees what the run saw; a monitor whose
settings change begins anew.

Read in this order: `monitors` (what every monitor keeps), `rows` (examples as columns), `bins`, `slices` and
`worst`, `calibration`, `before_labels` (estimates), `random_rows`, `reservoir`, `fairness`, `feedback`,
`behaviour` (what the champion would say of other rows); then `alerts` (when one begins and ends),
`learner_alerts` (what a learner tells people of) and `acks` (what they say of it).  Others may import
everything here.
"""
