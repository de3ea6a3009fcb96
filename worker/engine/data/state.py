"""Stateful models: what a model writes to some outputs is fed back to some inputs, along each stream."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.domain.dataset import Preprocess
from app.domain.errors import FieldError, Refused, pointer
from worker.engine.data.bind import Input, arrange, convert
from worker.engine.data.dataset import Array, Sample


@dataclass(frozen=True)
class Feedback:
    """Inputs by the output that is fed back to them."""

    links: Mapping[str, Input]

    def initial(self, sample: Sample) -> dict[str, Array]:
        """A stream's first state: the arrays of this name in its first sample, else zeros.

        An axis without a fixed size is 1, or 0 where it grows with the stream.

        Raises:
            Refused: `invalid_state`, a given array does not fit.
        """
        return {
            item.name: _given(sample[item.name], item, output) if item.name in sample else _zeros(item)
            for output, item in self.links.items()
        }

    def carried(self, found: Mapping[str, Array]) -> dict[str, Array]:
        """The next run's state from this run's outputs.

        Raises:
            Refused: `invalid_state`, there is no such output.
        """
        for output in self.links:
            if output not in found:
                raise _invalid(
                    output, f"the model has no numeric output {output!r}; it has {', '.join(found)}"
                )
        return {item.name: found[output].astype(item.dtype) for output, item in self.links.items()}

    def inputs(self) -> frozenset[str]:
        """The names of the inputs that are fed."""
        return frozenset(item.name for item in self.links.values())


def feedback(state: Mapping[str, str], inputs: Sequence[Input]) -> Feedback | None:
    """The links of a job's `state` {output: input}; None when there are none.

    Raises:
        Refused: `invalid_state`, an input is not the model's, or is fed twice.
    """
    known = {item.name: item for item in inputs if item.dtype is not None}
    state = dict(link for pattern in state.items() for link in _spelled_out(*pattern, known))
    for output, name in state.items():
        if name not in known:
            raise _invalid(output, f"the model has no numeric input {name!r}; it has {', '.join(known)}")
        if list(state.values()).count(name) > 1:
            raise _invalid(output, f"the input {name!r} is fed by more than one output")
    return Feedback({output: known[name] for output, name in state.items()}) if state else None


def _spelled_out(output: str, name: str, known: Iterable[str]) -> list[tuple[str, str]]:
    """The links that a pattern stands for: a `*` on both sides is the same text."""
    before, star, after = name.partition("*")
    if not star or output.count("*") != 1:
        return [(output, name)]
    inputs = [one for one in known if one.startswith(before) and one.endswith(after)]
    middles = [one[len(before) : len(one) - len(after)] for one in inputs]
    return [(output.replace("*", m), one) for m, one in zip(middles, inputs, strict=True)] or [(output, name)]


def _zeros(item: Input) -> Array:
    sizes = [0 if axis in item.growing else size or 1 for axis, size in enumerate(item.shape)]
    return np.zeros(sizes, item.dtype)


def _given(array: Array, item: Input, output: str) -> Array:
    try:
        arranged, lacks_batch = arrange(array, item)
        found = convert(arranged, item, Preprocess())
    except ValueError as error:
        raise _invalid(output, f"the array {item.name!r} in the data: {error}") from error
    return found[None] if lacks_batch else found


def _invalid(output: str, detail: str) -> Refused:
    errors = (FieldError(pointer("state", output), detail),)
    return Refused("invalid_state", f"State cannot be fed back: {detail}.", errors=errors)
