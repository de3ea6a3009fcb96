"""What to run: options go before the job file, and that before what the pipeline tells."""

import json
import os
from collections.abc import Mapping
from typing import Any

from fewbits import jobfile
from fewbits.cli import options
from fewbits.errors import InvalidInput
from fewbits.jobfile import JobFile

# The names under which GitHub and GitLab tell a pipeline what it runs on; the first that is set counts.
PIPELINE = {
    "commit": ("GITHUB_SHA", "CI_COMMIT_SHA"),
    "branch": ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME"),
}


def job(what: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Client.submit`.

    Raises:
        InvalidInput: No model is named, or a value cannot be read.
    """
    file = jobfile.find(what["spec"])
    model = what["model"] or file.model
    if not model:
        raise InvalidInput(f"There is no MODEL. Name a file, or write `model:` into {jobfile.NAME}.")
    return {
        "model": model,
        "data": what["data"] or file.data,
        "spec": _spec(what, file),
        "gate": options.limits_given(dict(what)),
        "preprocess": preprocess(what["preprocess"]) or file.preprocess,
        "input": what["bound"] or file.input,
        "name": what["name"] or file.name,
        "labels": {**of_pipeline(), **file.spec.get("labels", {}), **labels(what["labels"])},
    }


def _spec(what: Mapping[str, Any], file: JobFile) -> dict[str, Any]:
    given = list(what["candidates"])
    more = {"candidates": [*file.spec.get("candidates", ()), *given]} if given else {}
    return {**file.spec, **more}


def preprocess(text: str | None) -> str | dict[str, Any] | None:
    """A preset's name, or a spec in JSON.

    Raises:
        InvalidInput: It is neither.
    """
    if text is None:
        return None
    try:
        found: str | dict[str, Any] = json.loads(text) if text.lstrip().startswith("{") else text
    except ValueError as error:
        raise InvalidInput(f"--preprocess {text!r} is no JSON: {error}") from error
    jobfile.check("--preprocess", {"preprocess": found})
    return found


def labels(pairs: tuple[str, ...]) -> dict[str, str]:
    """Labels from `name=value`.

    Raises:
        InvalidInput: One has no `=`.
    """
    wrong = next((pair for pair in pairs if "=" not in pair), None)
    if wrong is not None:
        raise InvalidInput(f"--label {wrong!r} is no NAME=VALUE.")
    return dict(pair.split("=", 1) for pair in pairs)


def of_pipeline() -> dict[str, str]:
    """Commit and branch, where a pipeline tells them."""
    found = {label: [os.environ[n] for n in names if os.environ.get(n)] for label, names in PIPELINE.items()}
    return {label: values[0] for label, values in found.items() if values}
