"""Errors of the domain: a code, a sentence, and what to do next. No HTTP words here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class FieldError:
    """One thing wrong in the input: where (a JSON pointer) and what."""

    pointer: str
    detail: str


def pointer(*parts: str | int) -> str:
    """A JSON pointer to these parts (RFC 6901)."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


class DomainError(Exception):
    """Something went wrong."""

    code: str = "error"
    retryable: ClassVar[bool] = False
    retry_after_s: int | None = None

    def __init__(self, detail: str = "", *, errors: tuple[FieldError, ...] = ()) -> None:
        """Without `detail`, the message is the first line of the class's docstring."""
        self.detail = detail or (type(self).__doc__ or "").splitlines()[0]
        self.errors = errors
        super().__init__(self.detail)


class NotFound(DomainError):
    """There is nothing with this id in this project."""

    code = "not_found"


class NoLayers(DomainError):
    """Nothing is known of this candidate's layers."""

    code = "no_layers"


class InvalidInput(DomainError):
    """The request has fields that do not fit."""

    code = "invalid_input"

    @classmethod
    def at(cls, where: str, detail: str) -> "InvalidInput":
        """One thing is wrong, at this JSON pointer."""
        return cls(f"{where}: {detail}", errors=(FieldError(where, detail),))


class Conflict(DomainError):
    """Something with this name exists already."""

    code = "conflict"


class NotInspected(DomainError):
    """The upload is still being inspected; ask again shortly or send `Prefer: wait=60`."""

    code = "not_inspected"
    retryable = True


class JobFinished(DomainError):
    """The job has ended; it cannot be changed any more."""

    code = "job_finished"


class JobNotFinished(DomainError):
    """The job has not ended yet; ask again later or send `Prefer: wait=60`."""

    code = "job_not_finished"
    retryable = True


class JobNotSucceeded(DomainError):
    """The job did not succeed, so there is no result of this kind; its `error` says why."""

    code = "job_not_succeeded"


class DigestMismatch(DomainError):
    """The received bytes do not have the sha256 that was announced."""

    code = "digest_mismatch"


class BlobDamaged(DomainError):
    """The bytes are damaged in the store; sending them again repairs them."""

    code = "blob_damaged"


class Expired(DomainError):
    """The project keeps such files for a time, and that is over; digests, reports and verdicts are kept."""

    code = "expired"


class OffsetMismatch(DomainError):
    """The upload goes on at another byte."""

    code = "offset_mismatch"


class UploadLocked(DomainError):
    """Another request is sending this upload."""

    code = "upload_locked"
    retryable = True


class UploadGone(DomainError):
    """The upload expired or failed."""

    code = "upload_gone"


class ChecksumMismatch(DomainError):
    """The sent bytes do not have the checksum that came with them; none of them was kept."""

    code = "checksum_mismatch"
    retryable = True


class InUse(DomainError):
    """An unfinished job uses it."""

    code = "in_use"


class TooLarge(DomainError):
    """The upload exceeds the limit."""

    code = "too_large"


class EmptyFile(DomainError):
    """The file is empty."""

    code = "empty_file"


class Unauthenticated(DomainError):
    """Send a valid API key as `Authorization: Bearer fb_…`; this one is missing or wrong."""

    code = "unauthenticated"


class Forbidden(DomainError):
    """The key lacks a scope that this needs."""

    code = "forbidden"


class IdempotencyKeyReused(DomainError):
    """This Idempotency-Key came with another request before; use a new key for a new request."""

    code = "idempotency_key_reused"


class InProgress(DomainError):
    """A request with this Idempotency-Key is being worked on; send it again shortly."""

    code = "in_progress"
    retryable = True


class AlreadyCreated(DomainError):
    """The first request with this Idempotency-Key has made this; its answer held a secret and is not kept."""

    code = "already_created"


class NoSpaceLeft(DomainError):
    """The project has no room for these bytes."""

    code = "quota_exceeded"
    retryable = True


class TooManyEndpoints(DomainError):
    """The project may not have another webhook endpoint."""

    code = "quota_exceeded"
    retryable = True


class TooManyJobs(DomainError):
    """The project may not have another job now."""

    code = "quota_exceeded"
    retryable = True

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Refused(DomainError):
    """An upload or a recipe that the engine cannot work with; trying again changes nothing.

    `code` differs from refusal to refusal, so it is given to each.
    """

    def __init__(self, code: str, detail: str, *, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail, errors=errors)
        self.code = code


@dataclass(frozen=True)
class Problem:
    """An error as stored with a job, a step or a rejected upload, and as shown (RFC 9457)."""

    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    retryable: bool = False

    @classmethod
    def of(cls, error: DomainError) -> "Problem":
        """The problem that this error is shown as."""
        return cls(error.code, error.detail, error.errors, error.retryable)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Problem":
        """Read back what `dataclasses.asdict` made."""
        errors = tuple(FieldError(e["pointer"], e["detail"]) for e in value.get("errors", ()))
        return cls(value["code"], value["detail"], errors, bool(value.get("retryable", False)))
