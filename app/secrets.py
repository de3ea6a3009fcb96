"""Secrets at rest: sealed with the operator's key, by Fernet (AES-128-CBC with HMAC-SHA256)."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.domain.errors import DomainError


class NoSecretKey(DomainError):
    """The service has no key to keep secrets with."""

    code = "no_secret_key"


class CannotOpen(DomainError):
    """This secret was sealed with a key that is not in FEWBITS_SECRET_KEY; add the old key after a comma."""

    code = "wrong_secret_key"


NO_KEY = (
    "This service has no key to keep secrets with. Its operator sets FEWBITS_SECRET_KEY to the output of "
    "`openssl rand -base64 32`, the same for the API and all workers, and starts them again."
)


class Sealer:
    """Seals with the first key and opens with all, so that keys can be rotated."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take keys of 32 bytes in base64.

        Raises:
            NoSecretKey: There is none.
        """
        if not keys:
            raise NoSecretKey(NO_KEY)
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def seal(self, text: str) -> bytes:
        """The text as it may be stored."""
        return self._fernet.encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """The text that was sealed.

        Raises:
            CannotOpen: None of the keys sealed it.
        """
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise CannotOpen from None


def new_key() -> str:
    """A key for `Sealer`."""
    return Fernet.generate_key().decode()
