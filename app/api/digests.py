"""Running hashes of uploads that pause."""

import hashlib
from collections import OrderedDict


class Digests:
    """Running hashes of uploads that pause here: who goes on need not read again what was sent before."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._held: OrderedDict[tuple[str, int], hashlib._Hash] = OrderedDict()

    def put(self, upload_id: str, size: int, digest: "hashlib._Hash") -> None:
        """Keep the hash of an upload's first `size` bytes."""
        self._held[upload_id, size] = digest
        while len(self._held) > self._most:
            self._held.popitem(last=False)

    def take(self, upload_id: str, size: int) -> "hashlib._Hash | None":
        """The hash of an upload's first `size` bytes, when it is known."""
        return self._held.pop((upload_id, size), None) if size else hashlib.sha256()
