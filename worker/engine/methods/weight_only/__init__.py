"""Weights in blocks of 2, 4 or 8 bits; activations stay float."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import onnx

from app.domain.errors import Refused
from app.domain.recipe import WeightOnly
from worker.engine.methods.resolve import resolve
from worker.engine.methods.selection import refuse_nothing, stays_float
from worker.engine.methods.setting import Samples, Setting
from worker.engine.methods.weight_only.blocks import Blocks, Grid, round_to_nearest
from worker.engine.methods.weight_only.choose import Site, Weight, choose
from worker.engine.methods.weight_only.gptq import gptq
from worker.engine.methods.weight_only.hessians import grouped, hessians
from worker.engine.methods.weight_only.hqq import half_quadratic
from worker.engine.methods.weight_only.rewrite import matrix, replace_matrix, rewrite, store
from worker.engine.passes.scopes import tensor_names

_INTEGER_KERNELS_OF_TWO_BITS = frozenset({32, 64, 128})
_FEW_BITS = 4
_BLOCK_SIZE = (32, "an outlier spoils no more than 32 values, and integer kernels take such blocks")


def weight_only(
    model: onnx.ModelProto, recipe: WeightOnly, setting: Setting
) -> tuple[onnx.ModelProto, WeightOnly, list[str]]:
    """Store the weights of products and embeddings in few bits, subgraphs included.

    Args:
        model: the prepared model; it is changed.
        recipe: the choices; `auto` is resolved.
        setting: its samples serve `gptq`.

    Returns:
        The quantized model, the resolved recipe, and the reasons.

    Raises:
        Refused: `no_calibration_data`, `nothing_to_quantize` or `selection_matches_nothing`.
    """
    samples = setting.samples
    if recipe.algorithm == "gptq" and samples is None:
        raise Refused("no_calibration_data", "gptq needs calibration samples: add a dataset to the job.")
    resolved, reasons = _resolve(recipe, has_samples=samples is not None)
    grid = Grid(int(resolved.bits), int(resolved.block_size), resolved.symmetric is True)
    sites, left = choose(model, resolved, grid)
    refuse_nothing([site.node for site in sites], "weight_only", left)
    reasons += _replaced(resolved, sites)
    names = tensor_names(model.graph)
    stored = {
        weight: store(model, weight, blocks, names)
        for weight, blocks in _quantized(model, resolved, grid, sites, samples)
    }
    rewrite(model, {s.node: stored[s.weight] for s in sites}, int(resolved.accuracy_level), names)
    return model, resolved, reasons + stays_float(left)


def _resolve(recipe: WeightOnly, *, has_samples: bool) -> tuple[WeightOnly, list[str]]:
    values, reasons = resolve({"bits": recipe.bits}, {"bits": (4, "half the bytes of 8 at little loss")})
    few = values["bits"] <= _FEW_BITS
    asked = {name: getattr(recipe, name) for name in ("algorithm", "block_size", "symmetric", "embeddings")}
    more, why = resolve(asked, _few_bits(values["bits"], has_samples=has_samples) if few else _EIGHT_BITS)
    values |= more
    level, whys = resolve({"accuracy_level": recipe.accuracy_level}, {"accuracy_level": _level(values)})
    return replace(recipe, **values, **level), reasons + why + whys


def _few_bits(bits: int, *, has_samples: bool) -> dict[str, tuple[object, str]]:
    algorithms = {
        True: ("gptq", "there are calibration samples, which tell it which errors matter"),
        False: ("hqq", "there are no calibration samples; it needs none"),
    }
    symmetries = {
        True: (True, "at 2 bits a zero point wins nothing that the sign of the scale does not"),
        False: (False, "zero points cost 3 % of the bytes and win half a decibel"),
    }
    return {
        "algorithm": algorithms[has_samples],
        "block_size": _BLOCK_SIZE,
        "symmetric": symmetries[bits < _FEW_BITS],
        "embeddings": (True, "tables are often most of the bytes"),
    }


_EIGHT_BITS: dict[str, tuple[object, str]] = {
    "algorithm": ("rtn", "8 bits are so fine that other roundings win nothing"),
    "block_size": _BLOCK_SIZE,
    "symmetric": (True, "8 bits need no zero points"),
    "embeddings": (True, "tables are often most of the bytes"),
}


def _level(values: Mapping[str, object]) -> tuple[int, str]:
    if values["bits"] == 2 and values["block_size"] not in _INTEGER_KERNELS_OF_TWO_BITS:  # noqa: PLR2004
        return 0, f"2-bit integer kernels take blocks of 32, 64 or 128, not {values['block_size']}"
    return 4, "products run in int8 kernels; without, weights are widened at each run"


def _replaced(recipe: WeightOnly, sites: Sequence[Site]) -> list[str]:
    """Where the algorithm of the recipe does not reach."""
    if recipe.algorithm != "gptq":
        return []
    tables = [site.node for site in sites if site.weight.table]
    deep = [site.node for site in sites if not site.weight.table and site.activation is None]
    reasons = [("a table has no products", tables), ("a subgraph shows no activations", deep)]
    return [f"quantized by hqq, {reason}: {', '.join(nodes)}" for reason, nodes in reasons if nodes]


def _quantized(
    model: onnx.ModelProto,
    recipe: WeightOnly,
    grid: Grid,
    sites: Sequence[Site],
    samples: Samples | None,
) -> Iterator[tuple[Weight, Blocks]]:
    """Each weight once, however many nodes read it."""
    activations = _activations(sites) if recipe.algorithm == "gptq" else {}
    quantizer = round_to_nearest if recipe.algorithm == "rtn" else half_quadratic
    alone = {
        weight: quantizer(matrix(model, weight), grid)
        for weight in dict.fromkeys(site.weight for site in sites)
        if weight not in activations
    }
    yield from alone.items()
    if samples and activations:
        yield from _with_samples(model, grid, alone, activations, samples)


def _activations(sites: Sequence[Site]) -> dict[Weight, tuple[str, ...]]:
    """The tensors that a weight is multiplied with, where all of them lie in the main graph."""
    found: dict[Weight, dict[str, None]] = {}
    hidden = {site.weight for site in sites if site.activation is None}
    for site in sites:
        if site.activation is not None and site.weight not in hidden:
            found.setdefault(site.weight, {})[site.activation] = None
    return {weight: tuple(names) for weight, names in found.items()}


def _with_samples(
    model: onnx.ModelProto,
    grid: Grid,
    alone: Mapping[Weight, Blocks],
    activations: Mapping[Weight, tuple[str, ...]],
    samples: Samples,
) -> Iterator[tuple[Weight, Blocks]]:
    """GPTQ from the first layers to the last, each on what the quantized ones before it hand on."""
    simulated = onnx.ModelProto()
    simulated.CopyFrom(model)
    for weight, blocks in alone.items():
        replace_matrix(simulated, weight, blocks.values())
    for widths in grouped({names: weight.columns for weight, names in activations.items()}):
        sums = hessians(simulated, model, widths, samples)
        for weight, names in activations.items():
            if names in sums:
                blocks = gptq(matrix(model, weight), sums[names], grid)
                replace_matrix(simulated, weight, blocks.values())
                yield weight, blocks
