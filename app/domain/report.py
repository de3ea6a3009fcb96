"""What was measured. A figure that is missing has its reason in the candidate's `notes`."""

from dataclasses import dataclass, field
from typing import Literal

from app.domain.flips import Compared
from app.domain.note import Note

Metric = str


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: `shape` has a size, a name, or null per axis."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Examination:
    """What is in a model and what of it can be quantized."""

    family: str  # convolutional | transformer | recurrent | dense | other
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    ir: int
    opsets: dict[str, int]
    producer: str
    nodes: int
    op_types: dict[str, int]
    parameters: int
    bytes: int
    quantizable: float  # share of the parameters that int8 recipes can reach, 0 to 1
    warnings: tuple[str, ...] = ()
    vocabularies: dict[str, int] = field(default_factory=dict)  # rows of the table that an input's ids index


@dataclass(frozen=True)
class ArrayInfo:
    """One array of a dataset; `shape` is that of one sample, null where samples differ.

    `low` and `high` are the least and the greatest finite value of up to 2,000 samples; null for pixels of
    images. `finite` is false when any of them holds NaN or an infinity.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    low: float | None = None
    high: float | None = None
    finite: bool = True


@dataclass(frozen=True)
class DatasetSummary:
    """What is in a dataset."""

    format: str  # npz | safetensors | h5 | images | text | running_text | pb
    samples: int
    arrays: tuple[ArrayInfo, ...]
    labels: int | None  # how many samples have a label
    classes: tuple[str, ...]  # names, or the distinct labels as text; at most 1000
    warnings: tuple[str, ...] = ()
    label_counts: dict[int, int] = field(
        default_factory=dict
    )  # samples by class number; the 1000 most frequent
    label_range: tuple[int, int] | None = None  # the lowest and the highest class number
    targets: ArrayInfo | None = None  # labels that are no classes: numbers, or an array for each sample
    streams: int | None = None  # how many streams the samples belong to
    columns: tuple[str, ...] = ()  # of a table of texts
    tokens: int | None = None  # the most tokens in one text, before any is cut off


@dataclass(frozen=True)
class Size:
    """Bytes on disk, external data included."""

    bytes: int
    ratio: float


@dataclass(frozen=True)
class Accuracy:
    """Paired comparison with the float model on the same samples.

    `drop` above 0 is worse, in the metric's units, also for metrics where less is better. `ci` is its
    two-sided 95 % interval.

    Shares of right answers (top1, top5 on samples that stand for themselves): `lost` were right in float and
    are wrong now, `gained` the other way round, and the interval at any level is Tango's score interval of
    the two (`intervals.drop_interval`); `quantiles` is empty.

    Every other metric, and samples that belong to streams: `quantiles` holds 201 evenly spaced quantiles (0,
    0.5, …, 100 %) of the drop over a paired bootstrap, and the interval at any level is
    `intervals.quantile_interval(quantiles, level)`. `lost` and `gained` are null unless answers are right or
    wrong.
    """

    metric: Metric
    value: float
    baseline: float
    drop: float
    ci: tuple[float, float]
    samples: int
    lost: int | None = None
    gained: int | None = None
    quantiles: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fidelity:
    """How close the outputs stay to the float model's; `agreement` is the share of equal top-1."""

    sqnr_db: float
    sqnr_p05_db: float
    sqnr_se_db: float  # standard error of `sqnr_db` over samples, by the delta method
    cosine: float
    agreement: float | None
    samples: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds per run, and the speed-up with its distribution-free 95 % interval over rounds.

    `ratios` are the rounds' speed-ups (baseline / candidate); `noise` is the same interval for the baseline
    measured against itself. `p50s_ms` are the rounds' medians, in milliseconds.
    """

    p50_ms: float
    p90_ms: float
    baseline_p50_ms: float
    speedup: float
    ci: tuple[float, float]
    noise: tuple[float, float]
    rounds: int
    ratios: tuple[float, ...]
    load_ms: float
    cpu_ms: float
    threads: int
    batch: int
    p50s_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Peak resident bytes of a fresh process, and that minus its peak after importing the runtime."""

    peak_bytes: int
    model_bytes: int
    baseline_model_bytes: int


@dataclass(frozen=True)
class FloatNodes:
    """Nodes of one operator that compute in float for one reason; at most 6 are named."""

    op_type: str
    reason: str
    count: int
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Kernels:
    """Nodes that the runtime executes in integer kernels and in float ones.

    `left_float` says why nodes compute in float, the most frequent first; `hindrances` what slows the model
    down on a CPU and the recipe that mends it, the gravest first.
    """

    integer: int
    float: int
    left_float: tuple[FloatNodes, ...] = ()
    hindrances: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerError:
    """What quantizing one node costs, in dB of signal to noise; null where it cannot be told.

    `weight_sqnr_db`: the stored weights against the float ones. `local_sqnr_db`: the node's output when it
    gets float inputs. `cumulative_sqnr_db`: the same tensor inside the quantized model, errors of earlier
    nodes included. `impact_db`: the model's outputs when this node alone is quantized, for the worst tenth.
    """

    node: str
    op_type: str
    weight_sqnr_db: float | None
    local_sqnr_db: float | None
    cumulative_sqnr_db: float | None
    impact_db: float | None


@dataclass(frozen=True)
class Layers:
    """The quantized nodes, the most harmful first, and how many inputs they were looked at with."""

    layers: tuple[LayerError, ...]
    inputs: int


@dataclass(frozen=True)
class Requires:
    """What a runtime must know to load the model."""

    ir: int
    opsets: dict[str, int]
    onnxruntime: str


@dataclass(frozen=True)
class ExampleInput:
    """One input of a run that worked, all its elements `fill`.

    `shape` has sizes; `declared` has the model's own, with names and nulls. Of an input that is quantized,
    `affine` says what an integer stands for: scale, zero point.
    """

    name: str
    dtype: str  # as numpy calls it
    shape: tuple[int, ...]
    declared: tuple[int | str | None, ...]
    fill: int | float  # an integer as it is: a float holds no 2**63 - 1, which slices mean the end by
    affine: tuple[float, int] | None = None


@dataclass(frozen=True)
class Example:
    """Inputs on which the model ran, and the files with external data that must lie beside it."""

    inputs: tuple[ExampleInput, ...]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Obstacle:
    """One reason why a runtime does not take a model; at most 6 nodes are named.

    `mend` is the field of a recipe whose result does without it; null where there is none.
    """

    reason: str
    count: int
    nodes: tuple[str, ...]
    mend: str | None


@dataclass(frozen=True)
class TensorRT:
    """What TensorRT's published rules say of the graph; TensorRT itself was not run."""

    loads: Literal["yes", "no"]
    rules: str  # of which release
    obstacles: tuple[Obstacle, ...] = ()


@dataclass(frozen=True)
class OpenVINO:
    """A candidate run by OpenVINO on the benchmark's host, beside ONNX Runtime on the same inputs.

    `fidelity` is OpenVINO's and `onnxruntime` ONNX Runtime's, both against the float model in ONNX Runtime;
    `likeness` is the candidate in OpenVINO against itself in ONNX Runtime. In `latency` the baseline is the
    candidate in ONNX Runtime: a speed-up above 1 says that OpenVINO is faster. `reason` says why it does not
    load, was not checked, or has no latency.
    """

    loads: Literal["yes", "no", "not_checked"]
    release: str | None = None
    precision: str | None = None  # of what stays float, as OpenVINO chose it
    reason: str | None = None
    fidelity: Fidelity | None = None
    onnxruntime: Fidelity | None = None
    likeness: Fidelity | None = None
    latency: Latency | None = None


@dataclass(frozen=True)
class RunsElsewhere:
    """Which other runtimes take a model; OpenVINO is null of the baseline and before the benchmark."""

    tensorrt: TensorRT | None = None
    openvino: OpenVINO | None = None


@dataclass(frozen=True)
class Reused:
    """From which job a candidate's results come, because nothing that they depend on has changed.

    `measured_at` (microseconds since 1970) is null when latency and memory were measured anew.
    """

    job: str
    measured_at: int | None


@dataclass(frozen=True)
class Figures:
    """Everything measured of one candidate; null with a reason in `notes`.

    `predictions` are the answers to the first 8 evaluation samples beside the float model's.
    """

    size: Size | None = None
    accuracy: Accuracy | None = None
    fidelity: Fidelity | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    kernels: Kernels | None = None
    requires: Requires | None = None
    runs_elsewhere: RunsElsewhere | None = None
    example: Example | None = None
    notes: tuple[Note, ...] = ()
    predictions: tuple[Compared, ...] = ()


def causes_of_slowness(kernels: Kernels | None, latency: Latency | None) -> tuple[Note, ...]:
    """Notes on why a candidate is slower than float, where the whole interval of its speed-up says so."""
    if kernels is None or latency is None or latency.ci[1] >= 1:
        return ()
    return tuple(Note("slower", hindrance) for hindrance in kernels.hindrances)
