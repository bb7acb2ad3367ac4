"""Registry of suites."""

from collections.abc import Callable

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Suite
from impala_mi.errors import UserError
from impala_mi.hooks import import_object, load_hook

SUITES = {
    "dmlab30": "impala_mi.envs.dmlab30:dmlab30",
    "doom": "impala_mi.envs.doom:doom",
    "babyai": "impala_mi.envs.babyai:babyai",
    "envpool": "impala_mi.envs.envpool:envpool",
    "gym": "impala_mi.envs.gym:gym",
    "tiny": "impala_mi.envs.tiny:tiny",
    "interference": "impala_mi.envs.interference:interference",
    "noise": "impala_mi.envs.noise:noise",
}


def make_suite(config: EnvConfig) -> Suite:
    """Make the suite that the configuration names; raises `UserError` if that fails."""
    make: Callable[[EnvConfig], Suite]
    if config.suite in SUITES:
        make = import_object(SUITES[config.suite], f"env.suite={config.suite!r}")
    elif ":" in config.suite:
        make = load_hook(config.suite, "env.suite")
    else:
        raise UserError(
            f"env.suite={config.suite!r}: no such suite; there are {', '.join(SUITES)}, or name your own "
            "function as package.module:function"
        )
    try:
        suite = make(config)
    except UserError:
        raise
    except Exception as e:  # so may a user's function
        raise UserError(f"env.suite={config.suite!r}: failed: {type(e).__name__}: {e}") from e
    if not isinstance(suite, Suite):
        raise UserError(
            f"env.suite={config.suite!r}: returned {type(suite).__name__}, not impala_mi.envs.base.Suite"
        )
    return suite
