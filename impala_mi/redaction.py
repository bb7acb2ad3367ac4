"""Redaction: URLs without what may be secret in them, for every text that is written or printed.

A user, a password and the values of a query (signatures, tokens) are replaced by `HIDDEN`; what remains still tells
which place is meant.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
"""Text in place of a secret."""
MIN_SECRET_CHARS = 4
"""Shortest secret that is looked for in texts other than its URL; a shorter one could be part of any word."""

_SCHEME = re.compile(r"((?<![A-Za-z0-9+.\-])[A-Za-z0-9+.\-]+://)")
_URL = re.compile(_SCHEME.pattern + r"[^\s'\"<>]*")
_END = re.compile(r"[\s'\"<>]|$")
"""End of a URL in a text."""
_NO_SCHEME = re.compile(r"(?<![\w:/])//[^/@:\s]*:[^/@\s]*@")
_USER = re.compile(r"[^/]*@|[^/@:]*:(?!\d+(?:[/?#]|$))[^@]*@", re.DOTALL)
"""User and password at the start of what follows `://`; a password may hold slashes, but not begin like a port."""
_S3_USER = re.compile(r"[^/]*@|[^/@:]*:[^@]*@", re.DOTALL)
"""The same of S3, whose URLs have no port: secrets of AWS may hold digits and slashes anywhere."""
S3_SCHEMES = ("s3", "s3a")
_PARAMETER = re.compile(r"([?&;#])([^=&;#]*)(=?)([^&;#]*)", re.DOTALL)
_SECRET_NAME = re.compile("sig|token|key|secret|pass|pwd|cred|auth", re.IGNORECASE)
"""Names of parameters that hold secrets, in URLs that are to be kept."""
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")
"""Schemes that name a container, which is no secret, before the @."""


def redact(text: str) -> str:
    """Text without the secrets of the URLs in it."""
    if "//" not in text:
        return text
    pieces = _SCHEME.split(_URL.sub(lambda url: redact_url(url[0]), text))  # text, scheme, text, scheme, ...
    for i in range(2, len(pieces), 2):  # URLs within URLs, or lists of them without spaces
        scheme, rest = pieces[i - 1], pieces[i]
        end = _END.search(rest)
        assert end is not None
        pieces[i] = redact_url(scheme + rest[: end.start()]).removeprefix(scheme) + rest[end.start() :]
    return _NO_SCHEME.sub(f"//{HIDDEN}@", "".join(pieces))


def redact_url(url: str) -> str:
    """URL without its secrets, whatever characters are in them; a text that is no URL as it is."""
    if "://" not in url:
        return url
    bare, user = split_user(url)
    query = _query(bare)
    scheme, _, rest = bare.removesuffix(query).partition("://")
    return f"{scheme}://{f'{HIDDEN}@' * bool(user)}{rest}{_PARAMETER.sub(_redact_parameter, query)}"


def has_secret(url: str) -> bool:
    """Whether a URL has a user or password, or a parameter whose name is that of a secret."""
    bare, user = split_user(url)
    names = (name for _, name, _, _ in _PARAMETER.findall(_query(bare)) if "://" in url)
    return bool(user) or any(_SECRET_NAME.search(name) for name in names)


def redact_values(values: Any) -> Any:
    """Nested mappings and lists without the secrets of the URLs in their texts."""
    if isinstance(values, str):
        return redact(values)
    if isinstance(values, Mapping):
        return {redact_values(key): redact_values(value) for key, value in values.items()}
    return [redact_values(value) for value in values] if isinstance(values, list | tuple) else values


def redact_own(text: str, url: str) -> str:
    """Text about a URL without that URL's secrets, wherever they stand, and without those of other URLs."""
    bare, user = split_user(url)
    parts = [*user.split(":", 1), user, *(match[4] for match in _PARAMETER.finditer(_query(bare)))]
    secrets = {spelling for part in parts for spelling in (part, unquote(part))}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARS:
            text = text.replace(secret, HIDDEN)
    return redact(text)


def split_user(url: str) -> tuple[str, str]:
    """The URL without its user and password, and these as `user:password`, empty if there are none."""
    scheme, separator, rest = url.partition("://")
    user = (_S3_USER if scheme in S3_SCHEMES else _USER).match(rest)
    if not separator or user is None or (scheme in _CONTAINER_SCHEMES and ":" not in user[0]):
        return url, ""
    return f"{scheme}://{rest[user.end() :]}", user[0][:-1]


def _query(url: str) -> str:
    """Query and fragment of a URL, with the character that begins them."""
    start = re.search(r"[?#]", url)
    return "" if start is None else url[start.start() :]


def _redact_parameter(parameter: "re.Match[str]") -> str:
    start, name, equals, value = parameter.groups()
    if equals:
        return f"{start}{name}={HIDDEN if value else ''}"
    return f"{start}{HIDDEN}" if name and start != "#" else parameter[0]
