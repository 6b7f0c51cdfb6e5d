"""Requests identify us, and X-Robots-Tag and Retry-After are obeyed."""

from email.utils import formatdate
from time import time

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from jobs import __version__
from jobs.config import FetchConfig
from jobs.errors import ConfigError
from jobs.fetch.headers import forbidding_directive, retry_after_seconds, user_agent
from tests.support.fetchers import MakeFetcher, only
from tests.support.hostile import IMAGE, Hostile
from tests.support.recipes import demo_job


def headers(name: str, *values: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict([(name, value) for value in values]))


@pytest.mark.parametrize(
    "values",
    [
        ["noai"],
        ["noimageai"],
        ["noindex"],
        ["noimageindex"],
        ["NoAI"],
        ["none"],
        ["nofollow, noai"],
        ["nofollow,noai ,noarchive"],
        ["nofollow", "noai"],
        ["coyo-jobs: noai"],
        ["Coyo-Jobs: nofollow, noindex"],
        ["*: noai"],
        ["coyo-jobs/0.1: noai"],
        ["googlebot: nofollow", "noai"],
        ["googlebot: nofollow, coyo-jobs: noai"],
        ["max-snippet: 20, noai"],
        ["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"],
        ["unavailable_after: Wed, 25 Jun 2030 15:00:00 GMT, noai"],
    ],
    ids=repr,
)
def test_a_wish_to_be_left_out_is_read(values: list[str]) -> None:
    assert forbidding_directive(headers("X-Robots-Tag", *values))


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["all"],
        ["nofollow, noarchive, nosnippet"],
        ["googlebot: noindex"],
        ["googlebot: noindex, noai"],
        ["googlebot: noindex", "bingbot: noai"],
        ["max-image-preview: none"],
        ["unavailable_after: 25 Jun 2030 15:00:00 PST"],
        ["coyo-jobs: all"],
    ],
    ids=repr,
)
def test_other_wishes_are_not_for_us(values: list[str]) -> None:
    assert forbidding_directive(headers("X-Robots-Tag", *values)) is None


def test_robots_are_obeyed_unless_the_recipe_says_otherwise(fetcher: MakeFetcher, server: Hostile) -> None:
    assert only(fetcher(), server.url("robots")) == "robots"
    assert only(fetcher(robots_header="ignore"), server.url("robots")) == IMAGE


def test_every_request_says_who_asks(fetcher: MakeFetcher, server: Hostile) -> None:
    asking = fetcher(contact="https://example.org/crawl")
    assert only(asking, server.url("redirect/1")) == IMAGE
    assert [each.headers["user-agent"] for each in server.requests] == [
        f"coyo-jobs/{__version__} (+https://example.org/crawl)"
    ] * 3
    assert user_agent(None) == f"coyo-jobs/{__version__}"


def test_no_cookie_is_sent_back_and_no_referrer(fetcher: MakeFetcher, server: Hostile) -> None:
    assert only(fetcher(), server.url("redirect/2")) == IMAGE
    for request in server.requests:
        assert set(request.headers) <= {"host", "user-agent", "accept", "accept-encoding", "connection"}
        assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("7", 7), (" 120 ", 120), ("999999", 3600), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_retry_after_is_read(value: str, seconds: float) -> None:
    assert retry_after_seconds(headers("Retry-After", value)) == seconds


def test_retry_after_may_be_a_date() -> None:
    assert retry_after_seconds(headers("Retry-After", formatdate(time() + 30, usegmt=True))) == pytest.approx(30, abs=2)


@pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "٣", "Wed, 99 Oct 99999 07:28:00 GMT"])
def test_a_retry_after_that_cannot_be_read_is_none(value: str) -> None:
    assert retry_after_seconds(headers("Retry-After", value)) is None


@pytest.mark.parametrize("contact", ["me@example.org", "https://example.org/crawl?a=b#c"])
def test_a_contact_is_an_address_or_a_url(contact: str) -> None:
    assert FetchConfig(contact=contact).contact == contact


@pytest.mark.parametrize("contact", ["", "a b", "a\r\nX-Evil: 1", "a)(b", "ü@example.org", "x" * 201])
def test_a_contact_that_would_break_the_header_is_an_error(contact: str) -> None:
    with pytest.raises(ConfigError, match=r"fetch\.contact"):
        demo_job("in", "out", fetch={"contact": contact})


@pytest.mark.parametrize("network", ["10.1.0.5/16", "10.1.0.0/33", "localhost", "10.1", ""])
def test_a_network_that_is_none_is_an_error(network: str) -> None:
    with pytest.raises(ConfigError, match=r"fetch\.allow_networks"):
        demo_job("in", "out", fetch={"allow_networks": [network]})
