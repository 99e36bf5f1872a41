"""Memory between events: synchronous, deterministic, with time as an argument.

Lives here: what is remembered from one event to the next, and how it is computed.  Never here: bytes and
field names (`topics`), in which order things happen (`engine/machines`), a clock, a file, a socket.

Read in this order: `language` (what a definition says), `windows` (events to features), `join` (log and
wait), `models` (who answers), `race` (who should), `versions` (who joins), `serving` (who does meanwhile),
`drift`, `monitor` (what is seen beside the race), `trust` (whose labels count), `rules`, `claims` (who may
write), `rekeying`, `skew`; `stopwatch` by itself; `state` is what all of them promise: snapshot, restore,
delta.

The names below are the feature language of a user's file.
"""

from operators.language.by import by, feature, field, label, lookup
from operators.language.position import position
from operators.language.transforms import apply, coalesce, cross, indicator
from operators.language.window_kinds import decay, last_n, session, tiled, tumbling

__all__ = [
    "apply",
    "by",
    "coalesce",
    "cross",
    "decay",
    "feature",
    "field",
    "indicator",
    "label",
    "last_n",
    "lookup",
    "position",
    "session",
    "tiled",
    "tumbling",
]
