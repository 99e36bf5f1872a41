"""What the champion would say of rows that are a little other than those that came.

Lives here: tests of a model that a definition declares, the importance of features.  Never here: what was
said of the rows as they were (`slices`, `calibration`).

Models are asked at stops alone, on a bounded sample of the rows since the stop before, through the guards of
the race: asking changes no model, and a failure has no consequence but its place in the report.

Read in this order: `sample` (the rows, the champion), `model_tests`, `importance`.  Others may import
everything here.
"""
