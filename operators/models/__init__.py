"""River's models kept honest: who races, who answers, what predicting does to a model, how one is stored.

Lives here: the roster, scoring and its fallbacks, the weights of a blend, guards, the probe and the smoke
test, digests, signed artefacts, scores made honest. Never here: learning and decisions (`operators/race`),
files and stores (`engine/stores`), models of our own.

Read in this order: `scoring`, `mixture`, `table` (who is picked), `guards`, `probe`, `weighted` (lessons that
count for more or less), `recalibration`; then `parameters`, `digest`, `signing`, `artefacts`, `allowlist`;
`contributions` (explains a score). Others may import everything here.
"""
