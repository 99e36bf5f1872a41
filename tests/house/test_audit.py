"""An audit that could not ask is neither red nor green."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from paths import CHECKOUT

verdict = runpy.run_path(str(CHECKOUT / ".ci" / "audit.py"))["verdict"]
CLEAN = {"name": "orjson", "version": "3.11", "vulns": []}
SKIPPED = {"name": "river", "skip_reason": "not found"}
KNOWN = {"name": "aiohttp", "version": "3.0", "vulns": [{"id": "CVE-1", "fix_versions": ["3.1"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([CLEAN], 0, "1 packages, no known vulnerability"),
        ([CLEAN, SKIPPED], 0, "NOT AUDITED: 1 of 2 packages (not found)"),
        ([SKIPPED], 0, "NOT AUDITED: 1 of 1 packages (not found)"),
        ([], 0, "NOT AUDITED: 0 of 0 packages (there are none)"),
        ([KNOWN, SKIPPED], 1, "aiohttp 3.0: CVE-1, fixed in 3.1\nNOT AUDITED: 1 of 2 packages (not found)"),
        ([CLEAN, KNOWN], 1, "aiohttp 3.0: CVE-1, fixed in 3.1"),
    ],
)
def test_a_finding_is_red_and_silence_is_said(packages: list[dict[str, Any]], code: int, said: str) -> None:
    assert verdict({"dependencies": packages}) == (code, said)


def test_no_report_is_said() -> None:
    assert verdict(None, "no route") == (0, "NOT AUDITED: no route")
