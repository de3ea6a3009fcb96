"""The models of the fidelity benchmark: what calibrates and evaluates each, and how it is scored."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Score = Callable[[Sequence[Sequence[Array]]], float]  # outputs of each evaluation sample → a figure
CALIBRATION = 128
EVALUATION = 400
CIFAR_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
COLUMN_OF_SCORE, COLUMN_OF_FIRST = 4, 5
BLOCK, MIDDLE_BLOCK = 2048, 512  # bytes that Magika 2 and 1 read at each end
PADDING = 256
STREAM, CONTEXT, CHUNK, RATE = 40, 64, 512, 16_000  # of Silero: chunks per stream, and samples of sound


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, the samples that every contender calibrates on, and those on which all are evaluated.

    Attributes:
        outputs: what fidelity is measured on; empty for all outputs, of which the worst counts.
        score: accuracy in percent or points, where there are labels.
        state: output to input, for models that carry a state along; a feed without it goes on with the last.
    """

    model: Path
    calibration: list[Feed]
    evaluation: list[Feed]
    outputs: tuple[str, ...] = ()
    metric: str = ""
    score: Score | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    transformer: bool = False


@dataclass(frozen=True)
class Sources:
    """Where the models and data lie."""

    data: Path
    minilm: Path | None
    tokenizer: Path | None

    def model(self, name: str) -> Path:
        """A model's file."""
        return self.data / "models" / f"{name}.onnx"


def squeezenet(sources: Sources) -> Case:
    """BGR, short side 256, centre 224; one image of each second class of ImageNet."""
    rows = _rows(sources.data / "imagenet" / "labels.csv")
    images = [_centre(_rgb(sources.data / "imagenet" / row["file"])) for row in rows]
    feeds = [{"data_0": _planes(image[..., ::-1]) - 128} for image in images]
    labels = [int(row["label"]) for row in rows]
    return _labelled(sources.model("imagenet-squeezenet-fp32"), feeds, labels)


def resnet8(sources: Sources) -> Case:
    """Pixels as they are."""
    return _cifar(sources, "cifar10-resnet8", "input_1", _planes)


def resnet_4b(sources: Sources) -> Case:
    """Normalized pixels."""
    std = np.array([0.2471, 0.2435, 0.2616], np.float32)
    name = "vnncomp2021-cifar10_resnet_4b"
    return _cifar(sources, name, "input.1", lambda image: _planes((image / 255 - CIFAR_MEAN) / std))


def marabou(sources: Sources) -> Case:
    """Channels last, 0 to 1."""
    name = "vnncomp2021-cifar10_marabou_large"
    return _cifar(sources, name, "x:0", lambda image: image[None].astype(np.float32) / np.float32(255))


def vit(sources: Sources) -> Case:
    """Normalized pixels, with other deviations than resnet_4b."""
    std = np.array([0.2023, 0.1994, 0.2010], np.float32)
    name = "cifar10-vit-pgd_2_3_16"
    return _cifar(
        sources, name, "input", lambda image: _planes((image / 255 - CIFAR_MEAN) / std), transformer=True
    )


def visual_wake_words(sources: Sources) -> Case:
    """96 × 96, 0 to 1; the label says whether there is a person."""
    rows = _rows(sources.data / "coco" / "labels.csv")
    images = [_rgb(sources.data / "coco" / row["file"], (96, 96)) for row in rows]
    feeds = [{"input_1": _planes(np.asarray(image) / 255)} for image in images]
    return _labelled(
        sources.model("visual-wake-words-mobilenet-0.25"), feeds, [int(row["label"]) for row in rows]
    )


def magika_1(sources: Sources) -> Case:
    """Bytes from the beginning, the middle and the end of a file, as floats."""

    def features(content: bytes) -> Array:
        middle = max(len(content) // 2 - MIDDLE_BLOCK // 2, 0)
        parts = (
            _bytes(content[:MIDDLE_BLOCK], MIDDLE_BLOCK),
            _bytes(content[middle : middle + MIDDLE_BLOCK], MIDDLE_BLOCK),
            _bytes(content[-MIDDLE_BLOCK:], MIDDLE_BLOCK, last=True),
        )
        return np.concatenate(parts)[None].astype(np.float32)

    return _magika(sources, "magika-standard_v1-model", features)


def magika_2(sources: Sources) -> Case:
    """Stripped bytes from the beginning and the end of a file."""

    def features(content: bytes) -> Array:
        begin, end = content[: 2 * BLOCK].lstrip()[:BLOCK], content[-2 * BLOCK :].rstrip()[-BLOCK:]
        return np.concatenate([_bytes(begin, BLOCK), _bytes(end, BLOCK, last=True)])[None].astype(np.int32)

    return _magika(sources, "magika-standard_v2_1-model", features)


def yolox(sources: Sources) -> Case:
    """BGR pixels, padded right and below to 416."""

    def letterbox(path: Path) -> Array:
        image = Image.open(path).convert("RGB")
        scale = 416 / max(image.size)
        small = image.resize((round(image.width * scale), round(image.height * scale)))
        canvas = Image.new("RGB", (416, 416), (114, 114, 114))
        canvas.paste(small, (0, 0))
        return _planes(np.asarray(canvas)[..., ::-1])

    return _coco(sources, "node-editor-yolox_nano", "images", letterbox)


def ultraface(sources: Sources) -> Case:
    """RGB, 320 × 240, -1 to 1."""
    name = "ort-examples-Ultraface_version-RFB-320"
    return _coco(sources, name, "input", lambda path: (_planes(_rgb(path, (320, 240))) - 127) / 128)


def super_resolution(sources: Sources) -> Case:
    """The luminance of 224 × 224 pixels, 0 to 1."""
    paths = sorted((sources.data / "imagenet").glob("*.JPEG"))[:256]
    images = [Image.fromarray(_centre(_rgb(path))).convert("YCbCr").getchannel("Y") for path in paths]
    feeds = [{"input": np.asarray(image, np.float32)[None, None] / 255} for image in images]
    return _fidelity_only(sources.model("libonnx-super_resolution_10-model"), feeds)


def silero_static(sources: Sources) -> Case:
    """Voice activity, the export of fixed shapes; made-up sound."""
    return _silero(sources, "silero-vad-silero_vad_openvino_16k", {})


def silero(sources: Sources) -> Case:
    """Voice activity, all of it inside `If`; made-up sound."""
    return _silero(sources, "silero-vad-silero_vad", {"sr": np.array(RATE, np.int64)})


def minilm(sources: Sources) -> Case:
    """Sentence pairs; the score is Spearman's correlation of cosines, in points."""
    if sources.minilm is None or sources.tokenizer is None:
        raise FileNotFoundError("give --minilm and --tokenizer")
    path = sources.data / "text" / "stsb-dev.csv"
    calibration, evaluation, scores = sentence_pairs(unpadded(sources.tokenizer), path)
    return Case(
        model=sources.minilm,
        calibration=calibration[:CALIBRATION],
        evaluation=evaluation,
        metric="Spearman",
        score=lambda found: spearman([one[0][0] for one in found], scores),
        transformer=True,
    )


MODELS: dict[str, Callable[[Sources], Case]] = {
    "SqueezeNet": squeezenet,
    "ResNet8": resnet8,
    "resnet_4b": resnet_4b,
    "marabou_large": marabou,
    "ViT": vit,
    "VWW": visual_wake_words,
    "Magika 1": magika_1,
    "Magika 2.1": magika_2,
    "yolox_nano": yolox,
    "UltraFace": ultraface,
    "super_resolution": super_resolution,
    "silero 16k": silero_static,
    "silero": silero,
    "MiniLM": minilm,
}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _rgb(path: Path, size: tuple[int, int] | None = None) -> Array:
    image = Image.open(path).convert("RGB")
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR) if size else image)


def _centre(pixels: Array) -> Array:
    image = Image.fromarray(pixels)
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


def _planes(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def _bytes(content: bytes, size: int, *, last: bool = False) -> Array:
    padding = np.full(size - len(content), PADDING)
    found = np.frombuffer(content, np.uint8).astype(int)
    return np.concatenate([padding, found] if last else [found, padding])


def _cifar(
    sources: Sources,
    name: str,
    key: str,
    transform: Callable[[Array], Array],
    *,
    transformer: bool = False,
) -> Case:
    with np.load(sources.data / "cifar10-test-half.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    chosen = np.random.default_rng(0).permutation(len(labels))[: CALIBRATION + EVALUATION]
    feeds = [{key: transform(images[i])} for i in chosen]
    return _labelled(sources.model(name), feeds, [int(labels[i]) for i in chosen], transformer=transformer)


def _labelled(
    model: Path, feeds: Sequence[Feed], labels: Sequence[int], *, transformer: bool = False
) -> Case:
    calibration, evaluation = _split(feeds)
    _, right = _split(labels)

    def top1(found: Sequence[Sequence[Array]]) -> float:
        return 100 * float(
            np.mean([int(one[0].argmax()) == label for one, label in zip(found, right, strict=True)])
        )

    return Case(
        model=model,
        calibration=calibration,
        evaluation=evaluation,
        metric="top-1",
        score=top1,
        transformer=transformer,
    )


def _split(items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Drawn once for all: at most half of them calibrate."""
    order = np.random.default_rng(1).permutation(len(items))
    first = min(CALIBRATION, len(items) // 2)
    return [items[i] for i in order[:first]], [items[i] for i in order[first:]]


def _fidelity_only(model: Path, feeds: Sequence[Feed]) -> Case:
    calibration, evaluation = _split(feeds)
    return Case(model=model, calibration=calibration, evaluation=evaluation)


def _magika(sources: Sources, name: str, features: Callable[[bytes], Array]) -> Case:
    files = sorted(path for path in (sources.data / "magika").rglob("*") if path.is_file())
    return _fidelity_only(sources.model(name), [{"bytes": features(path.read_bytes())} for path in files])


def _coco(sources: Sources, name: str, key: str, transform: Callable[[Path], Array]) -> Case:
    paths = sorted((sources.data / "coco").glob("*.jpg"))
    return _fidelity_only(sources.model(name), [{key: transform(path).astype(np.float32)} for path in paths])


def _silero(sources: Sources, name: str, constants: Feed) -> Case:
    streams = [_stream(seed, constants) for seed in range(12)]
    flat = [[feed for stream in part for feed in stream] for part in (streams[:4], streams[4:])]
    return Case(
        model=sources.model(name),
        calibration=flat[0],
        evaluation=flat[1],
        outputs=("output",),
        state={"stateN": "state"},
    )


def _stream(seed: int, constants: Feed) -> Iterable[Feed]:
    """Voiced stretches (harmonics of a gliding pitch, in syllables) and noise, [1, 576] at a time."""
    rng = np.random.default_rng(seed)
    time = np.arange(STREAM * CHUNK) / RATE
    pitch = rng.uniform(90, 220) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.3, 1) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase) * rng.uniform(0.2, 1) / k for k in range(1, 20))
    syllables = np.maximum(np.sin(2 * np.pi * rng.uniform(2, 5) * time), 0) * (np.sin(2 * np.pi * time) > 0)
    sound = np.float32(0.1 * voice * syllables + rng.uniform(0.0005, 0.02) * rng.normal(size=time.size))
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    for chunk in range(STREAM):
        part = padded[chunk * CHUNK : chunk * CHUNK + CONTEXT + CHUNK]
        state = {} if chunk else {"state": np.zeros((2, 1, 128), np.float32)}
        yield {"input": part[None], **state, **constants}


def unpadded(path: Path) -> Tokenizer:
    """A tokenizer that gives a sentence's own tokens; published ones often pad to 128."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    return tokenizer


def sentence_pairs(
    tokenizer: Tokenizer, path: Path, limit: int | None = None
) -> tuple[list[Feed], list[Feed], list[float]]:
    """Sentences of each tenth pair that calibrate, of at most `limit` other pairs, and the others' scores."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    rest = [row for i, row in enumerate(rows) if i % 10][:limit]
    calibration, evaluation = (
        [sentence(tokenizer, text) for row in part for text in row[COLUMN_OF_FIRST : COLUMN_OF_FIRST + 2]]
        for part in (rows[::10], rest)
    )
    return calibration, evaluation, [float(row[COLUMN_OF_SCORE]) for row in rest]


def sentence(tokenizer: Tokenizer, text: str) -> Feed:
    """Ready inputs of an encoder, of a tokenizer that does not pad."""
    ids = np.array([tokenizer.encode(text).ids], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def spearman(rows: Sequence[Array], scores: Sequence[float]) -> float:
    """Rank correlation of scores and the cosines of pairs, in points; a sentence is the mean of its rows."""
    means = [one.mean(0) / np.linalg.norm(one.mean(0)) for one in rows]
    cosines = [float(a @ b) for a, b in zip(means[::2], means[1::2], strict=True)]
    return 100 * float(np.corrcoef(_ranks(cosines), _ranks(scores))[0, 1])


def _ranks(values: Sequence[float]) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
