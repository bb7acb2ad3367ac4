"""Types of the values of a configuration, with limits that mean something."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from impala_mi.paths import check_path


def _whole(value: object) -> object:
    """Integer of a whole number that is written as a float, such as 1e9."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def listed(value: object) -> object:
    """Value of env.levels; a single name raises an error that shows how a list is written."""
    if isinstance(value, str) and value != "all":
        raise ValueError(f"write a list: [{value}], or all")
    return value


def _folder(value: str) -> str:
    """Path of a folder as given; raises ValueError if none can have it."""
    if (problem := check_path(value)) is not None:
        raise ValueError(problem + "; name it in run.mirror to copy runs there" * ("://" in value))
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("is no text in UTF-8, which config.yaml needs")
    return value


def _url(value: str) -> str:
    """URL as given; raises ValueError for characters that a URL cannot have."""
    if re.search(r"[\s'\"<>]", value):
        raise ValueError("is no URL: write spaces and quotes as %20, %22 and %27")
    return value


CENTURY_S = 3_155_760_000
"""Seconds of 100 years, the longest time of any setting."""

Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=1, le=2**31 - 1)]
Frames = Annotated[Whole, Field(ge=1, le=10**15)]
"""Number of env frames; names of checkpoints have 15 digits, and no run gets to 10^15."""
Seconds = Annotated[float, Field(gt=0, le=CENTURY_S)]
Positive = Annotated[float, Field(ge=1e-30, le=1e30)]
"""Number that neither vanishes nor overflows in float32."""
NonNegative = Annotated[float, Field(ge=0, le=1e30)]
Processors = Annotated[float, Field(gt=0, le=1e4)]
"""CPUs that Ray reserves."""
Threads = Annotated[Whole, Field(ge=1, le=4096)]
Folder = Annotated[str, AfterValidator(_folder)]
Url = Annotated[str, AfterValidator(_url)]
"""URL that may hold credentials; they are removed from every file and message."""
