"""Settings that a resumed run keeps."""

import pytest

from impala_mi.cli.resume import FIXED
from impala_mi.config import EnvConfig
from impala_mi.config_suites import MACHINE_KEYS, Section


@pytest.mark.parametrize("key", list(EnvConfig.model_fields))
def test_everything_that_makes_the_levels_is_kept(key):
    kind = EnvConfig.model_fields[key].annotation
    if f"env.{key}" in FIXED:
        return
    assert isinstance(kind, type)
    assert issubclass(kind, Section), f"env.{key} may change"
    free = {name for name in kind.model_fields if f"env.{key}.{name}" not in FIXED}
    assert free == set(MACHINE_KEYS), "what differs from machine to machine"
