"""The URL of an endpoint: what is read from it, and what is refused before anybody resolves a name."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.destination import Destination, check_url, parse
from app.domain.errors import InvalidInput

READ = [
    ("https://hooks.example.com", Destination(True, "hooks.example.com", 443, "/"), "hooks.example.com"),
    ("http://hooks.example.com/a/b?c=d", Destination(False, "hooks.example.com", 80, "/a/b?c=d"), None),
    ("HTTPS://Hooks.Example.COM.:8443/A", Destination(True, "hooks.example.com", 8443, "/A"), None),
    ("https://h.example:443/", Destination(True, "h.example", 443, "/"), "h.example"),
    ("http://h.example:443/", Destination(False, "h.example", 443, "/"), "h.example:443"),
    ("https://[2606:4700::1]:8443/x", Destination(True, "2606:4700::1", 8443, "/x"), "[2606:4700::1]:8443"),
    ("https://xn--bcher-kva.example/", Destination(True, "xn--bcher-kva.example", 443, "/"), None),
    ("http://a_b.example//x?y", Destination(False, "a_b.example", 80, "//x?y"), None),
]
ADDRESSES = [
    ("http://127.0.0.1/", "127.0.0.1"),
    ("http://127.1/", "127.0.0.1"),
    ("http://0x7f000001/", "127.0.0.1"),
    ("http://0x7f.0.0.1/", "127.0.0.1"),
    ("http://0177.0.0.1/", "127.0.0.1"),
    ("http://2130706433/", "127.0.0.1"),
    ("http://127.0.0.1./", "127.0.0.1"),
    ("http://localhost/", "127.0.0.1"),
    ("http://any.LOCALHOST/", "127.0.0.1"),
    ("http://[::1]/", "::1"),
    ("http://[::ffff:169.254.169.254]/", "::ffff:169.254.169.254"),
    ("http://[64:ff9b::7f00:1]/", "64:ff9b::7f00:1"),
]
REFUSED = [
    "",
    "hooks.example.com",
    "ftp://hooks.example.com/",
    "file:///etc/passwd",
    "gopher://hooks.example.com/",
    "//hooks.example.com/",
    "https:///path",
    "https://./",
    "https://hooks.example.com:0/",
    "https://hooks.example.com:65536/",
    "https://hooks.example.com:port/",
    "https://hooks.example.com:٣/",
    "https://user@hooks.example.com/",
    "https://user:password@hooks.example.com/",
    "https://@hooks.example.com/",
    "https://public.example@127.0.0.1/",
    "https://hooks.example.com/#part",
    "https://hooks.example.com/#",
    "https://bücher.example/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://\u24db\u24deocalhost/",
    "https://hooks.example.com\x00.evil.example/",
    "https://hooks.example.com%00.evil.example/",
    "https://hooks.example.com/a b",
    "https://hooks.example.com/\r\nHost: evil",
    "https://hooks.example.com\\@127.0.0.1/",
    "https://[::1",
    "https://[fe80::1%25eth0]/",
    "https://::1/",
    " https://hooks.example.com/",
    "https://hooks.example.com/\t",
    "https://hooks.example.com/" + "a" * 2000,
]


@pytest.mark.parametrize(("url", "destination", "authority"), READ)
def test_a_url_is_taken_apart(url: str, destination: Destination, authority: str | None) -> None:
    assert parse(url) == destination
    assert parse(url).address in (None, ip_address("2606:4700::1"))
    assert authority in (None, parse(url).authority)
    check_url(url, [])


@pytest.mark.parametrize(("url", "address"), ADDRESSES)
def test_an_address_in_any_dress_is_seen_and_refused_at_once(url: str, address: str) -> None:
    assert parse(url).address == ip_address(address)
    with pytest.raises(InvalidInput, match="FEWBITS_WEBHOOK_ALLOW") as refused:
        check_url(url, [])

    assert refused.value.errors[0].pointer == "/url"
    assert address in refused.value.detail
    check_url(url, [ip_network("0.0.0.0/0"), ip_network("::/0")])


@pytest.mark.parametrize("url", REFUSED)
def test_what_names_no_host_or_says_more_than_is_sent_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_url(url, [])

    assert refused.value.errors[0].pointer == "/url"


@given(url=st.text() | st.builds("https://{}/{}".format, st.text(), st.text()))
def test_any_text_is_a_url_or_is_refused(url: str) -> None:
    try:
        destination = parse(url)
    except InvalidInput:
        return
    assert destination.host
    assert 0 < destination.port < 65_536
    assert destination.path.startswith("/")
    assert (destination.authority + destination.path).isascii()
