"""Outputs that came with the data: whether the float model still gives them here."""

from app.domain.note import Note
from worker.engine.data.bind import Session
from worker.engine.data.pb import PbDataset
from worker.engine.data.source import Source
from worker.engine.evaluate.fidelity import Closeness
from worker.engine.evaluate.run import outputs

LEAST_DB = 60.0


def given_outputs(session: Session, source: Source) -> list[Note]:
    """How close the float model comes to the outputs given, by their place; nothing where there are none."""
    dataset = source.dataset
    if not isinstance(dataset, PbDataset):
        return []
    names = [output.name for output in session.get_outputs()]
    closeness: dict[str, Closeness] = {}
    for index, found in zip(source.indices, outputs(session, source), strict=True):
        for name, expected in zip(names, dataset.expected(index), strict=False):
            if name not in found or found[name].shape != expected.shape:
                shape = list(expected.shape)
                return [Note("given outputs", f"{name} has the shape {shape} in the data, not here")]
            if expected.dtype.kind == "f":
                closeness.setdefault(name, Closeness(name)).add(expected, found[name])
    if not closeness:
        return []
    worst = min(running.fidelity().sqnr_db for running in closeness.values())
    doubt = (
        "" if worst >= LEAST_DB else "; below 60 dB, so the model may not be the one that they were made with"
    )
    return [Note("given outputs", f"the float model comes within {worst:.0f} dB of them{doubt}")]
