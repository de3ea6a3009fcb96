"""Feed and read a model whose inputs or outputs are quantized as if they were float.

Apart from what writes them, so that a latency round does without `onnx`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from app.domain.errors import Refused

KEY = "fewbits.interface"  # metadata: {tensor: {"scale", "zero_point"}} as JSON
Array = npt.NDArray[Any]
Session: TypeAlias = Any  # ONNX Runtime ships no types
_INTEGERS = {f"tensor({name})": np.dtype(name) for name in ("int8", "uint8", "int16", "uint16")}


@dataclass(frozen=True)
class Affine:
    """A real value is `(integer - zero_point) * scale`."""

    scale: float
    zero_point: int
    dtype: np.dtype[Any]

    def quantize(self, values: Array) -> Array:
        """Round to the nearest integer, half to even, and saturate."""
        limits = np.iinfo(self.dtype)
        scaled = np.rint(values.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        integers: Array = np.clip(scaled, limits.min, limits.max).astype(self.dtype)
        return integers

    def dequantize(self, integers: Array) -> Array:
        """float32 values."""
        return (integers.astype(np.float32) - self.zero_point) * np.float32(self.scale)


@dataclass(frozen=True)
class Argument:
    """An input or output as ONNX Runtime describes it."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class FloatView:
    """A session that takes and gives float32 where the model has integers with a scale."""

    def __init__(self, session: Session, affine: Mapping[str, Affine]) -> None:
        self._session, self._affine = session, affine

    def get_inputs(self) -> list[Argument]:
        """The inputs, quantized ones as float."""
        return [self._shown(argument) for argument in self._session.get_inputs()]

    def get_outputs(self) -> list[Argument]:
        """The outputs, quantized ones as float."""
        return [self._shown(argument) for argument in self._session.get_outputs()]

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Quantize what is fed, run, dequantize what comes out."""
        wanted = list(names) if names is not None else [o.name for o in self._session.get_outputs()]
        found = self._session.run(wanted, quantized_feed(self._affine, feeds))
        pairs = zip(wanted, found, strict=True)
        return [self._affine[n].dequantize(a) if n in self._affine else a for n, a in pairs]

    def _shown(self, argument: Any) -> Argument:  # noqa: ANN401 - ONNX Runtime ships no types
        kind = "tensor(float)" if argument.name in self._affine else argument.type
        return Argument(argument.name, kind, argument.shape)


def affine_of(session: Session) -> dict[str, Affine]:
    """The quantized inputs and outputs of a model, from its metadata; none where it says nothing.

    Raises:
        Refused: `invalid_model`, the metadata does not fit the model.
    """
    text = session.get_modelmeta().custom_metadata_map.get(KEY, "{}")
    arguments = (*session.get_inputs(), *session.get_outputs())
    try:
        told = json.loads(text)
        return {a.name: _affine(told[a.name], a.type) for a in arguments if a.name in told}
    except (ValueError, KeyError, TypeError) as error:
        detail = f"The model's metadata {KEY} does not tell the scales of its inputs and outputs; remove it."
        raise Refused("invalid_model", detail) from error


def _affine(told: Mapping[str, Any], kind: str) -> Affine:
    return Affine(float(told["scale"]), int(told["zero_point"]), _INTEGERS[kind])


def float_view(session: Session) -> Session:
    """The session itself, or one that hides its integers."""
    affine = affine_of(session)
    return FloatView(session, affine) if affine else session


def as_fed(session: Session, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Float feeds as this model takes them, quantized once so that no run has to."""
    affine = affine_of(session)
    return [quantized_feed(affine, feed) for feed in feeds]


def quantized_feed(affine: Mapping[str, Affine], feed: Mapping[str, Array]) -> dict[str, Array]:
    """A float feed as the model takes it."""
    return {name: affine[name].quantize(a) if name in affine else a for name, a in feed.items()}
