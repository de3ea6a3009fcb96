"""Where the service is, and the key to it: given, in the environment, kept by `fewbits login`, or local.

A key is only ever sent to the service that it belongs to.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import platformdirs

from fewbits.errors import InvalidInput

NEXT = "Set FEWBITS_URL and FEWBITS_KEY, run `fewbits login`, or start a service here: `make serve`."
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SECRET = 0o600
PRIVATE = 0o700
Choices = Iterable[tuple[str | None, str]]


@dataclass(frozen=True)
class Access:
    """A service, its key, and where each was found."""

    url: str
    key: str = field(repr=False)
    url_from: str
    key_from: str

    @property
    def local(self) -> bool:
        """Whether the service runs on this computer."""
        return httpx.URL(self.url).host in LOOPBACK


@dataclass(frozen=True)
class Kept:
    """The config file: the service to use, and the key to each that was logged in to."""

    default: str | None = None
    keys: dict[str, str] = field(default_factory=dict)


def find(url: str | None = None, key: str | None = None) -> Access:
    """The service to use and the key to it.

    Raises:
        InvalidInput: Neither is known, or there is no key for this service, or one of them is none.
    """
    there, url_from = _first(_urls(url))
    if not there:
        raise InvalidInput(f"No service is known. {NEXT}")
    there = checked(there)
    secret, key_from = _first(_keys(key, there))
    if not secret:
        raise InvalidInput(f"There is no key for {there}. Set FEWBITS_KEY, or run `fewbits login {there}`.")
    if not (secret.isascii() and secret.isprintable()):  # as fb_… copied from a page
        raise InvalidInput(f"The key ({key_from}) has characters that no key has; copy it again, whole.")
    return Access(there, secret, url_from, key_from)


def local() -> Access | None:
    """The service that `make serve` runs on this computer, by its home folder.

    That is `FEWBITS_HOME`; else `var` in this folder or one above it; else the home of the one that was
    started last, if it runs.
    """
    given = os.environ.get("FEWBITS_HOME")
    if given:
        return _at(Path(given))
    above = [folder / "var" for folder in (Path.cwd(), *Path.cwd().parents)]
    found = (_at(home) for home in (*above, *_running()))
    # A repository can bring a `var` that names another computer: models do not go there.
    return next((one for one in found if one and one.local), None)


def keep(url: str, key: str) -> Path:
    """Remember the key to a service, readable by its owner only, and use that service from now on.

    Raises:
        InvalidInput: The config file cannot be written.
    """
    path = config_file()
    kept = Kept(url, {**_kept().keys, url: key})
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SECRET), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(kept)))
        part.replace(path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}.") from error
    return path


def config_file() -> Path:
    """Where keys are kept: the platform's folder for settings."""
    return platformdirs.user_config_path("fewbits", appauthor=False) / "config.json"


def checked(url: str) -> str:
    """A URL as keys are filed under.

    Raises:
        InvalidInput: It is no http or https URL.
    """
    text = url.strip().rstrip("/")
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InvalidInput(f"{text!r} is no service's URL; one looks like https://fewbits.example.com.")
    return text


def _urls(given: str | None) -> Iterator[tuple[str | None, str]]:
    """Where a URL may come from; whoever takes one looks no further."""
    yield given, "given"
    yield os.environ.get("FEWBITS_URL"), "FEWBITS_URL"
    yield _kept().default, str(config_file())
    if here := local():
        yield here.url, here.url_from


def _keys(given: str | None, url: str) -> Iterator[tuple[str | None, str]]:
    """Where the key to this service may come from."""
    yield given, "given"
    yield os.environ.get("FEWBITS_KEY"), "FEWBITS_KEY"
    yield _kept().keys.get(url), str(config_file())
    if (here := local()) and here.url == url:
        yield here.key, here.key_from


def _first(choices: Choices) -> tuple[str, str]:
    """The first value that is there; what secrets and files have around them goes."""
    return next(((value.strip(), origin) for value, origin in choices if value and value.strip()), ("", ""))


def _kept() -> Kept:
    path = config_file()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    except FileNotFoundError:
        return Kept()
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInput(f"{path} cannot be read ({error}). Repair or remove it.") from error


def _at(home: Path) -> Access | None:
    try:
        key = (home / "admin.key").read_text().strip()
    except OSError:
        return None
    return Access(checked(_address(home)), key, str(home), str(home / "admin.key"))


def _address(home: Path) -> str:
    """Where the service of a home folder listens: what it wrote down, or its default."""
    try:
        return (home / "url").read_text().strip()
    except OSError:
        port = os.environ.get("FEWBITS_PORT") or "8000"
        return f"http://127.0.0.1:{port}"


def _running() -> Iterator[Path]:
    """The home of the service that `make serve` started last in its own `var`, while it can be reached."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"  # the service runs on no Windows
    try:
        home = Path((Path(state).expanduser() / "fewbits" / "home").read_text().strip())
    except OSError:
        return
    if (home / "url").is_file():
        yield home
