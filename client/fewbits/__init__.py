"""Client of Fewbits, quantization as a service for ONNX models: a Python API and a command line."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewbits.answers import Candidate, Comparison, Dataset, Event, Fit, Job, Result, Verdict, Version
    from fewbits.async_client import AsyncClient
    from fewbits.client import Client
    from fewbits.errors import (
        FewbitsError,
        InvalidInput,
        JobFailed,
        Refused,
        ServiceError,
        TimedOut,
        Unauthenticated,
    )

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Candidate",
    "Client",
    "Comparison",
    "Dataset",
    "Event",
    "FewbitsError",
    "Fit",
    "InvalidInput",
    "Job",
    "JobFailed",
    "Refused",
    "Result",
    "ServiceError",
    "TimedOut",
    "Unauthenticated",
    "Verdict",
    "Version",
]
_HOMES = {"Client": "client", "AsyncClient": "async_client"} | dict.fromkeys(
    ("Candidate", "Comparison", "Dataset", "Event", "Fit", "Job", "Result", "Verdict", "Version"), "answers"
)


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is asked for: the command line starts without an HTTP library."""
    if name not in __all__:
        raise AttributeError(f"module 'fewbits' has no attribute {name!r}")
    return getattr(import_module(f"fewbits.{_HOMES.get(name, 'errors')}"), name)
