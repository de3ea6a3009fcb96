"""What is found out about an upload is kept in a row and shown in lists: names alone must not fill them."""

import json
from dataclasses import asdict
from typing import TypeVar

from app.domain.errors import Refused
from app.domain.report import DatasetSummary, Examination

Description = TypeVar("Description", Examination, DatasetSummary)
LONGEST = 2**20  # bytes of JSON; a thousand inputs with names of usual length are a tenth


def bounded(found: Description) -> Description:
    """The description itself, where it is no longer than 1 MiB.

    Raises:
        Refused: `description_too_large`.
    """
    size = len(json.dumps(asdict(found)))
    if size > LONGEST:
        detail = (
            f"The names in this upload and their shapes are {size} bytes of text; the limit is {LONGEST}. "
            "Give shorter names to inputs, outputs, operators, domains, arrays and classes, or fewer."
        )
        raise Refused("description_too_large", detail)
    return found
