"""Types and axes of all tensors: inferred symbolically, else plainly, else recorded from a run."""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from worker.engine.load import tensor_bytes
from worker.engine.passes.scopes import initializers, tensor_ranks, tensor_types

Feed = Mapping[str, npt.NDArray[Any]]
_PROTOBUF_LIMIT = 2_000_000_000
_INT_MAX = 2**31 - 1


def infer_shapes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Record the type of every tensor that can be inferred, and the number of its axes.

    1. ONNX Runtime's symbolic inference, which knows its own operators too.
    2. Where that gives up, ONNX's inference.
    3. Above 2 GB neither is asked: both serialize the model.
    4. Sizes are not recorded: some are guessed, and the runtime plans its memory by them.
    """
    if tensor_bytes(model) > _PROTOBUF_LIMIT:
        return model, []
    known = {value.name for value in model.graph.value_info}
    inferred = _symbolic(model) or _plain(model)
    if inferred is None or len(inferred.graph.value_info) <= len(known):
        return model, []
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    for value in model.graph.value_info:
        for size in value.type.tensor_type.shape.dim:
            size.Clear()
    return model, [value.name for value in model.graph.value_info if value.name not in known]


def _symbolic(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """None when it is incomplete. Its own entry point leaves a file in the working folder then."""
    # Imported here, for it brings sympy, which takes longer than quantizing a small model.
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference  # noqa: PLC0415

    logging.getLogger("onnxruntime.tools.symbolic_shape_infer").setLevel(logging.CRITICAL)
    inference = SymbolicShapeInference(_INT_MAX, auto_merge=True, guess_output_rank=False, verbose=0)
    complete = False
    with contextlib.suppress(Exception):  # it asserts, and fails on keys and types that it does not know
        inference._preprocess(model)  # noqa: SLF001 - held by the contract test
        while inference.run_:
            complete = inference._infer_impl()  # noqa: SLF001
    return inference.out_mp_ if complete else None


def _plain(model: onnx.ModelProto) -> onnx.ModelProto | None:
    with contextlib.suppress(Exception):  # C++ exceptions of several types
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    return None


def inferred_ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The number of axes of every tensor of the main graph that is recorded or can be inferred."""
    fits = tensor_bytes(model) <= _PROTOBUF_LIMIT
    inferred = _plain(model) if fits else None
    return tensor_ranks((inferred or model).graph)


def untyped(graph: onnx.GraphProto) -> list[str]:
    """Tensors that nodes of the main graph write and whose type is not recorded."""
    types = tensor_types(graph)
    return [name for node in graph.node for name in node.output if name and name not in types]


def record_types(model: onnx.ModelProto, feed: Feed) -> tuple[onnx.ModelProto, list[str]]:
    """Record from a run the types of tensors that inference could not tell.

    1. Only tensors without a type are looked at.
    2. The rank is recorded, the sizes are not: another sample may have others.
    """
    names = untyped(model.graph)
    if not names or tensor_bytes(model) > _PROTOBUF_LIMIT:
        return model, []
    values = _run_with_outputs(model, names, feed)
    model.graph.value_info.extend(
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * np.ndim(value)
        )
        for name, value in values.items()
        if isinstance(value, np.ndarray) and value.dtype != object
    )
    return model, list(values)


def _run_with_outputs(model: onnx.ModelProto, names: list[str], feed: Feed) -> dict[str, Any]:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    constants = initializers(model.graph)
    wanted = [name for name in names if name not in constants]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(wanted, dict(feed)), strict=True))
