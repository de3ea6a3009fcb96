"""One frozen Settings, read from the environment (prefix FEWBITS_) when it is made, never at import."""

import base64
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.processor import allowed_cores
from app.domain.pruning import LONGEST_JOB_DAYS, Kept
from app.domain.quota import Quotas
from app.domain.retention import Retention

MIB = 1024 * 1024
KEY_BYTES = 32
MOST_PROCESSES = 4  # of one host's API where nothing is said: the database takes 30 connections of each


class Settings(BaseSettings):
    """Where things are, and the limits on what is accepted and run. Sizes are bytes, times are seconds."""

    model_config = SettingsConfigDict(
        env_prefix="FEWBITS_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    home: Path = Path("var")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_processes: int | None = Field(default=None, ge=1, le=64)
    database_url: str = ""
    redis_url: str = ""
    storage_url: str = ""
    s3_downloads: Literal["redirect", "stream"] = "redirect"  # stream: clients do not reach the store
    lock_dir: Path | None = None

    max_upload_bytes: int = 8 * 1024 * MIB
    max_json_bytes: int = 1 * MIB
    blob_grace_s: int = 24 * 3600
    keep_printed_days: int = Field(default=Kept.printed, ge=1)
    keep_timeline_days: int = Field(default=Kept.timeline, ge=LONGEST_JOB_DAYS)
    keep_deliveries_days: int = Field(default=Kept.deliveries, ge=LONGEST_JOB_DAYS)

    keep_models_days: int | None = Field(default=None, ge=1)  # None: for good, where a project says nothing
    keep_datasets_days: int | None = Field(default=None, ge=1)
    keep_artifacts_days: int | None = Field(default=None, ge=1)

    rate_reads: int = Field(default=12_000, ge=1)  # requests a minute: of a key
    rate_writes: int = Field(default=6_000, ge=1)
    rate_failures: int = Field(default=3_000, ge=1)  # failed authentications of an address
    quota_bytes: int | None = None  # what a project may have, when nothing is said for it; None: no limit
    quota_jobs_per_day: int | None = None
    quota_unfinished_jobs: int | None = None
    quota_running_candidates: int | None = None

    sandbox: Literal["auto", "require"] = "auto"  # require: no work on a host that lacks a layer
    sandbox_memory: int = 4 * 1024 * MIB
    sandbox_output: int = 4 * 1024 * MIB
    sandbox_seconds: int = 3600
    inspect_seconds: int = 300

    public_url: str = ""  # where people and receivers find this service: links in webhooks begin with it
    secret_key: str = Field(default="", repr=False)  # with commas: the first seals, all open
    webhook_allow: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()

    @field_validator("secret_key")
    @classmethod
    def _keys_have_32_bytes(cls, text: str) -> str:
        """The key itself is not shown."""
        for number, key in enumerate(_listed(text), 1):
            if not _is_key(key):
                raise ValueError(
                    f"key {number} is not {KEY_BYTES} bytes in base64; make one: openssl rand -base64 32"
                )
        return text

    @field_validator("webhook_allow", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        """Networks from text such as `10.0.0.0/8, fd00::/8`; the error names the one that is none."""
        return tuple(ip_network(word) for word in _listed(value)) if isinstance(value, str) else value

    @cached_property
    def secret_keys(self) -> tuple[str, ...]:
        """The keys for `app.secrets.Sealer`; none when the operator set none."""
        return _listed(self.secret_key)

    @cached_property
    def database(self) -> str:
        """The database's URL; without one, SQLite in the home folder."""
        return self.database_url or f"sqlite:///{self.home.absolute() / 'fewbits.db'}"

    @cached_property
    def listeners(self) -> int:
        """Processes that share the API's address. With SQLite they would only wait for each other."""
        by_host = 1 if self.database.startswith("sqlite") else min(allowed_cores(), MOST_PROCESSES)
        return self.api_processes or by_host

    @cached_property
    def storage(self) -> str:
        """The blob store's URL; without one, a folder in the home folder."""
        return self.storage_url or f"file:{self.home.absolute() / 'blobs'}"

    @cached_property
    def quotas(self) -> Quotas:
        """What a project may have when nothing is said for it."""
        return Quotas(
            bytes=self.quota_bytes,
            jobs_per_day=self.quota_jobs_per_day,
            unfinished_jobs=self.quota_unfinished_jobs,
            running_candidates=self.quota_running_candidates,
        )

    @cached_property
    def retention(self) -> Retention:
        """How long a project's bytes stay when nothing is said for it."""
        return Retention(
            models_days=self.keep_models_days,
            datasets_days=self.keep_datasets_days,
            artifacts_days=self.keep_artifacts_days,
        )

    @cached_property
    def kept(self) -> Kept:
        """How long what happened stays readable."""
        return Kept(self.keep_printed_days, self.keep_timeline_days, self.keep_deliveries_days)

    @cached_property
    def locks(self) -> Path:
        """Where this host's locks lie; all containers of a host share it."""
        return (self.lock_dir or self.home / "locks").absolute()

    @cached_property
    def work(self) -> Path:
        """Where steps stage their files."""
        return (self.home / "work").absolute()


def faults(error: ValidationError) -> str:
    """Each setting at fault by the name of its variable, and why, in a line."""
    return "\n".join(f"FEWBITS_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _is_key(text: str) -> bool:
    try:
        return len(base64.urlsafe_b64decode(text)) == KEY_BYTES
    except ValueError:
        return False
