"""What Schemathesis needs to know to send a request; schemathesis.toml names this file."""

from collections.abc import Mapping, Sequence
from typing import Any

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def as_they_are(_context: schemathesis.SerializationContext, value: object) -> bytes:
    """A piece of an upload is bytes."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.hook
def filter_case(_context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """Whether a form can say what it is: a list of one text arrives as the text, an empty one as nothing."""
    if case.media_type != "multipart/form-data" or not isinstance(case.body, Mapping):
        return True
    return not any(isinstance(value, list) and _passes_for_no_list(value) for value in case.body.values())


def _passes_for_no_list(values: Sequence[object]) -> bool:
    return len(values) < 2 and not any(isinstance(value, bytes) for value in values)
