"""How a browser is let in: with the run's token typed once, or by a link that works once; then by a cookie.

    POST /v1/page/link (bearer token) ──▶ http://…/#code=CODE ──page──▶ POST /page/login {code} ──▶ cookie

Owns: one-time codes, and the cookie's name, value and age. Does not own which calls a cookie admits (`guard`).
Invariants: a code works once, and for `CODE_S` at most; it travels in the address's fragment, which browsers send to
nobody. The cookie is proved by the run's token alone, so it outlives a restart of the controller and no table of
sessions is kept; its name is the run's own, since browsers share cookies between the ports of a host.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie

from ring_async.clock import wall_s

CODE_S = 3600.0
SESSION_S = 7 * 86_400
MAX_CODES = 16
"""Codes that wait to be used; the oldest goes first."""
MAX_COOKIE_BYTES = 4096


class Sessions:
    """Codes and cookies of one run.

    code = sessions.new_code()
    sessions.admits_code(code)                            # True, and False from then on
    sessions.admits_cookie("ring_1f…=1764…")              # whether a Cookie header holds a session
    """

    def __init__(self, token: str, *, is_https: bool = False) -> None:
        self._token = token
        self._is_https = is_https
        self._codes: OrderedDict[str, float] = OrderedDict()
        self.cookie_name = f"ring_{self._proof('name')[:12]}"

    def new_code(self) -> str:
        """A code that admits one browser."""
        code = secrets.token_urlsafe(24)
        self._codes[code] = wall_s() + CODE_S
        while len(self._codes) > MAX_CODES:
            self._codes.popitem(last=False)
        return code

    def admits_code(self, code: str) -> bool:
        """Whether the code was given out, is fresh, and was not used before; it is used now."""
        return self._codes.pop(code, 0.0) > wall_s()

    def admits_token(self, token: str) -> bool:
        """Whether this is the run's token."""
        return hmac.compare_digest(token.encode(errors="replace"), self._token.encode())

    def new_cookie(self) -> str:
        """A `Set-Cookie` header for a browser that was let in."""
        until = f"{wall_s() + SESSION_S:.0f}"
        secure = "; Secure" if self._is_https else ""
        value = f"{until}.{self._proof(until)}"
        return f"{self.cookie_name}={value}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict{secure}"

    def admits_cookie(self, header: bytes) -> bool:
        """Whether a `Cookie` header holds a session that has not run out."""
        if not header or len(header) > MAX_COOKIE_BYTES:
            return False
        try:
            morsel = SimpleCookie(header.decode("latin-1")).get(self.cookie_name)
        except CookieError:
            return False
        until, _, proof = morsel.value.partition(".") if morsel else ("", "", "")
        is_genuine = hmac.compare_digest(proof.encode("latin-1", "replace"), self._proof(until).encode())
        return is_genuine and until.isdecimal() and int(until) > wall_s()

    def _proof(self, text: str) -> str:
        return hmac.new(self._token.encode(), f"page {text}".encode(), hashlib.sha256).hexdigest()
