"""What a number depends on: versions, machine, and the file that keeps it. Needs no extra."""

import json
import os
import platform
import subprocess
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ._files import write_atomically

_PACKAGES = ("qgf_eqx", "jax", "equinox", "diffrax", "optax", "numpy")
_PACKAGES += ("ogbench", "metaworld", "mujoco", "gymnasium")


def write_json(path: Path, content: dict) -> None:
    """Writes JSON atomically."""
    with write_atomically(path) as file:
        file.write(json.dumps(content, indent=1, default=str).encode())


def versions() -> dict[str, str]:
    """The versions of what a number depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "commit": _commit()}


def _commit() -> str:
    """The commit of the checkout that this package runs from; `unknown` if there is none."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        run_git = partial(subprocess.run, capture_output=True, text=True, check=True)
        commit = run_git([*git, "rev-parse", "HEAD"]).stdout.strip()
        changed = run_git([*git, "status", "--porcelain", "--", "."]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with changes" if changed else commit


def machine() -> dict:
    """The machine a number was measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {"system": platform.system(), "processor": model, "cores": os.cpu_count()}
