"""Where the tools are that check compose file and chart."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from brokers.process import missing
from paths import CHECKOUT

INSTALLED = CHECKOUT / "var" / "tools" / "bin"


def tool(name: str) -> str:
    """Return the path of a tool; skip (in CI: fail) where it has not been installed."""
    found = shutil.which(name, path=INSTALLED) or shutil.which(name)
    return found or missing(f"{name} (.venv/bin/python .ci/tools.py)")


def said(*command: str | Path, folder: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it said, whatever its exit code."""
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
