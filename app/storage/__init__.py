"""Where bytes lie: objects under random keys, hashed while they stream."""

from app.db.session import Database
from app.settings import Settings
from app.storage.base import Part, Received, Storage, StoreUnavailable, Writer
from app.storage.database import DatabaseStorage
from app.storage.local import LocalStorage

__all__ = ["LocalStorage", "Part", "Received", "Storage", "StoreUnavailable", "Writer", "open_storage"]


def open_storage(settings: Settings) -> Storage:
    """The store of FEWBITS_STORAGE_URL: `file:/path`, `database:` or `s3://bucket/prefix`.

    Raises:
        ValueError: It is none of these.
    """
    scheme, _, rest = settings.storage.partition(":")
    if scheme == "file":
        return LocalStorage(rest)
    if scheme == "database" and not rest:
        return DatabaseStorage(Database(settings.database))
    if scheme == "s3" and rest.startswith("//") and rest[2:3] not in {"", "/"}:
        return _open_s3(settings)
    known = "file:/absolute/folder, database: or s3://bucket/prefix"
    message = f"FEWBITS_STORAGE_URL is {settings.storage!r}; use {known}"
    raise ValueError(message)


def _open_s3(settings: Settings) -> Storage:
    try:
        from app.storage.s3 import S3Storage  # noqa: PLC0415 - its library is installed where it is used
    except ModuleNotFoundError as error:
        message = f"FEWBITS_STORAGE_URL is {settings.storage!r}, which needs boto3: pip install boto3"
        raise ValueError(message) from error
    return S3Storage(settings.storage, links=settings.s3_downloads == "redirect")
