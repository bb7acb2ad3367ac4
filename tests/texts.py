"""Random texts of all characters that UTF-8 can encode."""

import functools

from hypothesis import strategies as st

texts = functools.partial(st.text, st.characters(exclude_categories=["Cs"]))
"""`st.text` without the two CPU seconds that it spends on the characters of its default codec."""
