"""``GET /docs``: one page with its own style and script; it needs no other host."""

import base64
import hashlib
import re
from pathlib import Path

from starlette.responses import HTMLResponse, Response

_PAGE = Path(__file__).with_name("static") / "docs.html"


def docs_page() -> Response:
    """Return the page, with a policy that runs only its own script. It can be sent repeatedly."""
    page = _PAGE.read_text("utf-8")
    policy = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; script-src {_digest(page, 'script')}; "
        f"style-src {_digest(page, 'style')}"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(page, headers=headers)


def _digest(page: str, element: str) -> str:
    """Return the source expression for the page's only *element*."""
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
