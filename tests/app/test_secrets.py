"""Secrets at rest: what is sealed opens with the keys that the operator has, and with no others."""

import base64
import os
import stat
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.embedded import home
from app.secrets import CannotOpen, NoSecretKey, Sealer, new_key
from app.settings import Settings

TEXT = "whsec_größer"


def test_what_was_sealed_opens_again_and_shows_nothing() -> None:
    sealer = Sealer([new_key()])

    sealed = sealer.seal(TEXT)

    assert sealer.open(sealed) == TEXT
    assert b"whsec" not in sealed
    assert sealer.seal(TEXT) != sealed


def test_keys_are_rotated_by_putting_the_new_one_first() -> None:
    old, new = new_key(), new_key()
    before = Sealer([old]).seal(TEXT)

    after = Sealer([new, old]).seal(TEXT)

    assert Sealer([new, old]).open(before) == TEXT
    assert Sealer([new]).open(after) == TEXT
    with pytest.raises(CannotOpen, match="FEWBITS_SECRET_KEY"):
        Sealer([new]).open(before)


def test_what_was_changed_does_not_open() -> None:
    sealer = Sealer([new_key()])
    sealed = bytearray(sealer.seal(TEXT))
    sealed[30] ^= 1

    with pytest.raises(CannotOpen):
        sealer.open(bytes(sealed))


def test_without_a_key_it_is_said_what_to_set() -> None:
    with pytest.raises(NoSecretKey, match=r"FEWBITS_SECRET_KEY .* `openssl rand -base64 32`"):
        Sealer(Settings(secret_key="").secret_keys)


def test_settings_take_several_keys_and_never_show_them() -> None:
    keys = [base64.b64encode(os.urandom(32)).decode(), new_key()]

    settings = Settings(secret_key=f"{keys[0]}, {keys[1]},")

    assert settings.secret_keys == tuple(keys)
    assert not any(key in repr(settings) for key in keys)


@pytest.mark.parametrize("bad", ["hunter2!", "c2hvcnQ=", "größer"])
def test_a_key_that_is_none_is_refused_without_being_shown(bad: str) -> None:
    with pytest.raises(ValidationError, match="key 2 is not 32 bytes in base64") as refused:
        Settings(secret_key=f"{new_key()},{bad}")

    assert bad not in str(refused.value)


def test_allowed_networks_are_read_from_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWBITS_WEBHOOK_ALLOW", "10.0.0.0/8, 127.0.0.1,fd00::/8")

    assert Settings().webhook_allow == tuple(map(ip_network, ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8")))


@pytest.mark.parametrize("bad", ["10.0.0.300", "10.0.0.1/8", "intranet"])
def test_a_network_that_is_none_is_refused_by_its_name(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWBITS_WEBHOOK_ALLOW", f"10.0.0.0/8,{bad}")

    with pytest.raises(ValidationError, match=bad):
        Settings()


def test_a_home_keeps_one_key_for_its_owner_alone(tmp_path: Path) -> None:
    key = home.secret_key(tmp_path)

    assert home.secret_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert Sealer([key]).open(Sealer([key]).seal(TEXT)) == TEXT


def test_a_key_half_written_by_a_start_that_was_killed_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "secret.new").write_text("abc")

    assert len(base64.urlsafe_b64decode(home.secret_key(tmp_path))) == 32
