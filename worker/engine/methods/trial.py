"""What suits a model is tried on a few calibration samples: kinds of ranges, and nodes that stay float.

No kind of ranges is best everywhere: clipping wins 5 dB on one model and costs as much on the next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from itertools import islice

import onnx

from app.domain.recipe import Override, Ranges, StaticInt8
from worker.engine.calibrate.ranges import CLIPPING
from worker.engine.corrections.activations import Array, activations
from worker.engine.evaluate.faithful import least_db
from worker.engine.evaluate.fidelity import sqnr
from worker.engine.evaluate.layer_graphs import find_layers, sums
from worker.engine.methods.quantizer import Plan, copy_of
from worker.engine.methods.selection import listed
from worker.engine.methods.setting import Feed, Setting
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.scopes import FLOATS, tensor_types

SAMPLES = 32
_MORE_DB = 2.0  # than a job accepts: other samples may be harder
_STEPS_DB = (0.0, 5.0, 10.0)  # nodes below what a job accepts stay float; then those below 5 more
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


Build = Callable[[onnx.ModelProto, StaticInt8, Setting], Built]


@dataclass(frozen=True)
class _Trial:
    recipe: StaticInt8
    quantized: onnx.ModelProto
    db: float
    figures: str


def settle(
    model: onnx.ModelProto, recipe: StaticInt8, setting: Setting, build: Build
) -> tuple[StaticInt8, list[str]]:
    """The recipe with the ranges that give the closest results, and the reasons with their figures.

    1. Closeness is the signal-to-noise ratio of the float outputs, the lowest one, over the first 32 samples.
    2. Where even the best ranges are not 2 dB above what a job accepts, the nodes that lose most alone stay
       float, as an override of the recipe says then: at most half, and not where nodes were asked for.

    Args:
        model: the prepared float model; it is not changed.
        recipe: resolved, but for its ranges.
        setting: with samples.
        build: makes the result of a recipe.
    """
    feeds = list(islice(setting.samples(), SAMPLES)) if setting.samples else []
    names = [v.name for v in model.graph.output if v.type.tensor_type.elem_type in FLOATS]
    reference = _outputs(model, names, feeds)
    few = replace(setting, samples=lambda: feeds)

    def closest(recipe: StaticInt8) -> _Trial:
        built = {kind: build(copy_of(model), replace(recipe, ranges=_KINDS[kind]), few) for kind in _KINDS}
        found = {
            kind: likeness_db(reference, _outputs(b.quantized, names, feeds)) for kind, b in built.items()
        }
        best = max(found, key=lambda kind: found[kind])
        ranged = replace(recipe, ranges=_KINDS[best])
        return _Trial(ranged, built[best].quantized, found[best], _figures(found, best, len(feeds)))

    best, reasons = closest(recipe), list[str]()
    least = least_db(recipe) or 0.0
    if best.db < least + _MORE_DB and not (recipe.include.nodes or recipe.include.op_types):
        best, reasons = _spared(best, closest, _own_db(model, best.quantized, feeds), least)
    return best.recipe, [best.figures, *reasons]


def _outputs(model: onnx.ModelProto, names: list[str], feeds: Sequence[Feed]) -> list[list[Array]]:
    return [[values[name] for name in names] for values in activations(model, names, lambda: feeds)]


def _figures(found: Mapping[str, float], best: str, samples: int) -> str:
    others = " and ".join(f"{kind} {db:.1f}" for kind, db in found.items() if kind != best)
    return f"ranges {best}: {found[best]:.1f} dB on {samples} calibration samples, {others}"


def _spared(
    start: _Trial, closest: Callable[[StaticInt8], _Trial], own: Mapping[str, float], least: float
) -> tuple[_Trial, list[str]]:
    """The best of the trials that leave nodes float; the first one, unless another is closer."""
    best, reasons = start, list[str]()
    for limit in (least + step for step in _STEPS_DB):
        names = [name for name, db in own.items() if db < limit]
        if best.db >= least + _MORE_DB or len(names) > _MOST_LEFT * len(own):
            break
        left = Override(nodes=tuple(escape(name) for name in names), float=True)
        trial = closest(replace(start.recipe, overrides=(*start.recipe.overrides, left))) if names else start
        if trial.db > best.db:
            why = f"left float, for each would lose too much (below {limit:g} dB by itself)"
            best, reasons = trial, [f"{why}: {listed(names)}"]
    return best, reasons


def _own_db(model: onnx.ModelProto, quantized: onnx.ModelProto, feeds: Sequence[Feed]) -> dict[str, float]:
    """For each quantized node the signal-to-noise ratio of its result on float inputs."""
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
