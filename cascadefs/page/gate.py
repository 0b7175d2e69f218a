"""Who may drive the page. Pure.

A page on loopback is reachable by every user of the machine and, through their browsers, by every web page they visit. So

- the **token** is asked for always. A link brings it once; then a cookie stands for it, which no script can read and which
  browsers send from this page only (HttpOnly, SameSite=Strict);
- **Host** must be an address, `localhost` or a name that was configured: a foreign name that was made to point here (DNS
  rebinding) is none of them;
- **Sec-Fetch-Site** and **Origin**, where a browser sends them, must say that the request comes from this page. Only opening the
  page itself may begin elsewhere;
- a **change** needs a header that no form can send and a foreign script only after asking, which is never answered.

Sources: Fetch Metadata (W3C); OWASP, cross-site request forgery prevention; RFC 6265bis.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import TYPE_CHECKING, Final

from cascadefs.page.message import Response, failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cascadefs.page.message import Request

__all__ = ["CHANGE_HEADER", "FILE_POLICY", "HEADERS", "Gate"]

CHANGE_HEADER: Final = "x-cascadefs"
"""Of every change."""

FROM_HERE: Final = ("none", "same-origin")
"""Sec-Fetch-Site of what a person or this page asked for."""

HEADERS: Final = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
"""Of every response."""

FILE_POLICY: Final = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of what users wrote: whatever it is, nothing in it runs."""


class Gate:
    """See the module."""

    def __init__(self, token: str, port: int, names: Iterable[str], *, is_tls: bool) -> None:
        """`names`: beside `localhost`, as which browsers may know this machine."""
        self._token = token.encode()
        self._cookie_name = f"cascadefs-{port}"  # cookies know hosts, not ports
        self._cookie = hmac.new(self._token, b"cookie", hashlib.sha256).hexdigest()
        self._names = {"localhost", *(name.lower() for name in names)}
        self._is_tls = is_tls

    def turn_away(self, request: Request) -> Response | None:
        """What somebody is told who may not ask this; None: come in."""
        host = request.headers.get("host", "").lower()
        if not self._is_ours(host):
            return failure(421, "this page is not served under that name")
        if not self._is_from_here(request, host):
            return failure(403, "asked from another page")
        if request.method not in ("GET", "POST"):
            return failure(405, "GET and POST are what there is")
        if self._is_known(request):
            if request.method == "POST" and request.headers.get(CHANGE_HEADER) != "1":
                return failure(403, f"a change needs the header {CHANGE_HEADER}: 1")
            return None
        return self._let_in(request)

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in self._names
        return True

    @staticmethod
    def _is_from_here(request: Request, host: str) -> bool:
        told = request.headers
        origin = told.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host:
            return False
        if told.get("sec-fetch-site", "none") in FROM_HERE:
            return True
        opens = (told.get("sec-fetch-mode"), told.get("sec-fetch-dest")) == ("navigate", "document")
        return opens and request.method == "GET" and request.path == "/"

    def _is_known(self, request: Request) -> bool:
        told = request.headers.get("authorization", "")
        if told.startswith("Bearer "):
            return hmac.compare_digest(told[7:].encode(), self._token)
        for pair in request.headers.get("cookie", "").replace(",", ";").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._cookie_name and hmac.compare_digest(
                value.encode(), self._cookie.encode()
            ):
                return True
        return False

    def _let_in(self, request: Request) -> Response:
        """A link with the token gets the cookie, and loses the token from the browser's address line."""
        given = request.question().get("token", "").encode(errors="replace")
        opens = request.method == "GET" and request.path == "/"
        if not opens or not hmac.compare_digest(given, self._token):
            if opens and request.headers.get("sec-fetch-site", "none") not in FROM_HERE:
                # A strict cookie does not come along from elsewhere. When this answer itself asks for the page, it does.
                return Response(200, headers=(("Refresh", "0; url=/"),))
            return failure(401, "open the link that cascadefs printed: it brings the token")
        secure = "; Secure" if self._is_tls else ""
        cookie = f"{self._cookie_name}={self._cookie}; HttpOnly; SameSite=Strict; Path=/{secure}"
        return Response(303, headers=(("Location", "/"), ("Set-Cookie", cookie)))
