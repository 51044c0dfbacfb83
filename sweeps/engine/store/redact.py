"""Addresses without their secrets: what is printed, logged, stored or sent to MLflow goes through here."""

import re
import shlex
from collections.abc import Sequence

_AUTHORITY = re.compile(r"(?<=://)[^/?#\s\"'<>]*@")
"""User and password, up to the last @ before the path."""
_WITH_SLASH = re.compile(r"(?<=://)[^/?#\s:@]*:(?!\d+(?:[/?#\s\"']|$))[^\s\"'<>]*@")
"""User and password where the password holds a slash, a question mark or a hash that was not percent-encoded."""
_QUERY = re.compile(
    r"([?&;](?:password|passwd|pwd|token|secret|signature|sig|access_key|secret_key|session_token|api_key)=)[^&;#\s\"'<>]*",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with user, password and secret query parameters of every address in it left out."""
    without = _AUTHORITY.sub("", _WITH_SLASH.sub("", text))
    return _QUERY.sub(r"\1***", without)


def redact_command(arguments: Sequence[str]) -> str:
    """A command as a shell takes it, without secrets.

    Args:
        arguments: each on its own, so that a space in a password does not end it.
    """
    return shlex.join(redact_argument(argument) for argument in arguments)


def redact_argument(argument: str) -> str:
    """One argument of a command without its secrets; it may hold spaces and quotes."""
    before, scheme, address = argument.partition("://")
    if not scheme:
        return argument
    userinfo, at, rest = address.rpartition("@")
    is_userinfo = at and ("/" not in userinfo or re.match(r"[^/]*:(?!\d+/)", userinfo))
    return redact(f"{before}{scheme}{rest if is_userinfo else address}")
