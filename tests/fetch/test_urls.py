"""Which urls are allowed, and the exact form in which they are requested."""

import pytest

from jobs.errors import Reason, Reject
from jobs.fetch import urls


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.jpg",
        "https://example.org:8443/a%2Fb.jpg?x=%41&sig=a%2Bb%3D#top",
        "http://Example.ORG./~a/../b.jpg",
        "http://8.8.8.8/a.jpg",
        "http://[2606:4700::1111]/a.jpg",
        "http://under_score.example.org/a.jpg",
    ],
)
def test_a_plain_url_is_asked_for_as_it_is_written(url: str) -> None:
    """Quoting it again would break a signature."""
    assert str(urls.parse(url)) == url


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        (" http://example.org/a b.jpg\n", "http://example.org/a%20b.jpg"),
        ("http://example.org/ü.jpg", "http://example.org/%C3%BC.jpg"),
        ("http://bücher.example/a.jpg", "http://xn--bcher-kva.example/a.jpg"),
        ("http://example.org/100%.jpg", "http://example.org/100%25.jpg"),
        ("HTTP://example.org/a|b.jpg", "http://example.org/a%7Cb.jpg"),
    ],
)
def test_what_corpora_leave_unquoted_is_quoted(written: str, asked: str) -> None:
    assert str(urls.parse(written)) == asked


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/a.jpg",
        "gopher://example.org/a",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "example.org/a.jpg",
        "//example.org/a.jpg",
        "http:/example.org/a.jpg",
        "http:///a.jpg",
        "http://",
        "http://user:secret@example.org/a.jpg",
        "http://user@example.org/a.jpg",
        "http://@example.org/a.jpg",
        "http://example.org\\@127.0.0.1/a.jpg",
        "http://example.org:0/a.jpg",
        "http://example.org:65536/a.jpg",
        "http://example.org:http/a.jpg",
        "http://exa mple.org/a.jpg",
        "http://example.org/a\r\nHost: other/b.jpg",
        "http://example.org/a\x00.jpg",
        "http://a..example.org/a.jpg",
        "http://" + "a" * 64 + ".example.org/a.jpg",
        "http://" + "a." * 130 + "org/a.jpg",
        "http://%31%32%37.0.0.1/",
        "http://2130706433/",
        "http://017700000001/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://127.0.0.256/",
        "http://1.2.3.4.5/",
        "http://[::1%25lo]/",
        "http://[fe80::1%eth0]/",
        "http://[v1.x]/",
        "http://[::1/",
        "http://example.org/" + "a" * 9000,
    ],
)
def test_an_odd_url_is_a_reject(url: str) -> None:
    with pytest.raises(Reject) as caught:
        urls.parse(url)
    assert caught.value.reason is Reason.BAD_URL
    assert len(caught.value.message) < 400


def test_digits_that_only_look_different_are_judged_as_what_they_become() -> None:
    """Full-width digits and ideographic full stops are an address once a name is normalised."""
    assert urls.parse("http://１２７。０。０。１/").raw_host == "127.0.0.1"
    with pytest.raises(Reject):
        urls.parse("http://０ｘ７ｆ。１/")


def test_a_row_without_a_url_has_no_image() -> None:
    for nothing in (None, "", " \n"):
        with pytest.raises(Reject) as caught:
            urls.parse(nothing)
        assert caught.value.reason is Reason.NO_IMAGE


def test_credentials_are_not_repeated_in_messages() -> None:
    with pytest.raises(Reject) as caught:
        urls.parse("http://user:secret@example.org/a.jpg")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("location", "leads"),
    [
        ("/b.jpg", "http://example.org/b.jpg"),
        ("b.jpg?x=1", "http://example.org/a/b.jpg?x=1"),
        ("//other.org/b.jpg", "http://other.org/b.jpg"),
        ("https://other.org/ü.jpg", "https://other.org/%C3%BC.jpg"),
    ],
)
def test_a_redirect_leads_on_from_where_it_stood(location: str, leads: str) -> None:
    assert str(urls.resolve_redirect(urls.parse("http://example.org/a/a.jpg"), location)) == leads


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://h/a", "http://u:p@h/", "http://0x7f.1/", "http://h:0/", "\udcff"]
)
def test_a_redirect_to_an_odd_url_is_a_reject(location: str) -> None:
    with pytest.raises(Reject) as caught:
        urls.resolve_redirect(urls.parse("http://example.org/a.jpg"), location)
    assert caught.value.reason is Reason.BAD_URL
