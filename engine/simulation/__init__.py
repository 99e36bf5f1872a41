"""Made-up events and labels with something planted, and the truth of what was.

Lives here: a small world of orders that are returned or not, drawn by a seed; what is planted in its stream.
Never here: real data, a clock, rates of sending (`engine/offline/publish.py`).

Read in this order: `orders` (the world), `plant` (disorder, repeats, garbage), `writing` (the files, with a
pipeline from `templates`).  `engine/cli/project` imports from here.
"""
