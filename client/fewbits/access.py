"""Where the service is, and the key to it: given, in the environment, kept by `fewbits login`, or local.

A key is only ever sent to the service that it belongs to.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.errors import InvalidInput

NEXT = "Set FEWBITS_URL and FEWBITS_KEY, run `fewbits login`, or start a service here: `make serve`."
SECRET = 0o600
PRIVATE = 0o700


@dataclass(frozen=True)
class Access:
    """A service, its key, and where each was found."""

    url: str
    key: str
    url_from: str
    key_from: str


def find(url: str | None = None, key: str | None = None) -> Access:
    """The service to use and the key to it.

    Raises:
        InvalidInput: Neither is known, or there is no key for this service.
    """
    kept, here = _kept(), local()
    there, url_from = _first(
        (url, "given"),
        (os.environ.get("FEWBITS_URL"), "FEWBITS_URL"),
        (kept.get("default"), str(config_file())),
        (here.url, here.url_from) if here else (None, ""),
    )
    if not there:
        raise InvalidInput(f"No service is known. {NEXT}")
    there = checked(there)
    known, key_from = _first(
        (key, "given"),
        (os.environ.get("FEWBITS_KEY"), "FEWBITS_KEY"),
        (kept.get("keys", {}).get(there), str(config_file())),
        (here.key, here.key_from) if here and here.url == there else (None, ""),
    )
    if not known:
        raise InvalidInput(f"There is no key for {there}. Set FEWBITS_KEY, or run `fewbits login {there}`.")
    return Access(there, known, url_from, key_from)


def local() -> Access | None:
    """The service that `make serve` runs on this computer, by its home folder.

    That is `FEWBITS_HOME`, else `var` in this folder or one above it.
    """
    given = os.environ.get("FEWBITS_HOME")
    above = [Path.cwd(), *Path.cwd().parents]
    homes = [Path(given)] if given else [folder / "var" for folder in above]
    for home in homes:
        try:
            key = (home / "admin.key").read_text().strip()
        except OSError:
            continue
        return Access(_address(home), key, str(home), str(home / "admin.key"))
    return None


def keep(url: str, key: str) -> Path:
    """Remember the key to a service, readable by its owner only, and use that service from now on."""
    path, kept = config_file(), _kept()
    kept = {"default": url, "keys": {**kept.get("keys", {}), url: key}}
    path.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SECRET), "w") as file:
        json.dump(kept, file, indent=2)
    part.replace(path)
    return path


def config_file() -> Path:
    """Where keys are kept: the platform's folder for settings."""
    import click  # noqa: PLC0415 - knows the platforms

    return Path(click.get_app_dir("fewbits")) / "config.json"


def checked(url: str) -> str:
    """A URL as keys are filed under.

    Raises:
        InvalidInput: It is no http or https URL.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(f"{url!r} is no service's URL; one looks like https://fewbits.example.com.")
    return url.rstrip("/")


def _kept() -> dict[str, Any]:
    path = config_file()
    try:
        found: Mapping[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read ({error}). Repair or remove it.") from error
    return dict(found)


def _address(home: Path) -> str:
    """Where the service of a home folder listens: what it wrote down, or its default."""
    try:
        return (home / "url").read_text().strip()
    except OSError:
        port = os.environ.get("FEWBITS_PORT") or "8000"
        return f"http://127.0.0.1:{port}"


def _first(*choices: tuple[str | None, str]) -> tuple[str, str]:
    return next(((value, origin) for value, origin in choices if value), ("", ""))
