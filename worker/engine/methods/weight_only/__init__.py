"""Weights in blocks of few bits; activations stay float."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

import numpy as np
import onnx

from app.domain.recipe import WeightOnly
from worker.engine.choices.selection import listed, refuse_nothing, stays_float
from worker.engine.choices.setting import Samples, Setting
from worker.engine.corrections.held_out import is_held_out
from worker.engine.load import copy_of
from worker.engine.methods.tidy import import_microsoft
from worker.engine.methods.weight_only.adaround import adaround
from worker.engine.methods.weight_only.awq import Scaling, scale_inputs
from worker.engine.methods.weight_only.blocks import Grid
from worker.engine.methods.weight_only.bnb4 import Table
from worker.engine.methods.weight_only.choose import Site, Weight, choose
from worker.engine.methods.weight_only.forms import Form, Quantized, closest_to, quantize_alone, without_data
from worker.engine.methods.weight_only.gptq import gptq
from worker.engine.methods.weight_only.hessians import grouped, hessians
from worker.engine.methods.weight_only.levels import assign, settle_levels
from worker.engine.methods.weight_only.resolution import SAMPLED, TABLES, resolve_blocks
from worker.engine.methods.weight_only.rewrite import matrix, replace_matrix, rewrite, store
from worker.engine.passes.scopes import all_names
from worker.engine.ready import Feed

Activations = Mapping[Weight, tuple[str, ...]]
Pairs = Iterator[tuple[Weight, Quantized]]
_ON_SUMS = frozenset({"gptq", "adaround"})  # of what the calibration samples say about inputs


def weight_only(
    model: onnx.ModelProto, recipe: WeightOnly, setting: Setting
) -> tuple[onnx.ModelProto, WeightOnly, list[str]]:
    """Store the weights of products and embeddings in few bits, subgraphs included.

    Args:
        model: the prepared model; it is changed.
        recipe: the choices; `auto` is resolved.
        setting: its samples serve `gptq`, `adaround`, `awq` and the choice of accuracy levels.

    Returns:
        The quantized model, the resolved recipe, and the reasons.

    Raises:
        Refused: `no_calibration_data`, `nothing_to_quantize`, `unsupported_option` or
            `selection_matches_nothing`.
    """
    samples = setting.samples
    resolved, reasons = resolve_blocks(recipe, has_samples=samples is not None)
    measured = resolved.accuracy_level == "auto"
    grid = Grid(
        int(resolved.bits),
        int(resolved.block_size),
        symmetric=resolved.symmetric is True,
        ternary=resolved.number_format == "ternary",
    )
    sites, left = choose(model, resolved, grid)
    refuse_nothing([site.node for site in sites], "weight_only", left)
    before = copy_of(model) if measured else model
    pairs, why = _quantized(model, resolved, grid, sites, samples)
    names = all_names(model.graph)
    stored = {weight: store(model, weight, quantized, names) for weight, quantized in pairs}
    rewrite(model, {site.node: stored[site.weight] for site in sites}, names)
    import_microsoft(model)
    reasons += why + stays_float(left)
    if measured and samples:
        resolved, why = settle_levels(before, model, resolved, samples)
        reasons += why
    assign(model, resolved)
    return model, resolved, reasons


def _quantized(
    model: onnx.ModelProto, recipe: WeightOnly, grid: Grid, sites: Sequence[Site], samples: Samples | None
) -> tuple[Pairs, list[str]]:
    """Each weight once, however many nodes read it, and the reasons; awq also divides what products read."""
    form: Form = grid
    if recipe.number_format in TABLES:
        form = Table(str(recipe.number_format), grid.block_size)
    scalings: Mapping[Weight, Scaling] = {}
    activations: Activations = {}
    reasons: list[str] = []
    if samples and recipe.algorithm == "awq":
        scalings, reasons = scale_inputs(model, sites, form, samples)
    elif samples and recipe.algorithm in _ON_SUMS:
        activations = _activations(sites)
    others = [site for site in sites if site.weight not in scalings and site.weight not in activations]
    alone = _alone(model, others, {True: grid, False: form}, str(recipe.algorithm))
    pairs: Pairs = chain(alone, _scaled(model, scalings, form))
    if samples and activations:
        parts = _apart(samples) if recipe.algorithm == "adaround" else [samples]
        pairs = _with_samples(model, grid, dict(alone), activations, parts)
    return pairs, reasons + _replaced(recipe, form, others)


def _alone(
    model: onnx.ModelProto, sites: Sequence[Site], forms: Mapping[bool, Form], algorithm: str
) -> Pairs:
    """Weights that are quantized without data; tables in integers, whatever the form of products is."""
    for weight in dict.fromkeys(site.weight for site in sites):
        form = forms[weight.table]
        yield weight, quantize_alone(matrix(model, weight), form, without_data(form, algorithm))


def _scaled(model: onnx.ModelProto, scalings: Mapping[Weight, Scaling], form: Form) -> Pairs:
    for weight, scaling in scalings.items():
        rows = matrix(model, weight) * scaling.scales.astype(np.float32)
        yield weight, closest_to(rows, form, scaling.importance)


def _replaced(recipe: WeightOnly, form: Form, sites: Sequence[Site]) -> list[str]:
    """Where the algorithm or the number format of the recipe does not reach."""
    tables = [site.node for site in sites if site.weight.table]
    deep = [site.node for site in sites if not site.weight.table]
    reasons = []
    if isinstance(form, Table) and tables:
        reasons.append(f"in {recipe.bits}-bit integers, which alone can be looked up: {listed(tables)}")
    if recipe.algorithm not in SAMPLED:
        return reasons
    if tables:
        reasons.append(f"quantized by hqq, a table has no products: {listed(tables)}")
    if deep:
        why = "what it is multiplied with is in a subgraph, or differs between nodes"
        reasons.append(f"quantized by {without_data(form, str(recipe.algorithm))}, {why}: {listed(deep)}")
    return reasons


def _activations(sites: Sequence[Site]) -> Activations:
    """The tensors that a weight is multiplied with, where all of them lie in the main graph."""
    found: dict[Weight, dict[str, None]] = {}
    hidden = {site.weight for site in sites if site.activation is None}
    for site in sites:
        if site.activation is not None and site.weight not in hidden:
            found.setdefault(site.weight, {})[site.activation] = None
    return {weight: tuple(names) for weight, names in found.items()}


def _apart(samples: Samples) -> list[Samples]:
    """The samples to learn from, and those held out."""

    def part(held_out: bool) -> Iterator[Feed]:
        for number, feed in enumerate(samples()):
            if is_held_out(number) == held_out:
                yield feed

    return [partial(part, False), partial(part, True)]


def _with_samples(
    model: onnx.ModelProto,
    grid: Grid,
    alone: Mapping[Weight, Quantized],
    activations: Activations,
    parts: Sequence[Samples],
) -> Pairs:
    """From the first layers to the last, each on what the quantized ones before it hand on.

    One part of samples is for GPTQ; of two, AdaRound learns from the first.
    """
    yield from alone.items()
    simulated = copy_of(model)
    for weight, quantized in alone.items():
        replace_matrix(simulated, weight, quantized.values())
    for widths in grouped({names: weight.columns for weight, names in activations.items()}):
        sums = [hessians(simulated, model, widths, samples) for samples in parts]
        for weight, names in activations.items():
            if names in widths:
                learned, *held_out = (part[names] for part in sums)
                rows = matrix(model, weight)
                blocks = adaround(rows, learned, held_out[0], grid) if held_out else gptq(rows, learned, grid)
                replace_matrix(simulated, weight, blocks.values())
                yield weight, blocks
