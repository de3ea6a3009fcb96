"""Where the client looks for a service and its key, and what it does not send a key to."""

from pathlib import Path

import pytest

from app.embedded import home
from fewbits import InvalidInput, access
from fewbits.access import Access

KEY = "fb_0123456789"
URL = "https://fewbits.example.com"


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing is known of any service."""
    for name in ("FEWBITS_URL", "FEWBITS_KEY", "FEWBITS_HOME", "FEWBITS_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def served(folder: Path, url: str) -> Path:
    """A home folder as a running service has it."""
    folder.mkdir(parents=True)
    (folder / "admin.key").write_text(KEY + "\n")
    (folder / "url").write_text(url + "\n")
    return folder


def test_what_is_given_counts_before_the_environment_and_that_before_what_was_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    access.keep(URL, KEY)
    kept = access.find()
    monkeypatch.setenv("FEWBITS_URL", "http://there")
    monkeypatch.setenv("FEWBITS_KEY", "fb_environment")
    told = access.find()

    file = str(access.config_file())
    assert kept == Access(URL, KEY, file, file)
    assert told == Access("http://there", "fb_environment", "FEWBITS_URL", "FEWBITS_KEY")
    assert access.find(URL, "fb_given") == Access(URL, "fb_given", "given", "given")
    assert KEY not in repr(kept)


def test_a_kept_key_goes_to_its_own_service_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    access.keep(URL, KEY)
    monkeypatch.setenv("FEWBITS_URL", "https://another.example.com")

    with pytest.raises(InvalidInput, match=r"no key for https://another\.example\.com"):
        access.find()


def test_what_secrets_and_files_have_around_them_goes() -> None:
    found = access.find(f" {URL}/\n", f"{KEY}\r\n")

    assert (found.url, found.key) == (URL, KEY)


@pytest.mark.parametrize("key", ["fb_…", "fb_1\nfb_2"])
def test_what_is_no_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidInput, match="copy it again") as refused:
        access.find(URL, key)

    assert key not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["fewbits.example.com", "http://", "http://[::1", "ftp://here", "http://a\nb"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"one looks like https://fewbits\.example\.com"):
        access.find(url, KEY)


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"keys": []}', '{"default": 1}'])
def test_a_damaged_config_file_is_named_but_only_where_it_is_needed(text: str) -> None:
    path = access.config_file()
    path.parent.mkdir(parents=True)
    path.write_text(text)

    with pytest.raises(InvalidInput, match=f"{path} cannot be read"):
        access.find()
    assert access.find(URL, KEY).url == URL


def test_a_service_is_found_from_folders_below_its_own(
    somewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = served(somewhere / "var", "http://127.0.0.1:8123")
    below = somewhere / "models" / "small"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    assert access.find() == Access("http://127.0.0.1:8123", KEY, str(there), str(there / "admin.key"))


def test_a_repository_cannot_send_models_to_another_computer(somewhere: Path) -> None:
    served(somewhere / "var", "https://evil.example.com")

    with pytest.raises(InvalidInput, match="No service is known"):
        access.find()


def test_make_serve_is_found_from_any_folder_while_it_runs(tmp_path: Path) -> None:
    there = served(tmp_path / "checkout" / "var", "http://127.0.0.1:8123")

    home.tell_clients(there)

    assert access.find().url == "http://127.0.0.1:8123"
    (there / "url").unlink()
    with pytest.raises(InvalidInput, match="No service is known"):
        access.find()


def test_a_home_that_nobody_can_be_told_of_stops_no_service(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")

    home.tell_clients(tmp_path)

    assert access.local() is None
