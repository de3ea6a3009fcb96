"""Where the model will run: instruction set, runtime, and the rules that follow from them.

Rules after ONNX Runtime's CPU kernels (MLAS): AVX512-VNNI, AVX-VNNI and AMX multiply uint8 activations by
int8 weights; x86 without VNNI saturates its 16-bit partial sums, so weights keep to 7 bits; ARM's SDOT and
SMMLA multiply int8 by int8.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from app.domain.recipe import FORBID_UNKNOWN

RELEASE = r"^1\.[0-9]{1,3}(\.[0-9]{1,3})?$"
Isa = Literal["x86-vnni", "x86-avx2", "arm64", "generic"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the user asks for; `auto` is resolved once per job, from the host that benchmarks.

    `onnxruntime` is the release, `1.N` or `1.N.M`, that must load every result; null is the one used here.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    isa: Literal["auto", "x86-vnni", "x86-avx2", "arm64", "generic"] = "auto"
    onnxruntime: str | None = field(default=None, metadata={"pattern": RELEASE})


@dataclass(frozen=True)
class Rules:
    """Numeric types that run fast and right on an instruction set."""

    activation: Literal["uint8", "int8"]
    weight: Literal["uint8", "int8"]
    reduce_range: bool
    reason: str


RULES: dict[str, Rules] = {
    "x86-vnni": Rules("uint8", "int8", False, "VNNI multiplies uint8 activations by int8 weights"),
    "x86-avx2": Rules("uint8", "int8", True, "without VNNI 16-bit sums saturate: weights keep to 7 bits"),
    "arm64": Rules("int8", "int8", False, "SDOT multiplies int8 by int8"),
    "generic": Rules("uint8", "int8", True, "safe on every CPU: weights keep to 7 bits"),
}


def release_number(release: str) -> tuple[int, int]:
    """A release as something that sorts; patches change nothing that is asked about."""
    major, minor = release.split(".")[:2]
    return int(major), int(minor)


def detect(machine: str, flags: Iterable[str]) -> Isa:
    """The instruction set of a host, from `platform.machine()` and the flags in /proc/cpuinfo."""
    known = set(flags)
    if machine in {"arm64", "aarch64"}:
        return "arm64"
    if known & {"avx512_vnni", "avx_vnni"}:
        return "x86-vnni"
    return "x86-avx2" if "avx2" in known else "generic"
