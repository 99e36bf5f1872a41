"""Certificates for one test run, made by openssl: an authority, a server of 127.0.0.1, clients."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from brokers.process import program

DAYS = "2"
KEY_PASSWORD = "guards-the-key"


class Identity(NamedTuple):
    """A certificate and its key, as PEM files; the key's password, if it has one."""

    certificate: Path
    key: Path
    key_password: str | None = None


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._openssl = program("openssl", "openssl")
        self.certificate = self._folder / "authority.pem"
        self._key = self._folder / "authority.key"
        self._call("req", "-x509", "-days", DAYS, "-subj", f"/CN={name}", "-out", self.certificate,
                   *self._new_key(self._key))  # fmt: skip

    def identity(self, name: str, *, password: str | None = None, host: str = "") -> Identity:
        """Return a new certificate for `name`; of a server where `host` is its address."""
        key, request = self._folder / f"{name}.key", self._folder / f"{name}.csr"
        certificate, extensions = self._folder / f"{name}.pem", self._folder / f"{name}.extensions"
        extensions.write_text(f"subjectAltName=IP:{host}\n" if host else "")
        self._call("req", "-subj", f"/CN={name}", "-out", request, *self._new_key(key))
        self._call("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                   "-CAcreateserial", "-days", DAYS, "-extfile", extensions, "-out", certificate)  # fmt: skip
        if password is None:
            return Identity(certificate, key)
        locked = self._folder / f"{name}.locked.key"
        self._call("pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", f"pass:{password}")
        return Identity(certificate, locked, password)

    @staticmethod
    def _new_key(key: Path) -> tuple[str | Path, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key)

    def _call(self, *arguments: str | Path) -> None:
        subprocess.run([self._openssl, *arguments], check=True, capture_output=True)
