"""Base of the sections of a configuration, and the sections of single suites."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from impala_mi.config_values import Folder, Seconds, Whole


class Section(BaseModel):
    """Base of the sections of a configuration; unknown keys and implicit conversions are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, values: Any) -> Any:
        """Values without those sections that are empty, as one whose keys are all commented out: their defaults."""
        if not isinstance(values, dict):
            return values
        empty = [key for key, value in values.items() if value is None and key in cls.model_fields]
        sections = {key for key in empty if _is_section(cls.model_fields[key].annotation)}
        return {key: {} if key in sections else value for key, value in values.items()}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


MACHINE_KEYS = ("renderer", "dataset_path", "level_cache", "level_cache_gib", "timeout_s")
"""Keys of env.dmlab that may differ from machine to machine without changing the levels."""


class DmlabConfig(Section):
    """DeepMind Lab, for the suite `dmlab30`; docs/dmlab.md explains each key."""

    actions: Literal["impala", "extended"] = "impala"
    """IMPALA's 9 actions, or the 15 of later work."""
    renderer: Literal["software", "hardware"] = "software"
    """`hardware` draws with EGL on a GPU."""
    dataset_path: Folder | None = None
    """Folder of the images that two psychlab levels show; without it these two cannot be played."""
    held_out: bool = False
    """Play the held-out variants, as `impala-mi eval` does."""
    mixer_seed: Annotated[Whole, Field(ge=0, lt=2**31)] | None = None
    """Seed mixed into the random stream of training levels; held-out levels always use IMPALA's 0x600D5EED."""
    human_scores: Literal["paper", "code"] = "paper"
    """Source of the human scores of lasertag levels: IMPALA's paper (which gives 49.4) or the table in its code."""
    level_cache: Folder | None = "~/.cache/impala-mi/dmlab"
    """Folder of compiled maps that processes and machines may share; null compiles every time."""
    level_cache_gib: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Size of the level cache above which the least recently used maps are removed; by default unlimited."""
    timeout_s: Seconds = 600.0
    """Seconds without an answer and without CPU time after which a level counts as hung; a step that builds no map
    has 60 s at most, with CPU time or without."""


class EnvpoolConfig(Section):
    """EnvPool, for the suite `envpool`; docs/envpool.md describes its families of levels."""

    atari: Literal["no_ops", "sticky"] = "no_ops"
    """Protocol of Atari games: up to 30 no-ops at the start of an episode (Mnih et al. 2015), or `sticky` actions,
    which the game replaces by the previous one with probability 0.25 (Machado et al. 2018)."""


class InterferenceConfig(Section):
    """Tasks that contradict each other, for the suite `interference`."""

    tasks: Annotated[Whole, Field(ge=1, le=64)] = 16
    """Number of tasks, the levels of the suite."""
    contradiction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the symbols for which every task has a right action of its own, in steps of 1/32."""
    reward_ratio: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    """Quotient of the largest and the smallest reward that a task may give; 1 is the same reward in all tasks."""
    task_in_frame: bool = False
    """Whether all frames but an episode's first also show features of the task; otherwise only rewards tell it."""
    rules_seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Seed of the right actions, rewards and features; all runs with this seed play the same rules."""


class GymConfig(Section):
    """Gymnasium, for the suite `gym`."""

    kwargs: dict[str, dict[str, Any]] = {}
    """Arguments of `gymnasium.make` by id, for example {"ALE/Pong-v5": {frameskip: 1}}; those under "all" are of
    every id."""
    wrappers: list[str] = []
    """Wrappers around every environment, the innermost first, each as `package.module:function`: a function
    that takes an environment and returns one."""
