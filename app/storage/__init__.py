"""Where bytes lie: objects under random keys, hashed while they stream."""

from app.storage.base import Part, Received, Storage, Writer
from app.storage.local import LocalStorage

__all__ = ["LocalStorage", "Part", "Received", "Storage", "Writer", "open_storage"]


def open_storage(url: str) -> Storage:
    """The backend for a storage URL (`file:/path`).

    Raises:
        ValueError: The scheme is not known.
    """
    scheme, _, rest = url.partition(":")
    if scheme != "file":
        message = f"FEWBITS_STORAGE_URL is {url!r}; use file:/absolute/folder"
        raise ValueError(message)
    return LocalStorage(rest)
