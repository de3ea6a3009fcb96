"""Equal constants in different subgraphs become one, in a graph that all of them see."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from math import prod

import onnx

from worker.engine.passes.scopes import (
    array,
    rename_inputs,
    subgraphs,
    tensor_names,
    unused_name,
)

_SMALLEST = 64  # values


@dataclass(frozen=True)
class _Place:
    """A graph, numbered, with the numbers of the graphs around it."""

    graph: onnx.GraphProto
    path: tuple[int, ...]


def merge_copies(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Keep one of equal constants that lie in different subgraphs.

    What branches share, each of them gets a copy of when what leads to it is computed once.

    1. Constants of 64 values and more, of the same type and shape; no output of a graph.
    2. The one that stays lies in the innermost graph around all of them.
    """
    places = list(_places(model.graph, (), count()))
    if len(places) == 1:
        return model, []
    groups: dict[tuple[object, ...], list[tuple[_Place, onnx.TensorProto]]] = {}
    for place in places:
        outputs = {value.name for value in place.graph.output}
        for tensor in place.graph.initializer:
            if prod(tensor.dims) >= _SMALLEST and tensor.name not in outputs:
                groups.setdefault(_content(tensor), []).append((place, tensor))
    names, around = tensor_names(model.graph), {place.path: place.graph for place in places}
    gone = list[tuple[_Place, str]]()
    for found in groups.values():
        if len({place.path for place, _ in found}) > 1:
            owner = around[_shared([place.path for place, _ in found])]
            gone += _merge(owner, found, names)
    for place in places:
        _remove(place.graph, {name for other, name in gone if other is place})
    return model, [name for _, name in gone]


def _places(graph: onnx.GraphProto, around: tuple[int, ...], numbers: Iterator[int]) -> Iterator[_Place]:
    place = _Place(graph, (*around, next(numbers)))
    yield place
    for node in graph.node:
        for below in subgraphs(node):
            yield from _places(below, place.path, numbers)


def _content(tensor: onnx.TensorProto) -> tuple[object, ...]:
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(array(tensor).tobytes()).digest()


def _shared(paths: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The graphs that are around all of these."""
    return tuple(
        numbers[0] for numbers in takewhile(lambda some: len(set(some)) == 1, zip(*paths, strict=False))
    )


def _merge(
    owner: onnx.GraphProto, found: Sequence[tuple[_Place, onnx.TensorProto]], names: set[str]
) -> list[tuple[_Place, str]]:
    """Let all read the owner's constant; where it has none it gets the first. What is to be removed."""
    kept = next((tensor.name for place, tensor in found if place.graph is owner), None)
    if kept is None:
        kept = unused_name(found[0][1].name, names)
        owner.initializer.add().CopyFrom(found[0][1])
        owner.initializer[-1].name = kept
    gone = [(place, tensor.name) for place, tensor in found if tensor.name != kept]
    for place, name in gone:
        rename_inputs(place.graph, name, kept)
    return gone


def _remove(graph: onnx.GraphProto, names: set[str]) -> None:
    if names:
        kept = [tensor for tensor in graph.initializer if tensor.name not in names]
        del graph.initializer[:]
        graph.initializer.extend(kept)
