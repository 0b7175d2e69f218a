"""The page: a live view of a store, and its files at any time, in a browser.

`server` listens and asks `gate` who may come in; `answers` says what is asked of the store, `feed` what happens in it now. What
there is to look at comes as a `Source`: a client that speaks for one user, and how to ask and tell the rest. `static` is what
the browser runs: no build step, and nothing from elsewhere.

Source: docs/ML.md, "The page"; OPERATIONS, "The page".
"""

from __future__ import annotations

from cascadefs.page.listening import Listening, certified, loopback, parse_address
from cascadefs.page.prices import Prices
from cascadefs.page.server import serve
from cascadefs.page.source import Refused, Source
from cascadefs.page.token import link_of, token_at

__all__ = [
    "Listening",
    "Prices",
    "Refused",
    "Source",
    "certified",
    "link_of",
    "loopback",
    "parse_address",
    "serve",
    "token_at",
]
