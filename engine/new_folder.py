"""A folder that a command makes: whole or not at all, and never over what is there.

Lives here: writing it.  Never here: what is in it (`engine/project`, `engine/simulation`,
`engine/cli/project/deployment.py`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from topics.errors import SettingsError

__all__ = ["write_new_folder"]


def write_new_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, by their paths below `folder`, which is yet to be made, or empty.

    Raises SettingsError where it is there and not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(
            f"{folder} is there and not empty, and nothing is overwritten",
            hint="give another name, or move it away",
        )
    made = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        for name, data in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(data)
        made.chmod(0o755)
        made.rename(folder)
    except OSError as error:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        raise SettingsError(f"cannot write {folder}: {error.strerror}", hint="check the folder") from None
