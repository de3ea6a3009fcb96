"""What a job is asked to do, the states things pass through, and which transitions are legal."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, get_args

from app.domain.detection import Decoding
from app.domain.errors import DomainError
from app.domain.gate import Gate
from app.domain.recipe import FORBID_UNKNOWN, Recipe
from app.domain.states import PreparedKind
from app.domain.target import Target


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Which samples give activation ranges. `samples` caps their number."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    dataset: str | None = None
    samples: int | None = field(default=None, metadata={"strict": True, "ge": 1})


PERPLEXITY: Final = "perplexity"
MetricName = Literal[
    "auto",
    "top1",
    "top5",
    "f1",
    "miou",
    "map",
    "map50",
    "mse",
    "mae",
    "psnr",
    "pearson",
    "spearman",
    "cosine",
    "perplexity",
]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Which samples decide accuracy and fidelity, by which metric, on which output.

    `metric` auto: top1 for class numbers, f1 for a class at each position, spearman for scored pairs of
    texts, perplexity for running text, mse for other numbers, none without labels. Perplexity is e to the
    mean -log p of the tokens; its drop is how much it rises. `output` may be left out where the model has one
    float output. `logits`: a binary classifier's only score says class 1 above 0, not above 0.5. `label_map`
    gives the model's class for each label of the data, by its name or number, and -1 to leave it out. Samples
    and positions labelled `ignore_label` do not count. `average` is how f1 joins classes: all alike (macro),
    all answers alike (micro), or class 1 alone (binary). `data_range` is psnr's: highest minus lowest
    possible value, 1 when left out. `pool` makes one vector of an output with a row for each token: their
    mean by the attention mask, the first (cls), or all of it (none); left out, mean where there are tokens.

    miou is for masks, and automatic for them; positions labelled below 0 do not count. map and map50 are mean
    average precision over intersections of .5 to .95 and at .5, as COCO counts it; `decoding` says how the
    output becomes boxes. Of a detector or of a mask of one channel, `logits` says that scores still need a
    sigmoid.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    dataset: str | None = None
    metric: MetricName = "auto"
    samples: int | None = field(default=None, metadata={"strict": True, "ge": 1})
    output: str | None = None
    logits: bool = False
    label_map: dict[str, int] = field(default_factory=dict)
    ignore_label: int | None = None
    average: Literal["macro", "micro", "binary"] = "macro"
    data_range: float = field(default=1.0, metadata={"strict": True, "gt": 0})
    pool: Literal["none", "mean", "cls"] | None = None
    decoding: Decoding | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How latency is measured; `max_seconds` is the budget for each candidate."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    batch: int = field(default=1, metadata={"strict": True, "ge": 1, "le": 1024})
    threads: int = field(default=1, metadata={"strict": True, "ge": 1, "le": 256})
    max_seconds: float = field(default=60, metadata={"strict": True, "gt": 0, "le": 3600})


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One quantization job; everything but `version` has a sensible default.

    `candidates` are versions quantized elsewhere, to be measured beside the recipes' by the same rules.
    `state` {output: input} feeds a stateful model's outputs back to its inputs, along the data's streams; a
    `*` on both sides stands for the same text, as in {"present.*": "past_key_values.*"}.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN
    version: str
    calibration: Calibration = field(default_factory=Calibration)
    evaluation: Evaluation = field(default_factory=Evaluation)
    recipes: tuple[Recipe, ...] = field(default=(), metadata={"max_length": 100})
    candidates: tuple[str, ...] = field(default=(), metadata={"max_length": 20})
    target: Target = field(default_factory=Target)
    shapes: dict[str, int] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    benchmark: Benchmark = field(default_factory=Benchmark)
    gate: Gate | None = None
    deadline_s: int = field(default=3600, metadata={"strict": True, "ge": 1, "le": 7 * 86400})
    reuse: Literal["allow", "never"] = "allow"
    labels: dict[str, str] = field(default_factory=dict)


class IllegalTransition(DomainError):
    """This state cannot follow that one."""

    code = "illegal_transition"


JOB_OPEN = frozenset({"queued", "running"})
JOB_ENDED = frozenset({"succeeded", "failed", "canceled", "expired"})
CANDIDATE_ENDED = frozenset({"measured", "failed", "pruned", "canceled"})
# Artifacts that a job's preparation makes for its other steps: they hold the model's weights or its samples.
PREPARED = get_args(PreparedKind)

TRANSITIONS: dict[str, dict[str, frozenset[str]]] = {
    "upload": {"receiving": frozenset({"ready", "failed", "expired"})},
    "version": {"inspecting": frozenset({"ready", "rejected"})},
    "dataset": {"inspecting": frozenset({"ready", "rejected"})},
    "job": {
        "queued": frozenset({"running", "failed", "canceled", "expired"}),
        "running": JOB_ENDED,
    },
    "candidate": {
        "planned": frozenset({"building", "failed", "pruned", "canceled"}),
        "building": frozenset({"built", "failed", "pruned", "canceled"}),
        "built": frozenset({"measured", "failed", "pruned", "canceled"}),
    },
}


def check_transition(noun: str, before: str, after: str) -> None:
    """Raise IllegalTransition unless `after` may follow `before` for this noun."""
    if after not in TRANSITIONS[noun].get(before, frozenset()):
        raise IllegalTransition(f"A {noun} that is {before} cannot become {after}.")
