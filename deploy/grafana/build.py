"""Make the dashboards: deploy/grafana/dashboards/*.json, as Grafana takes them.

    .venv/bin/python deploy/grafana/build.py            # writes them anew
    .venv/bin/python deploy/grafana/build.py --to DIR   # writes them elsewhere

What they show is in `overview.py`, `learning.py` and `operating.py`, what they are made of in `parts.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from learning import learning
from operating import operating
from overview import overview

HERE = Path(__file__).parent / "dashboards"
BOARDS = {"overview": overview, "learning": learning, "operations": operating}


def main() -> int:
    """Write every dashboard."""
    parser = argparse.ArgumentParser(description="The dashboards, as JSON.")
    parser.add_argument("--to", type=Path, default=HERE, metavar="DIR", help="Where to.")
    folder: Path = parser.parse_args().to
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in BOARDS.items():
        text = JSONEncoder(sort_keys=True, indent=2).encode(made().build())
        (folder / f"{name}.json").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
