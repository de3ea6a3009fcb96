"""What Schemathesis needs to know to send a piece of an upload; schemathesis.toml names this file."""

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def as_they_are(_context: schemathesis.SerializationContext, value: object) -> bytes:
    """A piece is bytes."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
