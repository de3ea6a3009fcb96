"""A result that no longer computes what the float model computes is refused, whatever else it wins."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.domain.errors import Refused
from app.domain.recipe import BFloat16, Float16, Mixed, Recipe, StaticInt8, WeightOnly
from app.domain.report import Fidelity
from worker.engine.data.bind import Session
from worker.engine.data.dataset import Array
from worker.engine.evaluate.fidelity import Closeness, headline, refuse_another_shape
from worker.engine.evaluate.run import run
from worker.engine.interface import float_view
from worker.engine.ready import Feed
from worker.engine.session import open_session
from worker.engine.sqnr import least_db


def refuse_unfaithful(recipe: Recipe, fidelity: Fidelity | None) -> None:
    """Hold a result's fidelity against what its recipe must keep.

    Args:
        recipe: what the result was made by.
        fidelity: on the evaluation samples, else on a few ready inputs; None where no output is float.

    Raises:
        Refused: `unfaithful`, with the figure, the limit and what to try.
    """
    least = least_db(recipe)
    if least is None or fidelity is None or fidelity.sqnr_db >= least:
        return
    raise Refused(
        "unfaithful",
        f"The outputs match the float model's by {fidelity.sqnr_db:.1f} dB over {fidelity.samples} samples; "
        f"{recipe.method} must keep {least:g} dB with this number of bits. {_instead(recipe)}",
    )


def _instead(recipe: Recipe) -> str:
    match recipe:
        case StaticInt8() | Mixed():
            return "Exclude the nodes that suffer, give more calibration samples, or try weight_only."
        case WeightOnly():
            return "Ask for more bits, for smaller blocks, or for gptq with calibration samples."
        case Float16() | BFloat16():
            return "Exclude the nodes whose weights need more digits."
        case _:
            return "Exclude the nodes that suffer, or try weight_only with 8 bits."


def fidelity_on(original: Path, candidate: Path, feeds: Sequence[Feed]) -> Fidelity | None:
    """Fidelity on ready inputs; None where the float model has no float output.

    Raises:
        Refused: `model_fails`, `output_changed`, or `nan_output` where only the candidate gives NaN.
    """
    return fidelity_between(open_session(original), float_view(open_session(candidate)), feeds)


def fidelity_between(float_model: Session, candidate: Session, feeds: Sequence[Feed]) -> Fidelity | None:
    """Fidelity of a candidate's session, as `fidelity_on`.

    Raises:
        Refused: as there.
    """
    closeness: dict[str, Closeness] = {}
    for feed in feeds:
        before, after = (_run(session, feed) for session in (float_model, candidate))
        for name, reference in before.items():
            if reference.dtype.kind == "f":
                known = ~np.isnan(reference)
                _refuse_nan(name, known & np.isnan(_same(after, name, reference)))
                closeness.setdefault(name, Closeness(name)).add(reference[known], after[name][known])
    return headline(closeness)[0] if closeness else None


def _run(session: Session, feed: Feed) -> dict[str, Array]:
    return run(session, [output.name for output in session.get_outputs()], dict(feed))


def _same(found: dict[str, Array], name: str, reference: Array) -> Array:
    if name not in found:
        raise Refused("output_changed", f"The candidate has no output {name!r}.")
    refuse_another_shape(name, reference, found[name])
    return found[name]


def _refuse_nan(name: str, nan: Array) -> None:
    if nan.any():
        raise Refused("nan_output", f"The output {name!r} holds NaN where the float model has numbers.")
