"""AWQ (Lin et al. 2023): channels with large activations are enlarged before their weights are rounded."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from worker.engine.choices.selection import listed
from worker.engine.choices.setting import Samples
from worker.engine.corrections.smoothing import divide, fold, gain_and_bias
from worker.engine.methods.weight_only.blocks import Floats
from worker.engine.methods.weight_only.choose import Site, Weight
from worker.engine.methods.weight_only.forms import Form, quantize_alone
from worker.engine.methods.weight_only.hessians import grouped, squares
from worker.engine.methods.weight_only.rewrite import matrix
from worker.engine.passes.scopes import tensor_names, unused_name

Doubles = npt.NDArray[np.float64]
_ALPHAS = np.arange(20) / 20  # the paper's grid; 0 scales nothing
_WORTH = 0.9  # of the error may remain for a Mul of its own to be worth its time
_QUIET = 1e-3  # of the largest channel: what is quieter counts as so loud, for other data may wake it
_ROWS = 512  # of each matrix, evenly spaced, that the search looks at


@dataclass(frozen=True)
class Scaling:
    """How the inputs of some products are divided.

    Attributes:
        scales: the columns of their weights are multiplied by these, [columns].
        importance: the mean squares of the divided inputs, [columns].
        remains: the share of the squared error of the products that is left.
    """

    scales: Doubles
    importance: Floats
    remains: float


def best_scaling(matrices: Sequence[Floats], square: Doubles, form: Form) -> Scaling:
    """The scales with which rounded matrices change their products least.

    Candidates are powers of the channels' typical size, from 0 to 0.95. The paper takes the mean size; the
    root mean square is at hand in the sums that also tell the error of the products.

    Args:
        matrices: of all products that read one tensor, [rows, columns] each.
        square: the sum of `x.T @ x` over that tensor's rows `x`, [columns, columns].
        form: of the codes.
    """
    typical = np.sqrt(np.diag(square))
    typical = np.maximum(typical, _QUIET * typical.max()) if typical.any() else np.ones_like(typical)
    shown = [rows[:: -(-len(rows) // _ROWS)] for rows in matrices]
    scaled = square.astype(np.float32)
    candidates = [_centred(typical**alpha) for alpha in _ALPHAS]
    errors = [sum(_error(rows, scales, scaled, form) for rows in shown) for scales in candidates]
    best = int(np.argmin(errors))
    scales = candidates[best]
    importance = (np.diag(square) / scales**2).astype(np.float32)
    return Scaling(scales, importance, errors[best] / errors[0] if errors[0] > 0 else 1.0)


def _centred(scales: Doubles) -> Doubles:
    """Around 1, and exact in float32."""
    middle = float(np.sqrt(scales.max() * scales.min()))
    return (scales / middle).astype(np.float32).astype(np.float64)


def _error(rows: Floats, scales: Doubles, square: Floats, form: Form) -> float:
    factors = scales.astype(np.float32)
    lost = quantize_alone(rows * factors, form, "rtn").values() / factors - rows
    return float(((lost @ square) * lost).sum(dtype=np.float64))


def scale_inputs(
    model: onnx.ModelProto, sites: Sequence[Site], form: Form, samples: Samples
) -> tuple[dict[Weight, Scaling], list[str]]:
    """Divide what products read, and say by what their weights are to be multiplied.

    1. Products of the main graph that read one tensor share their scales. A weight that meets several tensors
       is left to the caller.
    2. Where only these products read the tensor, the scales go into the gain and bias of the normalization,
       or into the constant of the Mul, that wrote it. Else a Mul divides, where a tenth of the error goes.

    Args:
        model: the prepared model; what writes or reads the tensors is changed, no weight is.
        sites: the chosen nodes.
        form: of the codes.
        samples: gives the calibration feeds anew at each call.
    """
    groups = _groups(sites)
    widths: dict[tuple[str, ...], int] = {
        (tensor,): next(iter(weights)).columns for tensor, weights in groups.items()
    }
    found: dict[str, Scaling] = {}
    for part in grouped(widths):
        for names, square in squares(model, part, samples).items():
            (tensor,) = names
            matrices = [matrix(model, weight) for weight in groups[tensor]]
            found[tensor] = best_scaling(matrices, square, form)
    done: dict[str, list[str]] = {}
    settled: dict[Weight, Scaling] = {}
    for tensor, scaling in found.items():
        readers = {site.node for site in sites if site.weight in groups[tensor]}
        how = _divide(model.graph, tensor, scaling, readers)
        done.setdefault(how, []).append(tensor)
        settled |= dict.fromkeys(groups[tensor], _plain(scaling) if how == _LEFT else scaling)
    return settled, [f"{how} {listed(tensors)}" for how, tensors in sorted(done.items())]


def _groups(sites: Iterable[Site]) -> Mapping[str, dict[Weight, None]]:
    """Tensors with the weights that meet them alone."""
    met: dict[Weight, dict[str | None, None]] = {}
    for site in sites:
        met.setdefault(site.weight, {})[site.activation] = None
    groups: dict[str, dict[Weight, None]] = {}
    for weight, tensors in met.items():
        tensor = next(iter(tensors))
        if tensor is not None and len(tensors) == 1:
            groups.setdefault(tensor, {})[weight] = None
    return groups


_FOLDED = "awq scaled what writes"
_ADDED = "awq added a Mul behind"
_LEFT = "awq scales nothing, for it would win too little, behind"


def _divide(graph: onnx.GraphProto, tensor: str, scaling: Scaling, readers: AbstractSet[str]) -> str:
    place = gain_and_bias(graph, tensor, readers, len(scaling.scales))
    if scaling.remains >= (1.0 if place else _WORTH):
        return _LEFT
    if not place:
        divide(graph, tensor, scaling.scales, readers)
        return _ADDED
    _rename(graph, fold(graph, place, scaling.scales))
    return _FOLDED


def _rename(graph: onnx.GraphProto, tensors: AbstractSet[str]) -> None:
    """Tensors are compared with the float model's by name: these no longer are the same."""
    names = tensor_names(graph)
    renamed = {name: unused_name(f"{name}_scaled", names) for name in sorted(tensors)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def _plain(scaling: Scaling) -> Scaling:
    """No division; errors count as the inputs are."""
    ones = np.ones_like(scaling.scales)
    return Scaling(ones, (scaling.importance * scaling.scales**2).astype(np.float32), 1.0)
