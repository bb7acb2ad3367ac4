"""Code policy: whether a configuration may name code that this process then imports, which `--no-code` forbids."""

import re

_CODE = re.compile(r"[^\W\d][\w.]*:(?!//)\S+")
"""Text such as package.module:function or module:Name-v0."""
_GYMNASIUM = ("env.levels", "env.gym.")
"""Beginnings of keys whose values Gymnasium may read: it imports whatever stands before a colon."""
_NEVER_IMPORTED = ("run.", "env.dmlab.", "logging.wandb.", "logging.mlflow.")
"""Beginnings of keys whose values are never imported: folders, URLs and names."""
_allowed = True


def allow_code(allowed: bool) -> None:
    """Allow or forbid code for the configurations that this process reads from now on."""
    global _allowed
    _allowed = allowed


def code_allowed() -> bool:
    """Whether configurations may name code."""
    return _allowed


def names_code(key: str, text: str) -> bool:
    """Whether a text of a configuration can make this program import a module.

    Any text that looks like it counts, wherever modules may be named: also a value of env.gym.kwargs.
    """
    if key.startswith(_GYMNASIUM):
        return ":" in text
    return _CODE.fullmatch(text) is not None and not key.startswith(_NEVER_IMPORTED)


def refusal(key: str, text: str) -> str:
    """Message about a text that names code."""
    return f"{key}={text!r}: names code, which --no-code refuses to import"
