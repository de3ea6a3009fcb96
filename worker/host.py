"""This host, as far as a measurement depends on it."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from app.domain.target import Isa, detect


def isa() -> Isa:
    """The instruction set that quantized kernels can use here."""
    return detect(platform.machine(), _cpuinfo("flags").split())


def cores_allowed() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def describe() -> dict[str, str]:
    """CPU, system and versions, kept with every job's result."""
    versions = {name: version(name) for name in ("onnxruntime", "onnx", "numpy")}
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "isa": isa(),
        "cores": str(cores_allowed()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }


def _cpuinfo(name: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((v.strip() for k, _, v in (line.partition(":") for line in lines) if k.strip() == name), "")
