"""The playground: a page and the files that it loads. It needs no other host, and no key."""

import hashlib
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

# Media types, by path and file. A browser can send no key with a page or with what a page loads.
PAGES = {
    "/": ("playground.html", "text/html"),
    "/playground.css": ("playground.css", "text/css"),
    "/playground.js": ("playground.js", "text/javascript"),
    "/lacuna.js": ("lacuna.js", "text/javascript"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}
_STATIC = Path(__file__).parent / "static"
# Trusted types refuse every call that parses a string as markup or code.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    # Always ask whether it has changed: page, script and service belong to one version.
    "Cache-Control": "no-cache",
}
pages = APIRouter(include_in_schema=False)


def _serve(path: str, file: str, media_type: str) -> None:
    """Add a route that answers with a file, or with 304 if the browser has it."""
    content = (_STATIC / file).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def answer(request: Request) -> Response:
        headers = _HEADERS | {"ETag": tag}
        known = request.headers.get("if-none-match", "").split(",")
        if tag in [each.strip().removeprefix("W/") for each in known]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    pages.add_api_route(path, answer)


for _path, _entry in PAGES.items():
    _serve(_path, *_entry)
