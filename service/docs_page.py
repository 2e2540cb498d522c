"""``/docs``: one page that holds its own style and script, so that it works without any other host."""

import base64
import hashlib
import re
from pathlib import Path

from starlette.responses import HTMLResponse, Response

_PAGE = Path(__file__).with_name("static") / "docs.html"


def docs_page() -> Response:
    """The page, with a policy that lets run what is in it and nothing else.

    Returns:
        A response that can be sent any number of times.
    """
    page = _PAGE.read_text("utf-8")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(page, 'script')}",
            f"style-src {_hashes(page, 'style')}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return HTMLResponse(
        page, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    )


def _hashes(page: str, element: str) -> str:
    """The sources that name the content of each *element* of the page, as a policy writes them."""
    contents = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
