"""What can go wrong, each with the exit code that the command line gives it."""

from collections.abc import Mapping
from typing import Any, ClassVar


class FewbitsError(Exception):
    """Something went wrong; the message says what, and what to do next."""

    exit_code: ClassVar[int] = 4
    code: str = "error"


class InvalidInput(FewbitsError):
    """What was given cannot be used: a file, an option, a field."""

    exit_code = 2
    code = "invalid_input"


class Refused(FewbitsError):
    """The service understood the request and said no (RFC 9457); asking again changes nothing.

    `problem` is its answer, `status` the HTTP status.
    """

    exit_code = 2

    def __init__(self, message: str, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.code = str(problem.get("code", "error"))
        super().__init__(message)


class Unauthenticated(Refused):
    """The key is missing, wrong, revoked or expired."""


class ServiceError(FewbitsError):
    """The service cannot be reached, is overloaded, or made a mistake, also after trying again."""

    code = "service_error"


class JobFailed(FewbitsError):
    """The job ended without a result."""

    code = "job_failed"


class TimedOut(FewbitsError):
    """It took longer than allowed; the job goes on."""

    exit_code = 5
    code = "timed_out"
