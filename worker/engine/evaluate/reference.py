"""The float model's outputs, kept so that every candidate is compared with the same ones.

A zip of npy members: `order` (int64, the samples' indices), `labels` (int64, -1 for none) with the settled
`question` (JSON) where there is a metric, `notes` on accuracy, and one member for each sample and output, so
neither writing nor reading holds more than one sample in memory.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from pydantic import TypeAdapter

from app.domain.job import PERPLEXITY, Evaluation
from app.domain.note import Note
from worker.engine.data.dataset import Array
from worker.engine.evaluate.average_precision import METRICS
from worker.engine.evaluate.boxes import joined

MAX_BYTES = 2**30
NO_LABEL = -1
LIKELIHOODS = "log_likelihoods"  # stored beside a language model's output


@dataclass(frozen=True)
class Labelled:
    """What accuracy needs: the metric, the output that it judges, the samples' classes, and its options."""

    metric: str
    output: str
    labels: list[int | None]
    question: Evaluation

    def answer(self, outputs: Mapping[str, Array]) -> Array:
        """What the metric is counted from, of one sample's stored arrays.

        Raises:
            Refused: `metric_mismatch`, boxes and scores do not go together.
        """
        decoding = self.question.decoding
        if decoding and decoding.scores and self.metric in METRICS:
            return joined(outputs[self.output], outputs[decoding.scores], decoding)
        return outputs[LIKELIHOODS if self.metric == PERPLEXITY else self.output]


class ReferenceWriter:
    """Takes one sample after the other until `MAX_BYTES` are written; nothing is kept in memory."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._bytes = 0
        self._samples = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def add(self, outputs: Iterable[Array]) -> bool:
        """Write one sample; False when there is no room for another like it."""
        written = sum(self._write(f"{k}/{self._samples}", array) for k, array in enumerate(outputs))
        self._bytes += written
        self._samples += 1
        return self._bytes + written <= MAX_BYTES

    def finish(
        self, names: Sequence[str], order: Sequence[int], labelled: Labelled | None, notes: Sequence[Note]
    ) -> int:
        """Write what concerns all samples, and say how many there are.

        Args:
            names: the outputs, as `add` takes them.
            order: the index of each sample in its dataset.
            labelled: what accuracy needs, with one label for each sample.
            notes: why there is no accuracy, or not of all samples.
        """
        self._write("names", np.asarray(names, np.str_))
        self._write("order", np.asarray(order[: self._samples], np.int64))
        self._write("notes", np.asarray([str(note) for note in notes], np.str_))
        if labelled:
            numbers = [NO_LABEL if label is None else label for label in labelled.labels[: self._samples]]
            self._write("labels", np.asarray(numbers, np.int64))
            self._write("question", np.asarray(json.dumps(asdict(labelled.question))))
        return self._samples

    def _write(self, name: str, array: Array) -> int:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, allow_pickle=False)
        self._archive.writestr(f"{name}.npy", buffer.getbuffer())
        return buffer.tell()


class Reference:
    """Reads what `ReferenceWriter` wrote."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self.names: tuple[str, ...] = tuple(str(name) for name in self._read("names"))
        self.order: list[int] = self._read("order").tolist()
        self.notes: tuple[Note, ...] = tuple(Note.read(str(note)) for note in self._read("notes"))
        self.labelled = self._labelled() if "labels.npy" in self._archive.namelist() else None

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for sample in range(len(self.order)):
            yield {name: self._read(f"{k}/{sample}") for k, name in enumerate(self.names)}

    def _labelled(self) -> Labelled:
        numbers = self._read("labels").tolist()
        labels = [None if number == NO_LABEL else number for number in numbers]
        question = TypeAdapter(Evaluation).validate_json(str(self._read("question")))
        return Labelled(question.metric, str(question.output), labels, question)

    def _read(self, name: str) -> Array:
        array: Array = np.lib.format.read_array(
            io.BytesIO(self._archive.read(f"{name}.npy")), allow_pickle=False
        )
        return array
