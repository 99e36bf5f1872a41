"""The page of a worker: the race and its surroundings, for a person with a browser.

Lives here: what is remembered for it (a few bounded rings), what it says (facts, as JSON), who is told of it
(a stream), and its own files: HTML, styles, scripts, and uPlot, which draws, under its own licence.
Never here: HTTP, paths of others, the token (`engine/host/pages.py`), counting (`engine/metrics.py`),
anything that an event waits for.

Read in this order: `rings`, `race`, `features`, `facts`, `stream`, `site`; then, in `static`, `page.js`,
`panels.js`, `group.js`, `features.js`, `elements.js` and `charts.js`, which show it.

What is about persons (keys, answers, refused records, slices) leaves apart from the rest, and only to who may
see it.  Nothing here reads a topic: what the other workers say is heard by `engine/group`.
"""
