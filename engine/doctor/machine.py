"""This machine: Python and libraries, the state directory, the port of the pages.

Lives here: what is asked of them, and which answers are faults.  Never here: servers (`broker`, `stores`).
"""

from __future__ import annotations

import operator
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from engine.doctor.findings import DoctorFinding
from engine.host.pages import check_port
from engine.settings import Settings
from topics.errors import SettingsError

__all__ = ["directory_finding", "library_findings", "machine_findings", "python_finding"]

PYTHON_MIN = (3, 11)
FREE_FAIL, FREE_WARN = 100 * 1024**2, 1024**3
"""Bytes below which a checkpoint of a middling pipeline does not fit, or soon will not."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*([<>=!~0-9.,\s]*)")
_COMPARE: Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*([0-9.]+)")


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
    for requirement in requirements:
        told, _, marker = requirement.partition(";")
        match = _REQUIREMENT.match(told.strip())
        if match is None:
            continue
        name, bounds = match[1], match[2]
        try:
            found = installed(name)
        except PackageNotFoundError:
            if not marker.strip():
                wrong = True
                yield DoctorFinding(name, "fail", "it is not installed", f"pip install '{told.strip()}'")
            continue
        if not _is_within(found, bounds):
            wrong = True
            yield DoctorFinding(
                name, "warn", f"{found} is outside {bounds.strip()}", f"pip install '{told.strip()}'"
            )
        seen.append(f"{name} {found}")
    if not wrong:
        yield DoctorFinding("libraries", "ok", ", ".join(seen))


def _is_within(found: str, bounds: str) -> bool:
    """Return whether a version lies within bounds.

    >>> _is_within("0.26.3", ">=0.26.1,<0.27"), _is_within("0.27.0", ">=0.26.1,<0.27")
    (True, False)
    """
    has = _numbers(found)
    for sign, told in _BOUND.findall(bounds):
        wants = _numbers(told)
        length = max(len(has), len(wants))
        left, right = (part + (0,) * (length - len(part)) for part in (has, wants))
        if not _COMPARE[sign](left, right):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


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
        level = "fail" if free < FREE_FAIL else "warn"
        return DoctorFinding("state dir", level, told, "make room, or set HEADRACE_STATE_DIR to another disk")  # type: ignore[arg-type]
    return DoctorFinding("state dir", "ok", told)
