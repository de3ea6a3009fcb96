"""Where the model will run: instruction set, runtime, and the rules that follow from them.

Rules after ONNX Runtime's CPU kernels (MLAS): AVX512-VNNI, AVX-VNNI and AMX multiply uint8 activations by
int8 weights; x86 without VNNI saturates its 16-bit partial sums, so weights keep to 7 bits; ARM's SDOT and
SMMLA multiply int8 by int8.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from app.domain.recipe import FORBID_UNKNOWN

Isa = Literal["x86-vnni", "x86-avx2", "arm64", "generic"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the user asks for; `auto` is resolved once per job, from the host that benchmarks."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    isa: Literal["auto", "x86-vnni", "x86-avx2", "arm64", "generic"] = "auto"


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


def detect(machine: str, flags: Iterable[str]) -> Isa:
    """The instruction set of a host, from `platform.machine()` and the flags in /proc/cpuinfo."""
    known = set(flags)
    if machine in {"arm64", "aarch64"}:
        return "arm64"
    if known & {"avx512_vnni", "avx_vnni"}:
        return "x86-vnni"
    return "x86-avx2" if "avx2" in known else "generic"
