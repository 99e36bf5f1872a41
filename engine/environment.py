"""Misspelt settings among the environment variables.

Lives here: the comparison of names.  Never here: reading settings (`settings.py`).

A misspelt variable would otherwise be a default in silence.  Left alone are those of Kubernetes (a service
called `headrace-web` gives `HEADRACE_WEB_PORT=tcp://10.0.0.7:6066` to every pod), of Faust, and of our tests.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

__all__ = ["misspelt"]

OTHERS = ("HEADRACE_DATA", "HEADRACE_KAFKA_JARS", "HEADRACE_MODEL_RUNS")
"""Read by tests and load tests, no settings of a worker."""
FAUST = "HEADRACE_FAUST_"
"""Faust's own options."""
_SERVICE = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
_ADDRESS = re.compile(r"^(tcp|udp|sctp)://")


def misspelt(environment: Mapping[str, str], known: Collection[str], prefix: str) -> dict[str, str]:
    """Return variables under `prefix` that are no setting, with the one that was likely meant, or "".

    `known` are the names of all settings; one that is a group has its parts behind two underscores.

    >>> given = {"HEADRACE_STATEDIR": "/x", "HEADRACE_WEB_PORT": "tcp://10.0.0.7:6066", "HEADRACE_DATA": "/d"}
    >>> misspelt(given, ["HEADRACE_STATE_DIR", "HEADRACE_WEB__PORT"], "HEADRACE_")
    {'HEADRACE_STATEDIR': 'HEADRACE_STATE_DIR'}
    """
    found, short = {}, [name.removeprefix(prefix) for name in known]
    for name, value in sorted(environment.items()):
        upper = name.upper()
        if not upper.startswith(prefix) or upper in known or upper in OTHERS or upper.startswith(FAUST):
            continue
        if _SERVICE.search(upper) or (upper.endswith("_PORT") and _ADDRESS.match(value)):
            continue
        close = difflib.get_close_matches(upper.removeprefix(prefix), short, 1, 0.7)
        found[name] = prefix + close[0] if close else ""
    return found
