"""Python's own tools on the mount: a virtual environment with its pip, and packages installed into it, offline."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.mounted.program import run

pytestmark = [pytest.mark.mounted, pytest.mark.slow]


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name
    path.mkdir()
    return path


_MODULE = "def main():\n    print('hello from the mount')\n"


def make_wheel(directory: Path, version: str) -> None:
    """A wheel by hand (the binary distribution format specification): two modules, data and a console script."""
    files = {
        "greeting/__init__.py": _MODULE + f"version = {version!r}\n",
        "greeting/data.txt": "data\n" * 1000,
        f"greeting-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: greeting\nVersion: {version}\n",
        f"greeting-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"greeting-{version}.dist-info/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
    }
    record = f"greeting-{version}.dist-info/RECORD"
    lines = []
    for name, text in files.items():
        digest = (
            base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        )
        lines.append(f"{name},sha256={digest},{len(text.encode())}\n")
    with zipfile.ZipFile(directory / f"greeting-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(record, "".join(lines) + f"{record},,\n")


_BACKEND = """
import os, zipfile
NAME = "parting-1.0"
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    files = {
        "parting.py": open("parting.py").read(),
        f"{NAME}.dist-info/METADATA": "Metadata-Version: 2.1\\nName: parting\\nVersion: 1.0\\nRequires-Dist: greeting\\n",
        f"{NAME}.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    name = f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        record = f"{NAME}.dist-info/RECORD"
        wheel.writestr(record, "".join(f"{p},,\\n" for p in [*files, record]))
    return name
"""


def make_sdist(directory: Path) -> None:
    """A source distribution that carries its own build backend, so that nothing has to be fetched."""
    files = {
        "parting-1.0/pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "parting-1.0/backend.py": _BACKEND,
        "parting-1.0/parting.py": "import greeting\n",
        "parting-1.0/PKG-INFO": "Metadata-Version: 2.1\nName: parting\nVersion: 1.0\n",
    }
    with tarfile.open(directory / "parting-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


@pytest.mark.timeout(180, method="thread")
def test_pip_installs_into_an_environment_on_the_mount(place) -> None:
    """python -m venv with ensurepip; a wheel, a source package, an upgrade, check and uninstall; the old one remains."""
    shelf = place / "shelf"
    shelf.mkdir()
    make_wheel(shelf, "1.0")
    make_sdist(shelf)
    base = getattr(sys, "_base_executable", sys.executable)
    run(base, "-m", "venv", place / "venv")
    python = place / "venv/bin/python"
    install = (python, "-m", "pip", "install", "-q", "--no-index", "--find-links", shelf)
    run(*install, "parting", TMPDIR=str(place))
    assert run(
        python, "-c", "import parting, sys; print(parting.greeting.version, sys.prefix)"
    ) == (f"1.0 {place}/venv\n")
    assert run(place / "venv/bin/greet") == "hello from the mount\n"
    assert "No broken requirements" in run(python, "-m", "pip", "check")
    make_wheel(shelf, "2.0")
    run(*install, "--upgrade", "greeting")
    assert run(python, "-c", "import greeting; print(greeting.version)") == "2.0\n"
    (package,) = (place / "venv/lib").glob("python3*/site-packages/greeting")
    cached = next((package / "__pycache__").glob("__init__*.pyc"))
    assert cached.stat().st_size > 100
    run(python, "-m", "pip", "uninstall", "-q", "-y", "greeting", "parting")
    assert not package.exists()
    run(python, "-c", "import greeting", expect=1)
