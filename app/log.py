"""One format for all that the service logs: a JSON object on each line, or plain text on a terminal.

What a line is about (request, project, job, step, attempt) is said once, where that work begins. Whatever a
client named stands in escapes: no name can end a line or write to a terminal.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

Ids = Mapping[str, object]
FRAMEWORKS = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "celery",
    "celery.task",
    "celery.worker",
    "alembic",
)
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
    "data",
}

_about: ContextVar[Callable[[], Ids]] = ContextVar("about", default=dict)


@contextmanager
def about(find: Callable[[], Ids] = dict, /, **ids: object) -> Iterator[None]:
    """Every line that is logged in this block has these ids, and those that `find` finds then."""
    outer = _about.get()
    token = _about.set(lambda: {**outer(), **ids, **find()})
    try:
        yield
    finally:
        _about.reset(token)


def configure(stream: TextIO = sys.stderr) -> None:
    """Log everything from INFO on to this stream alone, in this process."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in FRAMEWORKS:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.captureWarnings(capture=True)


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, the ids, `error` with its traceback; ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": _moment(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message and ids; a traceback on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or more with a traceback."""
        ids = " ".join(f"{name}={value}" for name, value in _ids(record).items())
        time, level = _moment(record).strftime("%H:%M:%S.%f")[:-3], record.levelname.lower()
        line = _escaped(f"{time} {level:<7} {record.getMessage()}" + (f"  [{ids}]" if ids else ""))
        if not record.exc_info:
            return line
        return "\n".join([line, *map(_escaped, self.formatException(record.exc_info).splitlines())])


def _ids(record: logging.LogRecord) -> Ids:
    """Of the work that this is about, and what came with the call as `extra`."""
    extra = {name: value for name, value in vars(record).items() if name not in STANDARD}
    return {name: value for name, value in {**_about.get()(), **extra}.items() if value is not None}


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _escaped(text: str) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )
