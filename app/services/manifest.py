"""What a result is a function of, as one digest: equal keys mean equal results.

Content goes in by its hash, never by its id: sending the same bytes again finds what was made of them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

import app
from app.db.models import Candidate, Dataset, Job, Version
from app.domain.job import JobSpec
from app.domain.recipe import Imported, Recipe, uses_calibration

# What the engine imports, and sympy, which ONNX Runtime's shape inference does.
LIBRARIES = (
    *("arro3-core", "arro3-io", "h5py", "numpy", "onnx", "onnxruntime", "pillow", "protobuf", "pydantic"),
    *("safetensors", "sympy", "tokenizers"),
)
HOUSE = Path(app.__file__).parent.parent
SOURCES = (HOUSE / "app" / "domain", HOUSE / "worker" / "engine")
# What a job asks for beyond its preparation: recipes have keys of their own, the rest changes no bytes.
NOT_PREPARED = ("version", "recipes", "candidates", "target", "gate", "deadline_s", "reuse", "labels")


@cache
def tools() -> str:
    """This release, in one digest: another one may give other results."""
    return digest(SOURCES)


def digest(sources: Sequence[Path]) -> str:
    """The libraries' versions, and the source in these folders: the rules, and what applies them.

    Raises:
        FileNotFoundError: A folder holds no source, so all releases would look alike.
    """
    return _digest([version(name) for name in LIBRARIES], [_hashes(source) for source in sources])


def version_key(row: Version) -> str:
    """Of a version's files as they were sent."""
    return _digest(_files(row))


def dataset_key(row: Dataset) -> str:
    """Of a dataset's bytes and how they are to be read."""
    return _digest(_samples(row))


def preparation_key(db: Session, job: Job, recipes: list[Recipe]) -> str:
    """Of everything that a job's preparation depends on: model, data, and how they are used."""
    spec = _without_ids(job.spec)
    data = [_samples(db.get_one(Dataset, i)) if i else None for i in (job.calibration_id, job.evaluation_id)]
    calibrates = any(uses_calibration(recipe) for recipe in recipes)
    return _digest(tools(), _files(db.get_one(Version, job.version_id)), data, spec, calibrates)


def build_key(db: Session, job: Job, recipe: Recipe) -> str:
    """Of everything that a candidate depends on; the recipe as it was asked for, `auto` included."""
    asked: Any = asdict(recipe)
    if isinstance(recipe, Imported):
        asked["version"] = _files(db.get_one(Version, recipe.version))
    return _digest(job.prepare_key, asked, asdict(job.spec.target), job.isa)


def asked_recipes(candidates: list[Candidate]) -> list[Recipe]:
    """The recipes of candidates; the baseline has none."""
    return [candidate.recipe for candidate in candidates if candidate.recipe]


def _hashes(source: Path) -> list[tuple[str, str]]:
    found = [
        (path.relative_to(source).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(source.rglob("*.py"))
    ]
    if not found:
        raise FileNotFoundError(f"There is no source in {source}; install app and worker side by side.")
    return found


def _without_ids(spec: JobSpec) -> dict[str, Any]:
    anonymous = replace(
        spec,
        calibration=replace(spec.calibration, dataset=None),
        evaluation=replace(spec.evaluation, dataset=None),
    )
    kept: dict[str, Any] = {k: v for k, v in asdict(anonymous).items() if k not in NOT_PREPARED}
    return kept | {"benchmark": spec.benchmark.batch}


def _files(row: Version) -> list[tuple[str, str]]:
    return [(file.path, file.sha256) for file in row.files]


def _samples(row: Dataset) -> list[Any]:
    return [row.sha256, asdict(row.preprocess), row.input]


def _digest(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
