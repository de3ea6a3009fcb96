"""Make a float model ready for every recipe, and prove after each step that it still computes the same."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from app.domain.errors import Refused
from worker.engine.choices.selection import by_reason, listed
from worker.engine.load import external_tensors, load_model, parse, save_model
from worker.engine.passes import PASSES, Pass
from worker.engine.passes.batchnorm import batchnorms_left
from worker.engine.passes.inference import record_types, untyped
from worker.engine.passes.likeness import Outputs, likeness_db
from worker.engine.passes.masks import masks_left
from worker.engine.passes.opset import CannotConvert
from worker.engine.session import open_session, reason

Feed = Mapping[str, npt.NDArray[Any]]
LEAST_LIKENESS_DB = 80.0
_FEEDS = 4  # enough to see a broken pass; each costs a run per pass


def prepare_model(
    source: Path, out: Path, feeds: Sequence[Feed], shapes: Mapping[str, int]
) -> tuple[str, ...]:
    """Write the prepared float model to `out`: same inputs, outputs, order, types and dynamic dimensions.

    Each pass is kept only when the model's outputs on `feeds` stay within 80 dB of the source's. A pass that
    fails or breaks something is undone and named. In the worst case `out` is a copy of the source.

    Args:
        source: the uploaded model's main file.
        out: where the prepared model goes; its folder exists.
        feeds: inputs of a few samples, by input name; without any, no pass can be proven and none is kept
            but naming.
        shapes: sizes of dynamic dimensions, by name; they are not fixed in the saved model.

    Returns:
        What was changed, undone or not possible, a sentence each.

    Raises:
        Refused: `unknown_dimension`, or what `load_model` and `open_session` refuse.
    """
    _refuse_unknown_dimensions(parse(source), shapes)
    feeds = feeds[:_FEEDS]
    reference = _reference(source, feeds)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="prepare-") as folder:
        current = Path(folder) / "current.onnx"
        save_model(load_model(source), current)
        for step in _passes(feeds):
            notes.extend(_apply(step, current, feeds, reference))
        _move(current, out)
    notes.extend(_left(load_model(out)))
    return tuple(notes)


def _passes(feeds: Sequence[Feed]) -> list[Pass]:
    if not feeds:
        return [step for step in PASSES if _name(step) in _HARMLESS]
    return [*PASSES, partial(record_types, feed=feeds[0])]


def _apply(step: Pass, current: Path, feeds: Sequence[Feed], reference: Sequence[Outputs]) -> list[str]:
    """Replace the file `current` by what the pass makes of it, if that can be proven to be the same."""
    name = _name(step)
    try:
        model, changed = step(load_model(current))
    except CannotConvert as why:
        return [f"Opset {_opset(current)} was kept, so weights are quantized per tensor: {why}."]
    except Exception as error:  # noqa: BLE001 - a pass must never stop a job
        return [f"Skipped ({type(error).__name__}): {_purpose(step)}."]
    if not changed:
        return []
    trial = current.with_name("trial.onnx")
    broken = _broken(model, trial, feeds, reference)
    if broken:
        return [f"Undone, because {broken}: {_purpose(step)} ({listed(changed)})."]
    _move(trial, current)
    return [f"Done: {_purpose(step)} ({listed(changed)})."] if name not in _HARMLESS else []


def _broken(
    model: onnx.ModelProto, trial: Path, feeds: Sequence[Feed], reference: Sequence[Outputs]
) -> str | None:
    try:
        save_model(model, trial)
        likeness = likeness_db(reference, _outputs(trial, feeds))
    except Refused as refusal:
        return refusal.detail.rstrip(".")
    except Exception as error:  # noqa: BLE001 - a run's errors share no other base
        return f"the model fails to run ({type(error).__name__})"
    if likeness >= LEAST_LIKENESS_DB:
        return None
    return f"outputs match the original by {likeness:.0f} dB only, and {LEAST_LIKENESS_DB:.0f} are asked"


def _reference(source: Path, feeds: Sequence[Feed]) -> list[Outputs]:
    session = open_session(source)
    try:
        return [session.run(None, dict(feed)) for feed in feeds]
    except Exception as error:
        raise Refused(
            "model_fails", f"{source.name} does not run on the data given: {reason(error, source)}"
        ) from error


def _outputs(path: Path, feeds: Sequence[Feed]) -> list[Outputs]:
    session = open_session(path)
    return [session.run(None, dict(feed)) for feed in feeds]


def _move(source: Path, target: Path) -> None:
    """Move a model; its external data keeps the name that the main file refers to, so that is rewritten."""
    if not any(True for _ in external_tensors(parse(source))):
        shutil.move(source, target)
        return
    save_model(load_model(source), target)


def _refuse_unknown_dimensions(model: onnx.ModelProto, shapes: Mapping[str, int]) -> None:
    known = {d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param}
    unknown = sorted(set(shapes) - known)
    if unknown:
        has = ", ".join(sorted(known)) or "none"
        raise Refused(
            "unknown_dimension", f"The model has no dynamic dimension {unknown[0]!r}; it has: {has}."
        )


def _left(model: onnx.ModelProto) -> list[str]:
    """What could not be repaired, and why."""
    found = {
        "BatchNormalization is not folded": batchnorms_left(model),
        "A mask stays at the lowest float": masks_left(model),
        "Stays float": dict.fromkeys(untyped(model.graph), "the type of the tensor could not be told"),
    }
    return [
        f"{what}, {why}: {listed(names)}."
        for what, reasons in found.items()
        for why, names in by_reason(reasons).items()
    ]


def _opset(path: Path) -> int:
    return next((int(o.version) for o in parse(path).opset_import if not o.domain), 0)


def _name(step: Pass) -> str:
    return str(_function(step).__name__)


def _purpose(step: Pass) -> str:
    sentence = (_function(step).__doc__ or "").splitlines()[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def _function(step: Pass) -> Any:  # noqa: ANN401 - a partial's function has no narrower type
    return step.func if isinstance(step, partial) else step


_HARMLESS = frozenset(
    {
        "name_nodes",
        "separate_names",
        "infer_shapes",
        "record_types",
        "drop_unused_domains",
        "forget_interface",
    }
)
