"""How to quantize: one frozen dataclass per method, told apart by `method`.

`"auto"` (the default of almost every field) is resolved by model and target; results show what it became.
Unknown fields are refused wherever a recipe is parsed.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Auto = Literal["auto"]
Correction = Literal[
    "equalization", "smoothquant", "bias_correction", "weight_clipping", "rounding", "adaround"
]
FORBID_UNKNOWN: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
_SAMPLED = ("gptq", "adaround", "awq")  # algorithms of weight_only that cannot do without calibration samples


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Nodes by operator type or by name; both take globs, and one that matches nothing is an error."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    op_types: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How a tensor's range is read from the calibration statistics.

    `minmax` takes all values; `percentile` clips the same share on both sides; `entropy` minimizes the
    Kullback-Leibler divergence of the quantized histogram; `mse` its squared error, with what is clipped
    counted `clipping` times.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["auto", "minmax", "percentile", "entropy", "mse"] = "auto"
    percentile: float = field(default=99.99, metadata={"strict": True, "gt": 50, "le": 100})
    clipping: float = field(default=1.0, metadata={"strict": True, "gt": 0, "le": 1000})


@dataclass(frozen=True, kw_only=True)
class Symmetric:
    """Whether zero points are fixed to the middle of the type: ranges become [-a, a]."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    activation: bool | Auto = "auto"
    weight: bool | Auto = "auto"


@dataclass(frozen=True, kw_only=True)
class Override:
    """Another choice for some nodes or some tensors (globs); where several match, the last one wins.

    `float` leaves the nodes in float. `range` fixes the lowest and highest value of the tensors.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    nodes: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    weight: Literal["int8", "uint8", "int4"] | None = None
    activation: Literal["uint8", "int8", "uint16", "int16"] | None = None
    per_channel: bool | None = None
    range: tuple[float, float] | None = None
    float: bool = False


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What every method takes: which nodes."""

    include: Selection = field(default_factory=Selection)
    exclude: Selection = field(default_factory=Selection)


@dataclass(frozen=True, kw_only=True)
class DynamicInt8(Chosen):
    """int8 weights; activations are quantized as they come, at run time. Needs no data."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["dynamic_int8"] = "dynamic_int8"
    weight: Literal["auto", "int8", "uint8"] = "auto"
    per_channel: bool | Auto = "auto"
    reduce_range: bool | Auto = "auto"


@dataclass(frozen=True, kw_only=True)
class _Calibrated(Chosen):
    """What methods take whose activations get their ranges from calibration data."""

    method: Literal["static_int8", "mixed"]
    format: Literal["auto", "qdq", "qoperator"] = "auto"
    activation: Literal["auto", "uint8", "int8", "uint16", "int16"] = "auto"
    weight: Literal["auto", "int8", "uint8", "int4"] = "auto"
    per_channel: bool | Auto = "auto"
    reduce_range: bool | Auto = "auto"
    symmetric: Symmetric = field(default_factory=Symmetric)
    ranges: Ranges = field(default_factory=Ranges)
    corrections: tuple[Correction, ...] | Auto = "auto"
    overrides: tuple[Override, ...] = ()
    qdq_domain: Literal["auto", "onnx", "com.microsoft"] = "auto"
    quantize_bias: bool = True
    quantize_io: bool = False


@dataclass(frozen=True, kw_only=True)
class StaticInt8(_Calibrated):
    """int8 weights and activations with ranges from calibration data.

    `quantize_bias` false leaves biases in float, for runtimes that take none in int32.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["static_int8"] = "static_int8"


@dataclass(frozen=True, kw_only=True)
class Mixed(_Calibrated):
    """int8, 16-bit activations or float, chosen by hand for each node; the result says what each node got.

    An override of nodes quantizes them, unless it says `float`. A node named without a pattern gets what is
    asked for, or the recipe is refused with the reason; what a pattern or an operator type matches gets it
    where it can. Where a node reads a tensor of another type, the tensor is converted for it.

    `float` leaves in float what no override names; else that is quantized as by `static_int8`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["mixed"] = "mixed"
    float: bool = False


@dataclass(frozen=True, kw_only=True)
class LevelOverride:
    """Another `accuracy_level` for some nodes (globs); where several match, the last one wins."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    nodes: tuple[str, ...]
    accuracy_level: Literal[0, 1, 4]


@dataclass(frozen=True, kw_only=True)
class WeightOnly(Chosen):
    """Weights in blocks of few bits, each block with its scale; activations stay float.

    `number_format` says what a code stands for: an integer, one of -1, 0 and 1 (`ternary`, in 2 bits), or one
    of the 16 values of NormalFloat (`nf4`) or of a float with 4 bits (`fp4`).

    `accuracy_level` is how MatMulNBits computes: 4 quantizes activations to int8 as they come, 0 leaves the
    choice to the runtime. With calibration samples, `auto` takes 4 except at nodes where the outputs would
    move too far; those become `overrides`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["weight_only"] = "weight_only"
    bits: Literal["auto", 2, 4, 8] = "auto"
    block_size: Literal["auto", 16, 32, 64, 128, 256] = "auto"
    number_format: Literal["auto", "int", "ternary", "nf4", "fp4"] = "auto"
    algorithm: Literal["auto", "rtn", "hqq", "gptq", "adaround", "awq", "kquant"] = "auto"
    symmetric: bool | Auto = "auto"
    accuracy_level: Literal["auto", 0, 1, 4] = "auto"
    overrides: tuple[LevelOverride, ...] = ()
    embeddings: bool | Auto = "auto"


@dataclass(frozen=True, kw_only=True)
class Float16(Chosen):
    """Weights stored in float16; `full` computes in float16 too, where the runtime has kernels."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["float16"] = "float16"
    compute: Literal["auto", "storage", "full"] = "auto"
    keep_io: bool = True


@dataclass(frozen=True, kw_only=True)
class BFloat16(Chosen):
    """Weights stored in bfloat16; `full` computes in bfloat16 too, where the runtime has kernels."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    method: Literal["bfloat16"] = "bfloat16"
    compute: Literal["auto", "storage", "full"] = "auto"
    keep_io: bool = True


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A model quantized elsewhere, taken as it is and measured by the same rules."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    version: str
    method: Literal["imported"] = "imported"


Calibrated = StaticInt8 | Mixed
Recipe = DynamicInt8 | Calibrated | WeightOnly | Float16 | BFloat16 | Imported


def needs_calibration(recipe: Recipe) -> bool:
    """Whether this recipe cannot do without calibration data."""
    match recipe:
        case StaticInt8() | Mixed():
            return True
        case WeightOnly():
            return recipe.algorithm in _SAMPLED
        case _:
            return False


def uses_calibration(recipe: Recipe) -> bool:
    """Whether this recipe makes use of calibration data where there are some."""
    if isinstance(recipe, WeightOnly):
        rounds = recipe.algorithm in _SAMPLED or (recipe.algorithm == "auto" and recipe.bits != 8)  # noqa: PLR2004
        return rounds or recipe.accuracy_level == "auto"
    return needs_calibration(recipe)


def reads_ranges(recipe: Recipe) -> bool:
    """Whether this recipe reads ranges of activations from calibration statistics."""
    return isinstance(recipe, Calibrated)


def title(recipe: Recipe) -> str:
    """A short name for people: `static int8, percentile`."""
    match recipe:
        case DynamicInt8():
            return "dynamic int8"
        case StaticInt8() | Mixed():
            return ", ".join(_static_words(recipe))
        case WeightOnly():
            return ", ".join(_block_words(recipe))
        case Float16() | BFloat16():
            return recipe.method if recipe.compute != "full" else f"{recipe.method}, full"
        case Imported():
            return f"imported {recipe.version}"


def _block_words(recipe: WeightOnly) -> list[str]:
    bits = "weights" if recipe.bits == "auto" else f"{recipe.bits}-bit weights"
    named = {"auto": bits, "int": bits}.get(recipe.number_format, f"{recipe.number_format} weights")
    return [named] if recipe.algorithm == "auto" else [named, recipe.algorithm]


def _static_words(recipe: Calibrated) -> list[str]:
    words = [recipe.method.replace("_", " ")]
    words += [recipe.format] if recipe.format == "qoperator" else []
    words += [recipe.ranges.method] if recipe.ranges.method != "auto" else []
    corrections = () if recipe.corrections == "auto" else recipe.corrections
    return words + [name.replace("_", " ") for name in corrections]
