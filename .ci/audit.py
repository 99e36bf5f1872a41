"""Known vulnerabilities in what a worker installs: every runtime dependency of uv.lock, by pip-audit.

    0   nothing is known of any of them; or nobody could be asked, which is said in capitals
    1   something is known of one

A service that cannot be reached is no finding, and no clean bill either: pip-audit itself ends with "no known
vulnerabilities" where it has skipped every package.  So what counts is what was asked of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".venv" / "bin" / "uv"
AUDITOR = "pip-audit==2.10.1"
DEADLINE_S = 90
EXPORT = ("export", "--frozen", "--no-dev", "--no-emit-project", "--quiet", "--format", "requirements-txt")


def verdict(report: dict[str, Any] | None, reason: str = "") -> tuple[int, str]:
    """Return exit code and words for what pip-audit reported; None where it did not come so far."""
    if report is None:
        return 0, f"NOT AUDITED: {reason or 'pip-audit gave no report'}"
    packages = report["dependencies"]
    found = [(one, vulnerability) for one in packages for vulnerability in one.get("vulns", ())]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    lines = [
        f"{one['name']} {one['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or '-'}"
        for one, known in found
    ]
    if skipped or not packages:
        why = next((one["skip_reason"] for one in packages if "skip_reason" in one), "there are none")
        lines.append(f"NOT AUDITED: {len(skipped)} of {len(packages)} packages ({why})")
    elif not found:
        lines.append(f"{len(packages)} packages, no known vulnerability")
    return int(bool(found)), "\n".join(lines)


def audited() -> tuple[int, str]:
    """Ask about every runtime dependency."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        exported = subprocess.run(  # noqa: S603 - nothing in it comes from outside
            [UV, *EXPORT, "--output-file", wanted], cwd=ROOT, check=False
        )
        if exported.returncode:
            return 1, "uv cannot export uv.lock"
        command = [UV, "tool", "run", "--quiet", AUDITOR, "--requirement", wanted]
        options = ["--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        try:
            done = subprocess.run(  # noqa: S603
                [*command, *options], capture_output=True, text=True, check=False, timeout=DEADLINE_S
            )
        except subprocess.TimeoutExpired:
            return verdict(None, f"no answer within {DEADLINE_S} s")
    try:
        return verdict(json.loads(done.stdout))
    except ValueError:
        return verdict(None, (done.stderr.strip().splitlines() or [""])[-1])


if __name__ == "__main__":
    code, words = audited()
    print(f"audit: {words}")
    sys.exit(code)
