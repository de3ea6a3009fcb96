"""Graph passes: each takes a model and returns it with the names of what it changed, none the second time."""

from collections.abc import Callable

import onnx

from worker.engine.passes.batchnorm import fold_batchnorm
from worker.engine.passes.branches import inline_branches
from worker.engine.passes.collisions import separate_names
from worker.engine.passes.constants import constants_to_initializers, fold_constants
from worker.engine.passes.copies import merge_copies
from worker.engine.passes.domains import drop_unused_domains
from worker.engine.passes.functions import inline_functions
from worker.engine.passes.gemm_bias import make_bias_rows
from worker.engine.passes.half import widen_half
from worker.engine.passes.identities import remove_identities
from worker.engine.passes.inference import infer_shapes
from worker.engine.passes.inputs import separate_constants_from_inputs
from worker.engine.passes.legacy import rewrite_legacy
from worker.engine.passes.masks import soften_masks
from worker.engine.passes.matrices import multiply_matrices
from worker.engine.passes.metadata import forget_interface
from worker.engine.passes.naming import name_nodes
from worker.engine.passes.opset import convert_opset
from worker.engine.passes.outputs import separate_outputs
from worker.engine.passes.pairs import name_zero_points
from worker.engine.passes.shapes import share_shapes
from worker.engine.passes.sharing import separate_shared_weights
from worker.engine.passes.sparse import fill_sparse_constants

Pass = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, list[str]]]

PASSES: tuple[Pass, ...] = (
    separate_constants_from_inputs,
    inline_functions,
    fill_sparse_constants,
    separate_outputs,
    forget_interface,
    name_nodes,
    widen_half,
    rewrite_legacy,
    convert_opset,
    constants_to_initializers,
    fold_constants,
    name_zero_points,
    inline_branches,
    merge_copies,
    remove_identities,
    make_bias_rows,
    fold_batchnorm,
    separate_shared_weights,
    name_nodes,  # conversion adds nodes
    separate_names,
    drop_unused_domains,
    infer_shapes,
    share_shapes,
    multiply_matrices,
    infer_shapes,  # for what became matrices
    soften_masks,  # by the names that constants have now
)
