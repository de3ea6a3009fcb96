"""Which samples serve calibration and which evaluation, as one model takes them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from app.domain.dataset import DEFAULT_CALIBRATION_SAMPLES
from app.domain.errors import Refused
from app.domain.note import Note
from worker.engine.data import open_dataset
from worker.engine.data.bind import Binding, Input, bind, feed
from worker.engine.data.dataset import Array, Dataset, Sample, blocks
from worker.engine.data.images import ImageDataset
from worker.engine.data.running_text import RunningText
from worker.engine.data.split import check_disjoint, choose, split
from worker.engine.data.state import Feedback, feedback
from worker.engine.data.text import IDS, TextDataset
from worker.engine.requests import Data, Prepare


@dataclass(frozen=True)
class Source:
    """Samples of a dataset, in order, bound to a model's inputs."""

    dataset: Dataset
    binding: Binding
    indices: Sequence[int]
    feedback: Feedback | None = None

    def feeds(self) -> Iterator[dict[str, Array]]:
        """One run's inputs after the other, without what a stateful model feeds back to itself.

        The last run is filled up with its last sample.
        """
        return (feed(self.binding, samples) for samples in self.runs())

    def runs(self) -> Iterator[list[Sample]]:
        """The samples of one run after the other: one each, or the model's fixed batch."""
        size = self.run_size()
        for start in range(0, len(self.indices), size):
            yield [self.dataset.sample(index) for index in self.indices[start : start + size]]

    def run_count(self) -> int:
        """How many runs all samples take."""
        return -(-len(self.indices) // self.run_size())

    def run_size(self) -> int:
        """How many samples one run takes; those of a stream follow each other."""
        return 1 if self.feedback else self.binding.batch

    def begins_stream(self, position: int) -> bool:
        """Whether the sample at this position is of another stream than the one before it."""
        if isinstance(self.dataset, RunningText):
            return self.dataset.begins_stream(self.indices[position])
        groups = self.dataset.groups
        if position == 0 or groups is None:
            return position == 0
        return groups[self.indices[position]] != groups[self.indices[position - 1]]


@dataclass(frozen=True)
class Sources:
    """The samples of both uses, and those that came with the model; None where there are none."""

    calibration: Source | None = None
    evaluation: Source | None = None
    bundled: Source | None = None
    notes: tuple[Note, ...] = ()

    def first(self) -> Source | None:
        """Where real samples for latency come from."""
        return self.evaluation or self.calibration or self.bundled


def open_source(data: Data, inputs: Sequence[Input], indices: Sequence[int]) -> Source:
    """Chosen samples of a dataset, bound to a model's inputs.

    Raises:
        Refused: the dataset cannot be read or does not fit.
    """
    dataset = fitted(open_dataset(data), inputs)
    found = feedback(data.state, inputs)
    bound = [item for item in inputs if found is None or item.name not in found.inputs()]
    preprocess = dataset.preprocess if isinstance(dataset, ImageDataset) else data.preprocess
    return Source(dataset, bind(bound, dataset, preprocess, data.input), indices, found)


def fitted(dataset: Dataset, inputs: Sequence[Input]) -> Dataset:
    """Texts get the length that a model fixes; everything else is what it is."""
    lengths = [item.shape[1] for item in inputs if item.name.startswith(IDS) and len(item.shape) > 1]
    if isinstance(dataset, TextDataset | RunningText) and lengths and lengths[0] is not None:
        return dataset.fitted(lengths[0])
    return dataset


def choose_sources(request: Prepare, inputs: Sequence[Input]) -> Sources:
    """Open what is given, check that it fits the model, and choose the samples.

    One dataset for both uses is split; two must not overlap.

    Raises:
        Refused: a dataset does not fit the model, or `overlapping_datasets`, or `too_few_samples`.
    """
    calibration = open_source(request.calibration, inputs, ()) if request.calibration else None
    evaluation = open_source(request.evaluation, inputs, ()) if request.evaluation else None
    if not (calibration and evaluation):
        return _one_use(calibration, evaluation, request)
    if _same_file(request):
        return _shared(calibration, evaluation, request)
    first, second = _hashes(calibration.dataset), _hashes(evaluation.dataset)
    check_disjoint(first, second)
    return _noted(
        _chosen(calibration, first, request.calibration_samples or DEFAULT_CALIBRATION_SAMPLES),
        _chosen(evaluation, second, request.evaluation_samples),
    )


def _same_file(request: Prepare) -> bool:
    pair = request.calibration, request.evaluation
    return all(pair) and len({data.path for data in pair if data}) == 1


def _one_use(calibration: Source | None, evaluation: Source | None, request: Prepare) -> Sources:
    if calibration:
        samples = request.calibration_samples or DEFAULT_CALIBRATION_SAMPLES
        return _noted(_chosen(calibration, _hashes(calibration.dataset), samples), None)
    if evaluation:
        return _noted(None, _chosen(evaluation, _hashes(evaluation.dataset), request.evaluation_samples))
    return Sources()


def _shared(calibration: Source, evaluation: Source, request: Prepare) -> Sources:
    dataset = evaluation.dataset
    first, second = split(_hashes(dataset), _strata(dataset), request.calibration_samples)
    ranging, judging = _samples(dataset, first, None), _samples(dataset, second, request.evaluation_samples)
    if isinstance(dataset, RunningText):
        judging = _unseen(dataset, judging, ranging)
    return _noted(replace(calibration, indices=ranging), replace(evaluation, indices=judging))


def _unseen(dataset: RunningText, judging: Sequence[int], ranging: Sequence[int]) -> list[int]:
    """Windows overlap: those that share tokens with calibration's do not judge it."""
    left = dataset.apart(judging, set(ranging))
    if not left:
        detail = (
            "Every window shares tokens with one that calibrates; send more text, or a dataset for each use."
        )
        raise Refused("too_few_samples", detail)
    return left


def _chosen(source: Source, hashes: Sequence[bytes], samples: int | None) -> Source:
    order = choose(hashes, _strata(source.dataset), None)
    return replace(source, indices=_samples(source.dataset, order, samples))


def _samples(dataset: Dataset, order: Sequence[int], limit: int | None) -> list[int]:
    """The samples of whole blocks, one block at least, as far as `limit` samples (or pairs) go."""
    members = blocks(dataset)
    taken: list[int] = []
    for place, block in enumerate(order):
        counted = place + 1 if dataset.pairs else len(taken) + len(members[block])
        if taken and limit is not None and counted > limit:
            break
        taken += members[block]
    return taken


def _noted(calibration: Source | None, evaluation: Source | None) -> Sources:
    found = [source for source in (calibration, evaluation) if source]
    notes = dict.fromkeys(note for s in found for note in (*s.dataset.warnings, *s.binding.notes))
    return Sources(calibration, evaluation, notes=tuple(Note("data", note) for note in notes))


def _hashes(dataset: Dataset) -> list[bytes]:
    """One for each block, over the content of its samples in order."""
    return [_joined([dataset.content_hash(index) for index in block]) for block in blocks(dataset)]


def _joined(hashes: Sequence[bytes]) -> bytes:
    return hashes[0] if len(hashes) == 1 else hashlib.blake2b(b"".join(hashes), digest_size=16).digest()


def _strata(dataset: Dataset) -> list[int | None] | None:
    labels = dataset.labels
    if labels is None:
        return None
    return [next((labels[i] for i in block if labels[i] is not None), None) for block in blocks(dataset)]
