"""Which products compute in int8 and which in float: the fastest level whose divergence is within a bound."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from glob import escape
from itertools import islice
from typing import Literal

import onnx

from app.domain.errors import Refused
from app.domain.recipe import LevelOverride, WeightOnly
from worker.engine.choices.selection import listed
from worker.engine.choices.setting import Samples
from worker.engine.corrections.activations import Array, activations
from worker.engine.layer_graphs import comparable, find_layers, sums
from worker.engine.load import tensor_bytes
from worker.engine.passes.likeness import likeness_db
from worker.engine.passes.scopes import FLOATS, all_nodes
from worker.engine.ready import Feed
from worker.engine.sqnr import sqnr

SAMPLES = 16
ENOUGH_DB = 30.0
MORE_DB = 6.0  # than the weights' own: a quarter of their error, which costs 1 dB together
Level = Literal[0, 4]  # on a CPU, 1 is 0: both widen the weights at each run
_FAST: Level = 4
_FLOAT: Level = 0
_LARGEST = 500_000_000  # bytes of weights: two models are held side by side, in one protobuf


def assign(model: onnx.ModelProto, recipe: WeightOnly) -> None:
    """Write the levels of a resolved recipe into its MatMulNBits, subgraphs included.

    Raises:
        Refused: `selection_matches_nothing`, naming the glob of an override.
    """
    products = list(_products(model))
    for glob in (glob for override in recipe.overrides for glob in override.nodes):
        if not any(fnmatchcase(node.name, glob) for node in products):
            detail = f"overrides: no node in blocks of integers matches {glob!r}; leave it out."
            raise Refused("selection_matches_nothing", detail)
    for node in products:
        level = int(recipe.accuracy_level)
        for override in recipe.overrides:
            if any(fnmatchcase(node.name, glob) for glob in override.nodes):
                level = override.accuracy_level
        _set(node, level)


def _products(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (node for node in all_nodes(model.graph) if node.op_type == "MatMulNBits")


def _set(node: onnx.NodeProto, level: int) -> None:
    kept = [entry for entry in node.attribute if entry.name != "accuracy_level"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("accuracy_level", level)])


def settle_levels(
    float_model: onnx.ModelProto, quantized: onnx.ModelProto, recipe: WeightOnly, samples: Samples
) -> tuple[WeightOnly, list[str]]:
    """The recipe with its `accuracy_level`, and `overrides` for nodes that take another; and the reasons.

    1. Divergence is the signal-to-noise ratio between the outputs with int8 products and with float ones,
       the lowest over the outputs, on the first 16 samples. It must reach 30 dB, or 6 dB more than the
       outputs with float products reach against the float model.
    2. Where it does not, nodes go to level 0: those first whose own results move most on the same inputs, as
       few as are enough, found by doubling and halving their number. Levels that were asked for stay.

    Args:
        float_model: the prepared model.
        quantized: made of it; its levels are changed.
        recipe: resolved, but for `accuracy_level`.
        samples: gives the calibration feeds anew at each call.
    """
    names = [v.name for v in float_model.graph.output if v.type.tensor_type.elem_type in FLOATS]
    if not names or tensor_bytes(quantized) > _LARGEST or not comparable(quantized, quantized):
        why = "accuracy_level 4: not measured, for the model is too large or has no float output"
        return _with(recipe, _FAST), [why]
    trial = _Trial(quantized, recipe, names, list(islice(samples(), SAMPLES)))
    exact = trial.outputs(_FLOAT)
    own = likeness_db(_outputs(float_model, names, trial.feeds), exact)
    bound = min(ENOUGH_DB, own + MORE_DB)
    reached = trial.divergence(exact)
    said = f"outputs with int8 products match those with float products by {reached:.1f} dB on "
    said += f"{len(trial.feeds)} calibration samples, of {bound:.1f} dB asked for"
    if reached >= bound:
        return _with(recipe, _FAST), [f"accuracy_level 4: {said}"]
    ranked = trial.most_moved()
    count = _fewest(len(ranked), lambda count: trial.divergence(exact, ranked[:count]) >= bound)
    if count is None:
        return _with(recipe, _FLOAT), [f"accuracy_level 0: {said}"]
    spared = ranked[:count]
    return _with(recipe, _FAST, spared), [f"accuracy_level 4, but 0 for {listed(spared)}: {said}"]


@dataclass(frozen=True)
class _Trial:
    """A quantized model whose levels are tried, the outputs that are looked at, and a few samples."""

    quantized: onnx.ModelProto
    recipe: WeightOnly
    names: Sequence[str]
    feeds: Sequence[Feed]

    def outputs(self, level: Level, spared: Sequence[str] = ()) -> list[list[Array]]:
        """Of each sample."""
        assign(self.quantized, _with(self.recipe, level, spared))
        return _outputs(self.quantized, self.names, self.feeds)

    def divergence(self, exact: list[list[Array]], spared: Sequence[str] = ()) -> float:
        """Decibels between these outputs and those with int8 products, except for the spared."""
        return likeness_db(exact, self.outputs(_FAST, spared))

    def most_moved(self) -> list[str]:
        """Products of the main graph, those first that the level moves most on the same inputs."""
        exact, fast = onnx.ModelProto(), onnx.ModelProto()
        for model, level in ((exact, _FLOAT), (fast, _FAST)):
            assign(self.quantized, _with(self.recipe, level))
            model.CopyFrom(self.quantized)
        every = find_layers(exact.graph, fast.graph)
        layers = [layer for layer in every if layer.node.op_type == "MatMulNBits"]
        found = zip(layers, sums(exact, fast, layers, self.feeds), strict=True)
        moved = {layer.node.name: sqnr(signal, local) for layer, (signal, local, _) in found}
        return sorted(moved, key=lambda name: moved[name])


def _with(recipe: WeightOnly, level: Level, spared: Sequence[str] = ()) -> WeightOnly:
    """Levels as asked for by name, else 0 for the spared nodes, else this one."""
    names = tuple(escape(name) for name in spared)
    first = (LevelOverride(nodes=names, accuracy_level=_FLOAT),) if names else ()
    return replace(recipe, accuracy_level=level, overrides=(*first, *recipe.overrides))


def _outputs(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]) -> list[list[Array]]:
    return [[values[name] for name in names] for values in activations(model, names, lambda: feeds)]


def _fewest(most: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest count that is enough, found by doubling and halving; None where not even `most` is."""
    short, count = 0, min(1, most)
    while not enough(count):
        if count == most:
            return None
        short, count = count, min(2 * count, most)
    while count - short > 1:
        middle = (short + count) // 2
        short, count = (short, middle) if enough(middle) else (middle, count)
    return count
