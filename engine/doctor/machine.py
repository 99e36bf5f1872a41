"""This machine: Python and libraries, the state directory, the port of the pages.

Lives here: what is asked of them, and which answers are faults.  Never here: servers (`broker`, `stores`).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from engine.doctor.findings import DoctorFinding, Level
from engine.host.pages import check_port
from engine.settings import Settings
from topics.errors import SettingsError

__all__ = ["directory_finding", "library_findings", "machine_findings", "python_finding"]

PYTHON_MIN = (3, 11)
FREE_FAIL, FREE_WARN = 100 * 1024**2, 1024**3
"""Bytes below which a checkpoint of a middling pipeline does not fit, or soon will not."""


def machine_findings(settings: Settings) -> Iterator[DoctorFinding]:
    """Yield what there is to say of this machine under these settings."""
    yield python_finding(sys.version_info[:3])
    yield from library_findings(requires("headrace") or (), version)
    yield directory_finding(settings.state_dir)
    web = settings.web
    try:
        check_port(web.host, web.port, hint="set HEADRACE_WEB__PORT, or let it be where a worker runs here")
    except SettingsError as error:
        yield DoctorFinding("port", "warn", error.message, str(error.hint))
    else:
        yield DoctorFinding("port", "ok", f"{web.host}:{web.port} is free for the pages")


def python_finding(found: tuple[int, ...]) -> DoctorFinding:
    """Return whether a version of Python will do.

    >>> python_finding((3, 10, 1)).level
    'fail'
    """
    told = ".".join(map(str, found))
    if found[:2] < PYTHON_MIN:
        return DoctorFinding("python", "fail", f"Python {told}", "install Python 3.11 or newer")
    return DoctorFinding("python", "ok", f"Python {told}")


def library_findings(requirements: Iterable[str], installed: Callable[[str], str]) -> Iterator[DoctorFinding]:
    """Yield whether what is installed is what Headrace was tested with; one finding where all of it is.

    `requirements` are those of the package's metadata, of extras too, which are looked at where they are
    installed; `installed` returns a version or raises PackageNotFoundError.
    """
    seen: list[str] = []
    wrong = False
    for text in requirements:
        requirement, wanted = Requirement(text), text.partition(";")[0].strip()
        name = requirement.name
        try:
            found = installed(name)
        except PackageNotFoundError:
            if requirement.marker is None:
                wrong = True
                yield DoctorFinding(name, "fail", "it is not installed", f"pip install '{wanted}'")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong = True
            yield DoctorFinding(
                name, "warn", f"{found} is outside {requirement.specifier}", f"pip install '{wanted}'"
            )
        seen.append(f"{name} {found}")
    if not wrong:
        yield DoctorFinding("libraries", "ok", ", ".join(seen))


def directory_finding(path: Path, free_bytes: Callable[[Path], int] | None = None) -> DoctorFinding:
    """Return whether checkpoints can be written here; makes nothing that stays.

    `free_bytes` returns the free bytes of a directory's disk; None asks the system.
    """
    there = next((one for one in (path, *path.absolute().parents) if one.exists()), Path("/"))
    hint = "set HEADRACE_STATE_DIR to a directory of this user, on a disk of this machine"
    if not there.is_dir():
        return DoctorFinding("state dir", "fail", f"{there} is no directory", hint)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0" * 4_096)
            file.flush()
    except OSError as error:
        return DoctorFinding("state dir", "fail", f"{there} is not writable: {error.strerror}", hint)
    free = shutil.disk_usage(there).free if free_bytes is None else free_bytes(there)
    told = f"{path} is writable, {free / 1024**3:.1f} GiB are free"
    if free < FREE_WARN:
        level: Level = "fail" if free < FREE_FAIL else "warn"
        return DoctorFinding("state dir", level, told, "make room, or set HEADRACE_STATE_DIR to another disk")
    return DoctorFinding("state dir", "ok", told)
