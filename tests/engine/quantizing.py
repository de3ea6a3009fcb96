"""One model on its way through the engine, as the tests of recipes need it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from app.domain.recipe import Recipe
from worker.engine.calibrate import Statistics, collect
from worker.engine.load import save_model
from worker.engine.methods import Quantized, Setting, quantize
from worker.engine.passes.likeness import likeness_db
from worker.engine.prepare import prepare_model
from worker.engine.session import open_session

Samples = list[dict[str, np.ndarray[Any, Any]]]


class Prepared:
    """One model on its way: uploaded and prepared, with its inputs."""

    def __init__(self, folder: Path, model: onnx.ModelProto, samples: Samples) -> None:
        self.source, self.prepared, self.out = (folder / f"{n}.onnx" for n in ("source", "prepared", "out"))
        self.samples = samples
        save_model(model, self.source)
        prepare_model(self.source, self.prepared, samples[:2], {})

    def likeness(self) -> float:
        """Decibels of the quantized outputs against those of the upload."""
        before, after = open_session(self.source), open_session(self.out)
        return likeness_db(
            [before.run(None, feed) for feed in self.samples],
            [after.run(None, feed) for feed in self.samples],
        )

    def weight_types(self) -> Mapping[str, int]:
        """Element types of the constants of the result."""
        return {t.name: t.data_type for t in onnx.load_model(self.out).graph.initializer}

    def op_types(self) -> set[str]:
        return {node.op_type for node in onnx.load_model(self.out).graph.node}


class Case(Prepared):
    """One model on its way: uploaded, prepared, calibrated, quantized."""

    def __init__(self, folder: Path, model: onnx.ModelProto, samples: Samples) -> None:
        super().__init__(folder, model, samples)
        self.statistics: Statistics = collect(self.prepared, samples)

    def quantize(self, recipe: Recipe, isa: str = "x86-vnni") -> Quantized:
        return quantize(self.prepared, self.out, recipe, Setting(isa=isa, statistics=self.statistics))


Start = Callable[[onnx.ModelProto, Samples], Case]
