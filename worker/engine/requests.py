"""What the engine is asked and what it answers: the frozen dataclasses that cross the sandbox's border.

All paths are absolute. A call writes only below its `out` folder.
"""

from dataclasses import dataclass, field
from pathlib import Path

from app.domain.against import Outcomes
from app.domain.dataset import Preprocess
from app.domain.flips import Flips
from app.domain.job import Evaluation
from app.domain.preview import Preview
from app.domain.recipe import Recipe
from app.domain.report import DatasetSummary, Figures, Layers


@dataclass(frozen=True, kw_only=True)
class Data:
    """A dataset's file and how its samples become inputs."""

    path: Path
    preprocess: Preprocess = field(default_factory=Preprocess)
    input: str | None = None  # the model's input that images bind to, where it has several
    state: dict[str, str] = field(default_factory=dict)  # {output: input} fed back along each stream


@dataclass(frozen=True, kw_only=True)
class UnpackModel:
    """Take a model and its external data out of an archive; together they have at most `limit` bytes."""

    archive: Path
    out: Path
    limit: int


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """Paths below `out`, the model's first, as the model names its external data."""

    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExamineModel:
    """Look at an uploaded model; `model` is its main file, external data lies beside it."""

    model: Path


@dataclass(frozen=True, kw_only=True)
class ExamineDataset:
    """Look at an uploaded dataset."""

    data: Data


@dataclass(frozen=True, kw_only=True)
class ExaminedDataset:
    """What is in an uploaded dataset, and its first samples."""

    summary: DatasetSummary
    preview: Preview


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Prepare the float model once for all recipes, split the data, calibrate, and evaluate the baseline.

    With `calibration` and `evaluation` on the same path the samples are split. Without `evaluation` there is
    no reference; without `calibration`, or where no recipe reads ranges, no statistics.
    """

    model: Path
    out: Path
    calibration: Data | None = None
    reads_ranges: bool = True  # False: calibration samples are chosen, but no statistics are collected
    evaluation: Data | None = None
    calibration_samples: int | None = None
    evaluation_samples: int | None = None
    question: Evaluation = field(default_factory=Evaluation)
    batch: int = 1
    shapes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `Prepare` wrote below `out`, by file name, and what it found.

    `reference` holds the float outputs, the labels and the sample order of the evaluation; `feeds` a few
    ready inputs for latency. `baseline` has accuracy as value == baseline and drop 0.
    """

    model: str
    statistics: str | None
    calibration_order: str | None  # npy, int64: the samples that calibrate, in their order
    reference: str | None
    feeds: str
    metric: str | None
    calibration_samples: int
    evaluation_samples: int
    synthetic_feeds: bool
    baseline: Figures
    notes: tuple[str, ...]  # what the doctor repaired or left out, with node names and reasons
    batch: int = 1  # samples in each feed: what was asked for, or the model's fixed batch


@dataclass(frozen=True, kw_only=True)
class Build:
    """Quantize the prepared model by one recipe and evaluate the result against the reference."""

    original: Path  # the upload: the size ratio is to this
    model: Path  # the prepared model
    out: Path
    recipe: Recipe
    isa: str
    imported: Path | None = None  # the model quantized elsewhere, of an imported recipe
    calibration: Data | None = None
    calibration_order: Path | None = None  # which samples of `calibration`, as `Prepared` names it
    runtime: str | None = None  # the release of ONNX Runtime that must load the result
    statistics: Path | None = None
    reference: Path | None = None
    feeds: Path | None = None
    evaluation: Data | None = None


@dataclass(frozen=True, kw_only=True)
class Built:
    """The candidate: `model` is a file name below `out`; `recipe` has no `auto` left."""

    model: str
    recipe: Recipe
    figures: Figures  # size, accuracy, fidelity, kernels, requires; latency and memory come later
    reasons: tuple[str, ...]  # why each auto field became what it is, and what was left in float
    flips: Flips | None = None  # null without data
    outcomes: Outcomes | None = None  # null where nothing is right or wrong
    layers: Layers | None = None  # null with a note in `figures`


@dataclass(frozen=True, kw_only=True)
class MeasureRound:
    """One round of paired latency in this process: the baseline, the baseline again, each candidate."""

    models: tuple[Path, ...]  # the baseline first
    openvino: bool = False  # the last contestant is the baseline again, run by OpenVINO
    feeds: Path
    threads: int = 1
    seed: int = 0
    seconds: float = 0.25  # at least this long for each contestant


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One contestant's result in one round."""

    log_ratio: float  # median over blocks of log(baseline / this)
    p50_ms: float
    p90_ms: float
    load_ms: float
    cpu_ms: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: the baseline against itself (A/A), the baseline, and each candidate in order."""

    noise: Contestant
    baseline: Contestant
    candidates: tuple[Contestant, ...]
    throttled: bool


@dataclass(frozen=True, kw_only=True)
class RunOpenVINO:
    """Load a candidate in OpenVINO, and hold it against the float model and itself in ONNX Runtime."""

    baseline: Path
    candidate: Path
    feeds: Path


@dataclass(frozen=True, kw_only=True)
class MeasureMemory:
    """Load and run one model in this fresh process."""

    model: Path
    feeds: Path
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Peak resident bytes: after importing the runtime, and after running the model."""

    import_bytes: int
    peak_bytes: int
