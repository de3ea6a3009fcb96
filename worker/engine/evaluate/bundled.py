"""ONNX test data that lies beside a model: it serves fidelity and latency where no data were sent.

It calibrates nothing: it is a sample or a few, and often random, so ranges of it would fit no real input, and
what is measured on the same samples would not show it.
"""

from dataclasses import replace
from pathlib import Path

from app.domain.errors import Refused
from app.domain.note import Note
from worker.engine.data.bind import Session, inputs_of
from worker.engine.data.feeds import real_feeds
from worker.engine.data.pb import sets_beside
from worker.engine.data.source import Source, open_source
from worker.engine.evaluate.run import run
from worker.engine.requests import Data

BUNDLED = "test data that came with the model (test_data_set_*)"


def data_beside(model: Path) -> Data | None:
    """The test data beside a model's main file; None where there are none."""
    return Data(path=model.parent) if sets_beside(model.parent) else None


def open_bundled(session: Session, model: Path, batch: int) -> tuple[Source | None, tuple[Note, ...]]:
    """All sets of a model's test data, where the model runs on them in this batch; else a note why not."""
    data = data_beside(model)
    if data is None:
        return None, ()
    try:
        source = open_source(data, inputs_of(session), ())
        source = replace(source, indices=range(len(source.dataset)))
        _try(session, source, batch)
    except Refused as refusal:
        return None, (Note("data", f"{BUNDLED} were passed over: {refusal.detail}"),)
    return source, (told(len(source.indices)),)


def told(samples: int) -> Note:
    """That figures come of such data."""
    return Note("data", f"fidelity and latency are measured on {BUNDLED}: {samples} samples, without labels")


def _try(session: Session, source: Source, batch: int) -> None:
    names = [output.name for output in session.get_outputs()]
    for feed in real_feeds(source, batch)[0]:
        run(session, names, feed)
