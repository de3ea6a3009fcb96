"""What this service accepts."""

from pydantic import BaseModel

from app.api.schemas.projects import QuotasModel, RetentionModel
from app.settings import Settings


class RateRead(BaseModel):
    """At most this many requests in each window."""

    quota: int
    window_s: int


class SandboxRead(BaseModel):
    """What one engine call may use."""

    memory_bytes: int
    output_bytes: int
    seconds: int
    inspect_seconds: int

    @classmethod
    def of(cls, settings: Settings) -> "SandboxRead":
        """Settings as shown."""
        return cls(
            memory_bytes=settings.sandbox_memory,
            output_bytes=settings.sandbox_output,
            seconds=settings.sandbox_seconds,
            inspect_seconds=settings.inspect_seconds,
        )


class LimitsRead(BaseModel):
    """What is accepted, run and kept; a quota that is null has no limit, and what is null days stays."""

    max_upload_bytes: int
    max_json_bytes: int
    max_wait_s: int
    max_webhook_endpoints: int
    rates: dict[str, RateRead]
    quotas: QuotasModel
    retention: RetentionModel
    sandbox: SandboxRead
