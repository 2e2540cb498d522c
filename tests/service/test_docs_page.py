"""Tests of service/docs_page.py and its page."""

import base64
import hashlib
import re

from service.docs_page import docs_page

PAGE = bytes(docs_page().body).decode()


def test_page_needs_no_other_host() -> None:
    """The page names no other host, and loads nothing."""
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+", PAGE)
    assert not re.findall(r"<(?:link|img|iframe|script[^>]+src)", PAGE)


def test_policy_runs_only_the_page() -> None:
    """The policy names the page's own script and style by their digests and allows no other."""
    policy = docs_page().headers["content-security-policy"]
    for element in ("script", "style"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.findall(r"\son\w+=|style=", PAGE)


def test_page_writes_answers_as_text() -> None:
    """Nothing from the service or a user is parsed as markup."""
    assert not re.findall("innerHTML|insertAdjacentHTML", PAGE)
