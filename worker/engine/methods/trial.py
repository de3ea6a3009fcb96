"""What suits a model is tried on a few calibration samples: ranges, corrections, and nodes that stay float.

No kind of ranges is best everywhere: clipping wins 5 dB on one model and costs as much on the next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from itertools import islice

import onnx

from app.domain.recipe import Calibrated, Correction, Mixed, Override, Ranges
from worker.engine.calibrate.ranges import CLIPPING
from worker.engine.choices.selection import listed
from worker.engine.choices.setting import Setting
from worker.engine.corrections.activations import Array, activations
from worker.engine.layer_graphs import comparable, find_layers, sums
from worker.engine.load import copy_of
from worker.engine.methods.quantizer import Plan
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.scopes import FLOATS, tensor_types
from worker.engine.ready import Feed
from worker.engine.sqnr import least_db, sqnr

SAMPLES = 32
_MORE_DB = 2.0  # than a job accepts: other samples may be harder
_WORTH_DB = 1.0  # is what a further correction must win
_FIRST_LEFT = 2  # nodes; then twice as many, until it does, and back by halves
_MOST_LEFT = 0.5  # of the nodes
_KINDS = {
    "mse": Ranges(method="mse"),
    "mse with clipping counted four times": Ranges(method="mse", clipping=CLIPPING),
    "minmax": Ranges(method="minmax"),
}


@dataclass(frozen=True)
class Built:
    """A quantized model, what the quantizer was given, and what was done and left float before."""

    quantized: onnx.ModelProto
    plan: Plan
    corrected: tuple[str, ...]
    left_float: Mapping[str, str]


Make = Callable[[onnx.ModelProto, Calibrated, Setting], Built]
MakeFloat = Callable[[onnx.ModelProto, Calibrated, Setting], onnx.ModelProto]


@dataclass(frozen=True)
class Making:
    """How a recipe's result is made, and the float model it rounds; `further` corrections may be tried."""

    make: Make
    make_float: MakeFloat
    further: tuple[Correction, ...] = ()


@dataclass(frozen=True)
class _Trial:
    recipe: Calibrated
    quantized: onnx.ModelProto
    db: float


Attempt = Callable[[Calibrated], _Trial]


def settle(
    model: onnx.ModelProto, recipe: Calibrated, setting: Setting, making: Making
) -> tuple[Calibrated, list[str]]:
    """The recipe with the ranges that give the closest results, and the reasons with their figures.

    1. Closeness is the signal-to-noise ratio of the float outputs, the lowest one, over the first 32 samples.
    2. Where even the best ranges are not 2 dB above what a job accepts, further corrections are added if they
       win 1 dB.
    3. Where that is not enough, the nodes that lose most alone stay float, as an override of the recipe says
       then: at most half, and not where nodes were asked for or chosen by hand.

    Args:
        model: the prepared float model; it is not changed.
        recipe: resolved, but for its ranges.
        setting: with samples.
        making: how results are made, and what else may be tried.
    """
    feeds = list(islice(setting.samples(), SAMPLES)) if setting.samples else []
    names = [v.name for v in model.graph.output if v.type.tensor_type.elem_type in FLOATS]
    reference = _outputs(model, names, feeds)
    few = replace(setting, samples=lambda: feeds)

    def attempt(recipe: Calibrated) -> _Trial:
        quantized = making.make(copy_of(model), recipe, few).quantized
        return _Trial(recipe, quantized, likeness_db(reference, _outputs(quantized, names, feeds)))

    best, figures = _closest(recipe, attempt)
    needed = (least_db(recipe) or 0.0) + _MORE_DB
    why = list[str]()
    if best.db < needed and making.further:
        best, figures, why = _with_further(best, figures, making.further, attempt)
    by_hand = isinstance(recipe, Mixed) or recipe.include.nodes or recipe.include.op_types
    if best.db < needed and not by_hand:
        own = _own_db(making.make_float(copy_of(model), best.recipe, few), best.quantized, feeds)
        spared, left = _spare(best, attempt, sorted(own, key=lambda name: own[name]), needed)
        best, figures = _closest(spared, attempt)
        why += [f"left float, for these lose most by themselves: {listed(left)}"] if left else []
    return best.recipe, [f"{figures} dB on {len(feeds)} calibration samples", *why]


def _outputs(model: onnx.ModelProto, names: list[str], feeds: Sequence[Feed]) -> list[list[Array]]:
    return [[values[name] for name in names] for values in activations(model, names, lambda: feeds)]


def _closest(recipe: Calibrated, attempt: Attempt) -> tuple[_Trial, str]:
    """The best of the trials with each kind of ranges, and the figures of all."""
    found = {kind: attempt(replace(recipe, ranges=ranges)) for kind, ranges in _KINDS.items()}
    ranked = sorted(found, key=lambda kind: -found[kind].db)
    return found[ranked[0]], f"ranges {', '.join(f'{kind} {found[kind].db:.1f}' for kind in ranked)}"


def _with_further(
    start: _Trial, figures: str, further: tuple[Correction, ...], attempt: Attempt
) -> tuple[_Trial, str, list[str]]:
    """The best with more corrections, where they win enough; else what there was."""
    corrections = (*further, *start.recipe.corrections)
    best, found = _closest(replace(start.recipe, corrections=corrections), attempt)
    if best.db < start.db + _WORTH_DB:
        return start, figures, []
    return best, found, [f"corrections {', '.join(further)}: {start.db:.1f} dB without"]


def _spare(
    start: _Trial, attempt: Attempt, worst: Sequence[str], needed: float
) -> tuple[Calibrated, Sequence[str]]:
    """The recipe that leaves fewest of the worst nodes float and comes close enough, and these nodes."""
    best, left, enough = start, worst[:0], 0
    most, short = int(_MOST_LEFT * len(worst)), 0
    count = min(_FIRST_LEFT, most)
    while short < count:
        override = Override(nodes=tuple(escape(name) for name in worst[:count]), float=True)
        trial = attempt(replace(start.recipe, overrides=(*start.recipe.overrides, override)))
        if trial.db >= needed:
            enough = count
        else:
            short = count
        if trial.db >= needed or (not enough and trial.db > best.db):
            best, left = trial, worst[:count]
        count = (short + enough) // 2 if enough else min(2 * count, most)
    return best.recipe, left


def _own_db(model: onnx.ModelProto, quantized: onnx.ModelProto, feeds: Sequence[Feed]) -> dict[str, float]:
    """For each quantized node the signal-to-noise ratio of its result on float inputs; empty if unknown."""
    if not comparable(model, quantized):
        return {}
    types = tensor_types(model.graph)
    layers = [
        layer
        for layer in find_layers(model.graph, quantized.graph)
        if types.get(layer.output) == onnx.TensorProto.FLOAT
    ]
    found = sums(model, quantized, layers, feeds)
    return {
        layer.node.name: sqnr(signal, local) for layer, (signal, local, _) in zip(layers, found, strict=True)
    }
