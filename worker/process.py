"""What a worker process has: settings, database, storage, a name, and whether it is being stopped."""

import os
import socket
import threading
from dataclasses import dataclass, field

from app.db.session import Database
from app.services.steps import Claim
from app.settings import Settings
from app.storage import Storage, open_storage


@dataclass(frozen=True)
class Process:
    """One worker process."""

    settings: Settings
    database: Database
    storage: Storage
    name: str
    stopping: threading.Event = field(default_factory=threading.Event)
    sending: dict[int, Claim | None] = field(default_factory=dict)  # by thread; None until it is claimed


def start(settings: Settings) -> Process:
    """Open what a worker needs; connections are made on first use."""
    name = f"{socket.gethostname()}:{os.getpid()}"
    return Process(settings, Database(settings.database), open_storage(settings), name)
