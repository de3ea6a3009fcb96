"""Models whose weights are quantized, and how close the results stay."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from app.domain.recipe import WeightOnly
from tests.engine.graphs import Array, build, weights
from worker.engine.load import save_model
from worker.engine.methods import Quantized, Setting, quantize
from worker.engine.passes.likeness import likeness_db
from worker.engine.prepare import prepare_model
from worker.engine.session import open_session

Feeds = list[dict[str, Array]]


class Case:
    """A model and its inputs, prepared."""

    def __init__(self, folder: Path, model: onnx.ModelProto, samples: Feeds) -> None:
        self.source, self.prepared, self.out = (folder / f"{n}.onnx" for n in ("source", "prepared", "out"))
        self.samples = samples
        save_model(model, self.source)
        prepare_model(self.source, self.prepared, samples[:2], {})

    def quantize(self, recipe: WeightOnly, *, with_samples: bool = False) -> Quantized:
        """Write `out`."""
        samples = (lambda: self.samples) if with_samples else None
        return quantize(self.prepared, self.out, recipe, Setting(isa="x86-vnni", samples=samples))

    def resolved(self, recipe: WeightOnly) -> WeightOnly:
        """Write `out` with samples at hand; the recipe without `auto`."""
        found = self.quantize(recipe, with_samples=True).recipe
        assert isinstance(found, WeightOnly)
        return found

    def likeness(self) -> float:
        """Decibels between the outputs of `source` and of `out`."""
        before, after = open_session(self.source), open_session(self.out)
        return likeness_db(
            [before.run(None, feed) for feed in self.samples],
            [after.run(None, feed) for feed in self.samples],
        )

    def nodes(self, op_type: str) -> list[onnx.NodeProto]:
        """Of `out`."""
        return [node for node in onnx.load_model(self.out).graph.node if node.op_type == op_type]


def rows(width: int, count: int = 16) -> Feeds:
    """Rows whose values hang together, as those of real layers do."""
    rng = np.random.default_rng(7)
    mixing = rng.normal(size=(width // 4, width))
    return [{"x": (rng.normal(size=(8, width // 4)) @ mixing).astype(np.float32)} for _ in range(count)]


def product(columns: int, outputs: int = 48) -> onnx.ModelProto:
    """A MatMul with a constant."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    return build(
        nodes, {"x": ["batch", columns]}, {"y": ["batch", outputs]}, {"w": weights(columns, outputs)}
    )


def lookup(width: int = 64) -> onnx.ModelProto:
    """A table, and a product of what is looked up."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "lookup"),
        helper.make_node("MatMul", ["rows", "w"], ["y"], "product"),
    ]
    made = {"table": weights(100, width), "w": weights(width, 32, seed=1)}
    model = build(nodes, {"ids": ["batch", "words"]}, {"y": ["batch", "words", 32]}, made)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return model


IDS: Feeds = [{"ids": np.array([[1, 99, -1], [5, 0, 7]])}]
