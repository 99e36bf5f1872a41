"""The files of a simulation: events, labels, the truth, and a pipeline that takes them.

Lives here: writing them into a new folder.  Never here: what is in them (`plant.py`).
"""

from __future__ import annotations

from pathlib import Path
from string import Template

from engine.new_folder import write_new_folder
from engine.simulation.orders import SimulationPlan
from engine.simulation.plant import Simulation
from topics.codec import encode_json
from topics.durations import duration_ms

__all__ = ["write_simulation"]

TEMPLATE = Path(__file__).parent / "templates" / "pipeline.txt"
WAITS = ("10m", "1h", "6h", "1d", "7d", "30d", "365d")


def write_simulation(folder: Path, plan: SimulationPlan, made: Simulation) -> tuple[str, ...]:
    """Write the files and return their names.

    Raises SettingsError where the folder is there and not empty, or cannot be written.
    """
    delay = made.truth["label_delay_ms"]
    longest_ms = 0 if delay is None else delay["longest"]
    wait = next((one for one in WAITS if duration_ms(one) > longest_ms), WAITS[-1])
    grace = f"{max(plan.late_ms // 1_000 + 1, 60)}s"
    pipeline = Template(TEMPLATE.read_text()).substitute(name=folder.name, wait=wait, grace=grace)
    files = {
        "pipeline.py": pipeline.encode(),
        "events.jsonl": b"".join(line + b"\n" for line in made.events),
        "labels.jsonl": b"".join(line + b"\n" for line in made.labels),
        "truth.json": encode_json(made.truth) + b"\n",
    }
    write_new_folder(folder, files)
    return tuple(files)
