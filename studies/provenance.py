"""Where and with what a run was made."""

import os
import platform
from importlib import metadata
from typing import Any

PACKAGES = ("curious", "flwr", "ray", "torch", "torchvision", "numpy", "scipy", "scikit-image", "scikit-learn")


def environment() -> dict[str, Any]:
    """Python, machine and the versions of the packages that decide a result."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    return {**machine, "processors": os.cpu_count(), "versions": versions}
