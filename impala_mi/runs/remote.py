"""Remote folders: URLs in any file system that fsspec knows, and what is said about their credentials."""

from urllib.parse import unquote

import fsspec

from impala_mi.redaction import HIDDEN, S3_SCHEMES, redact_url, split_user

_VARIABLES = dict.fromkeys(S3_SCHEMES, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") | {
    "gs": "GOOGLE_APPLICATION_CREDENTIALS", "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}  # fmt: skip
"""Environment variables that hold credentials, by the scheme of the URL; fsspec's own for others."""


def open_url(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system of a URL and the path in it.

    The user and password of an s3 URL are its key and secret, which may hold slashes. A user that was redacted is
    left out, so the environment's credentials count. Raises `ValueError` or `ImportError` for a URL that fsspec
    does not know.
    """
    bare, user = split_user(url)
    if HIDDEN in bare.partition("?")[0]:
        raise ValueError(f"a part of it was hidden in a file ({HIDDEN}), so it may name another folder")
    if user == HIDDEN:
        return fsspec.core.url_to_fs(bare)
    if user and url.partition("://")[0] in S3_SCHEMES:
        key, _, secret = user.partition(":")
        return fsspec.core.url_to_fs(bare, key=unquote(key), secret=unquote(secret))
    return fsspec.core.url_to_fs(url)


def lost_credentials(url: str) -> str:
    """Advice for a URL whose credentials were redacted, to be appended to an error; empty for other URLs."""
    if redact_url(url) != url or HIDDEN not in url:
        return ""
    scheme = url.partition("://")[0].rpartition("::")[2]
    own = f"FSSPEC_{scheme.upper()}_USERNAME and FSSPEC_{scheme.upper()}_PASSWORD"
    variables = _VARIABLES.get(scheme, own)
    return f"; its credentials are kept in no file: give the whole URL again, or set {variables}"
