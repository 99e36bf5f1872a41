"""What a measurement ran on: processors, and the processor time of other processes.

Lives here: reading `/proc`.  Never here: clocks of a measurement.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["cores", "cpu_seconds", "machine"]


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_seconds(pid: int) -> float | None:
    """Return the processor time a process has used so far, or None where the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """Return one line: processors, their name, Python."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{cores()} x {name}, Python {platform.python_version()}"
