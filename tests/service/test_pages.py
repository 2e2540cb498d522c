"""The files of the playground, their headers, and the clients that get them."""

from pathlib import Path

import pytest

from service.pages import PAGES
from tests.service.client import get

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef"


@pytest.mark.parametrize("path", PAGES)
def test_pages_allow_only_what_they_need(path: str) -> None:
    """Each file has its media type, and a policy without inline code, other hosts or frames."""
    headers = get(path).headers
    assert headers["content-type"].partition(";")[0] == PAGES[path][1]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    parts = headers["content-security-policy"].split("; ")
    policy = dict(part.partition(" ")[::2] for part in parts)
    own = dict.fromkeys(("script-src", "style-src", "img-src", "connect-src"), "'self'")
    refused = ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types")
    sinks = {"require-trusted-types-for": "'script'"}
    assert policy == own | dict.fromkeys(refused, "'none'") | sinks


def test_a_page_is_sent_again_only_if_it_has_changed() -> None:
    """A browser keeps the page, and gets 304 as long as its tag is the same."""
    first = get("/")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        response = get("/", headers={"If-None-Match": known})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == tag
    assert get("/", headers={"If-None-Match": '"other"'}).content == first.content
    assert len({get(path).headers["etag"] for path in PAGES}) == len(PAGES)


@pytest.mark.parametrize("path", PAGES)
def test_pages_need_no_key_but_the_right_host(path: str) -> None:
    """A browser can send no key with a page; a name that was rebound to loopback gets 421."""
    assert get(path, keys=KEY).status_code == 200
    assert get(path, headers={"Host": "rebound.example"}).status_code == 421
