"""Sparse constants become dense: no quantizer reads them."""

import numpy as np
import onnx

from worker.engine.passes.scopes import all_graphs, array, as_initializer


def fill_sparse_constants(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Write sparse initializers with their zeros, in every scope; ONNX Runtime does so when it loads them."""
    filled = list[str]()
    for graph in all_graphs(model.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_filled(sparse))
            filled.append(sparse.values.name)
        del graph.sparse_initializer[:]
    return model, filled


def _filled(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The dense tensor; indices are a row of positions, or a row of coordinates for each value."""
    values, places = array(sparse.values), array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 1:
        dense.reshape(-1)[places] = values
    else:
        dense[tuple(places.T)] = values
    return as_initializer(dense, sparse.values.name)
