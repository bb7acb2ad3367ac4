"""Typed configuration, one section for each role, validated as a whole before anything starts.

A configuration is a YAML file and dotted overrides (`learner.batch_size=64`). An unknown key is an error that
names the nearest valid one; a value of the wrong type or range names the key, the value and what is accepted.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from impala_mi.code_permission import code_allowed, names_code, refusal
from impala_mi.config_suites import DmlabConfig, EnvpoolConfig, GymConfig, InterferenceConfig, Section
from impala_mi.config_text import apply_overrides, find
from impala_mi.config_values import (
    Count,
    Folder,
    Frames,
    NonNegative,
    Positive,
    Processors,
    Seconds,
    Threads,
    Url,
    Whole,
    listed,
)
from impala_mi.errors import UserError, explain, shorten
from impala_mi.redaction import has_secret, redact_url, redact_values
from impala_mi.yaml_text import dump_yaml, parse_yaml


class RunConfig(Section):
    """Folders of results."""

    root: Folder = "runs"
    """Folder that holds the runs."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    """Name of the run's folder; by default the configuration's name and the time."""
    mirror: Url | None = None
    """URL under which the run's folder is copied after each checkpoint (s3://bucket/runs, gs://..., file://...).
    Credentials belong into environment variables; those of the URL are kept in no file."""


class EnvConfig(Section):
    """Suite and levels."""

    suite: str = "doom"
    """A shipped suite, or `package.module:function` that returns a `Suite`."""
    levels: Annotated[list[str] | Literal["all"], BeforeValidator(listed)] = "all"
    """Names of the levels; each is a task."""
    action_repeat: Annotated[Whole, Field(ge=1, le=10**4)] | None = None
    """Frames for which an action is repeated; by default the suite's own."""
    dmlab: DmlabConfig = DmlabConfig()
    envpool: EnvpoolConfig = EnvpoolConfig()
    interference: InterferenceConfig = InterferenceConfig()
    gym: GymConfig = GymConfig()

    @model_validator(mode="after")
    def _one_suite(self) -> Self:
        for name, section, suite in (
            ("dmlab", self.dmlab, "dmlab30"),
            ("envpool", self.envpool, "envpool"),
            ("gym", self.gym, "gym"),
            ("interference", self.interference, "interference"),
        ):
            if self.suite != suite and section != type(section)():
                raise ValueError(f"env.{name} belongs to env.suite={suite}, not to {self.suite!r}")
        return self


class AgentConfig(Section):
    """Network of the agent (paper, appendix E)."""

    torso: Literal["shallow", "deep", "mlp"] = "shallow"
    """Features of a frame: two convolutions, IMPALA's residual net, or two linear layers."""
    torso_conditioning: Literal["none", "task", "instruction"] = "none"
    """Source of the scale and shift of the torso's features (FiLM): none, the task ID or the instruction."""
    core: str = "lstm"
    """Recurrent core: lstm, mlstm (multiplicative LSTM), or without memory highway or feedforward."""
    core_width: Count = 256
    """H, the width of the core's output."""
    head: str = "mi_context"
    """How the task enters policy and value (paper, section 6.1): shared, per_task; told the task concat, mi_task
    (multiplicative), film_task, low_rank_task, hyper_task; with a context learnt from the core's output mi_context,
    concat_context, film_context, low_rank_context, hyper_context; or your own `HeadSpec` as package.module:name."""
    conditioned: Literal["both", "policy", "value"] = "both"
    """Outputs that the head conditions; the other one is a shared linear layer."""
    context_width: Count = 32
    """C, the width of the head's context z; also the rank of low_rank heads and the hidden width of hyper heads."""
    match_parameters: str | None = None
    """Name of a head, such as mi_task: the head gets as many parameters as that one, within 2 %, by another
    `context_width` or, if it has no context, by a hidden layer."""
    value_normaliser: str = "none"
    """Scale of values: none, popart (a mean and scale of returns for each level, Hessel et al. 2019), or your own
    `ValueNormaliser` as package.module:name."""
    popart_beta: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """Step size of PopArt's statistics, per return."""
    instruction_tokens: Count = 32
    """L, words after which an instruction is cut."""


Precision = Literal["auto", "float32", "bfloat16"]
"""Precision of computation; `auto` is bfloat16 for convolutional torsos on devices that multiply it faster."""


class ActorsConfig(Section):
    """Actor processes."""

    count: Count | None = None
    """Actor processes, 2 by default; their environments take the levels in turn."""
    per_level: Count | None = None
    """Actors per level, instead of `count`; each plays only that level. For levels that differ in speed."""
    envs: Count = 16
    """E, environments in each actor; they step together, and their inference is one batch."""
    balance: Literal["actors", "frames"] = "actors"
    """Share of the levels: with `actors` a level gets as many frames as its actors can play (IMPALA); with `frames`
    levels that are ahead wait, so that all get as many as the slowest."""
    inference: Literal["local", "central"] = "local"
    """Place of the acting network: in each actor, or central in the workers of `inference` for many actors."""
    precision: Precision = "auto"
    """Inference precision of torso and core; V-trace corrects for the rounding."""
    num_cpus: Processors = 1
    """CPUs that Ray reserves for each actor."""
    min: Count | None = None
    """Actors below which the run ends with a checkpoint after `quorum_s`; by default half of them. The others may
    join late and leave, with their nodes."""
    quorum_s: Seconds = 600.0
    """Seconds for which a run continues below `min` actors, or waits for them at its start."""
    timeout_s: Seconds = 1800.0
    """Seconds without a rollout after which an actor is replaced: more than a level takes to start or answer."""
    max_restarts: Annotated[Whole, Field(ge=0, le=10**6)] = 10
    """Deaths of actors within an hour that a run survives, not counting actors lost with their nodes."""
    max_deaths_in_a_row: Count = 5
    """Deaths without a rollout between them after which an actor is given up; the run continues without it."""

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.count is not None and self.per_level is not None:
            raise ValueError(f"count={self.count} and per_level={self.per_level}: set one of them to null")
        return self

    def quorum(self, levels: int) -> int:
        """Fewest actors with which a run continues."""
        return self.min or -(-self.number(levels) // 2)

    def number(self, levels: int) -> int:
        """Number of actor processes, given the number of levels."""
        return self.per_level * levels if self.per_level is not None else self.count or 2


class InferenceConfig(Section):
    """Inference workers, which act for all actors with `actors.inference=central`."""

    workers: Count = 1
    """Number of workers; each acts for an equal share of the actors."""
    num_gpus: Annotated[float, Field(ge=0, le=1)] = 0
    """GPUs per worker, possibly a fraction; 0 acts on the CPU."""
    num_threads: Threads | None = None
    """Threads per worker on a CPU; by default half of the cores, 8 at most."""
    wait_ms: Annotated[float, Field(ge=0, le=1000)] = 2.0
    """Longest wait of a request for others to share its batch, in milliseconds."""


class LearnerConfig(Section):
    """V-trace learner; the defaults are IMPALA's for DMLab-30."""

    unroll_length: Count = 100
    """T, agent steps in an unroll."""
    batch_size: Count = 32
    """B, unrolls in an update."""
    num_gpus: Annotated[Whole, Field(ge=0, le=10**4)] = 0
    """GPUs of the learner, one rank each; 0 trains on the CPU."""
    ranks: Count | None = None
    """Data-parallel processes, which learn from equal parts of each batch; by default one per GPU, or one."""
    num_cpus: Processors = 1
    """CPUs that Ray reserves for each rank."""
    num_threads: Threads | None = None
    """Threads per rank on a CPU; by default the ranks share half of the cores, 8 each at most."""
    max_restarts: Annotated[Whole, Field(ge=0, le=10**6)] = 3
    """Deaths of ranks within an hour that a run survives; after one more it ends with a checkpoint."""
    timeout_s: Seconds = 600.0
    """Seconds after which an update counts as a death of the learner."""
    precision: Precision = "auto"
    """Training precision of the torso; weights, core, head and loss are always float32."""
    cuda_graphs: bool = False
    """Record updates on one GPU once and replay them. Not yet tried on a GPU."""

    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """Optimiser; `rmsprop` is TensorFlow's, with epsilon inside the root and an accumulator that starts at 1."""
    learning_rate: Positive = 0.00031866995608948655
    """Initial learning rate."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """Schedule of the learning rate; `linear` falls to 0 at `train.env_frames`."""
    rmsprop_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    rmsprop_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    epsilon: Positive = 0.1
    """Epsilon of either optimiser."""
    max_grad_norm: Positive | None = None
    """Norm to which larger gradients are scaled down; none in IMPALA's DMLab runs."""

    discount: Annotated[float, Field(ge=0, le=1)] = 0.99
    entropy_cost: NonNegative = 0.0033391318945337044
    value_cost: NonNegative = 0.5
    """Weight of half the squared error of the value."""
    loss_reduction: Literal["sum", "mean"] = "sum"
    """Reduction of the loss over T and B; published learning rates and entropy costs belong to the sum."""
    reward_clipping: Literal["none", "abs_one", "soft_asymmetric"] = "soft_asymmetric"
    """Clipping of rewards in the loss; scores are never clipped."""
    rho_clip: Positive = 1.0
    c_clip: Positive = 1.0
    pg_rho_clip: Positive = 1.0
    trace_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    max_policy_lag: Count | None = None
    """Policy lag in updates above which unrolls are discarded and counted; by default unlimited."""
    max_bad_updates: Count = 10
    """Non-finite updates in a row after which the run stops."""

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.ranks or max(1, self.num_gpus)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.num_gpus and self.ranks not in (None, self.num_gpus):
            raise ValueError(
                f"ranks={self.ranks} and num_gpus={self.num_gpus}: each GPU has one rank; leave ranks out"
            )
        if self.cuda_graphs and self.num_gpus != 1:
            raise ValueError(f"cuda_graphs=true needs num_gpus=1, not {self.num_gpus}")
        if self.batch_size % self.size:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of the {self.size} ranks")
        if self.rho_clip < self.c_clip:
            raise ValueError(f"rho_clip ({self.rho_clip}) must be at least c_clip ({self.c_clip})")
        return self


class TrainConfig(Section):
    """Length of the run, and times of its records and checkpoints."""

    env_frames: Frames = 10_000_000_000
    """Frames after which the run ends, of all levels together, action repeats counted."""
    max_time_s: Seconds | None = None
    """Seconds of training after which the run ends as done, if that is sooner."""
    log_every_s: Seconds = 10.0
    checkpoint_every_s: Seconds = 600.0
    keep_checkpoints: Count = 2
    """Number of newest checkpoints that are kept, beside the best."""
    score_episodes: Annotated[Whole, Field(ge=1, le=10**6)] = 50
    """Newest episodes per level over which returns are averaged during training."""
    deterministic: bool = False
    """Lock-step training: every update waits for every actor, episodes start anew at each checkpoint, and a resumed
    run equals an uninterrupted one bit for bit. Slower."""
    checkpoint_every_updates: Count | None = None
    """Updates between checkpoints; needed in the deterministic mode, where seconds would not repeat."""

    @model_validator(mode="after")
    def _deterministic(self) -> Self:
        if self.deterministic and self.checkpoint_every_updates is None:
            raise ValueError("deterministic=true needs checkpoint_every_updates")
        if self.deterministic and self.max_time_s is not None:
            raise ValueError("deterministic=true cannot be combined with max_time_s")
        return self


class WandbConfig(Section):
    """Weights & Biases; the key is read from WANDB_API_KEY or `wandb login`, never from here."""

    project: str = "impala-mi"
    offline: bool = False
    """Write to the run's folder only, for `wandb sync`; WANDB_MODE=offline does the same."""


class MlflowConfig(Section):
    """MLflow; credentials are read from MLFLOW_TRACKING_USERNAME, _PASSWORD or _TOKEN, never from here."""

    experiment: str = "impala-mi"
    tracking_uri: str | None = None
    """Server or folder; by default MLFLOW_TRACKING_URI or, without that, mlflow/ in the run's folder."""


class LoggingConfig(Section):
    """Destinations of records beside metrics.jsonl and TensorBoard."""

    wandb: WandbConfig | None = None
    mlflow: MlflowConfig | None = None
    sinks: list[str] = Field(default=[])
    """Your own, as `package.module:function`: a function that takes a `RunInfo` and returns a `Sink`."""


class Config(Section):
    """The whole configuration."""

    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 1
    run: RunConfig = RunConfig()
    env: EnvConfig = EnvConfig()
    agent: AgentConfig = AgentConfig()
    actors: ActorsConfig = ActorsConfig()
    inference: InferenceConfig = InferenceConfig()
    learner: LearnerConfig = LearnerConfig()
    train: TrainConfig = TrainConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _no_secrets(self) -> Self:
        for key, text in _texts(self.model_dump(mode="json")):
            if key != "run.mirror" and has_secret(text):
                raise ValueError(
                    f"{key}={redact_url(text)!r}: must hold no user, password or token in a URL, which the run's "
                    "folder would keep; leave them to environment variables"
                )
        return self

    @model_validator(mode="after")
    def _batches(self) -> Self:
        envs, batch = self.actors.envs, self.learner.batch_size
        if batch % envs:
            raise ValueError(
                f"learner.batch_size={batch} must be a multiple of actors.envs={envs}: "
                "a rollout of an actor has one unroll of each of its environments"
            )
        if batch // envs % self.learner.size:
            raise ValueError(
                f"learner.batch_size={batch} is {batch // envs} rollouts of actors.envs={envs} unrolls, which "
                f"{self.learner.size} ranks cannot share equally"
            )
        if self.train.deterministic and self.learner.size > 1:
            raise ValueError("train.deterministic=true needs a learner of one rank")
        if self.actors.inference == "local" and self.inference != InferenceConfig():
            raise ValueError("the section inference needs actors.inference=central")
        if self.train.deterministic and self.actors.inference == "central":
            raise ValueError(
                "train.deterministic=true needs actors.inference=local: central batches depend on who asks when"
            )
        if self.train.deterministic and self.learner.num_gpus:
            raise ValueError("train.deterministic=true needs learner.num_gpus=0: a GPU's sums have no fixed order")
        if self.train.deterministic and self.actors.per_level is not None:
            raise ValueError("train.deterministic=true needs actors.count, not actors.per_level")
        if self.train.deterministic and batch % (envs * self.actors.number(0)):
            raise ValueError(
                f"with train.deterministic=true, learner.batch_size={batch} must be a multiple of "
                f"actors.count x actors.envs = {envs * self.actors.number(0)}"
            )
        return self

    @property
    def rollouts_per_batch(self) -> int:
        """Rollouts of actors that make one batch of the learner."""
        return self.learner.batch_size // self.actors.envs

    @property
    def steps_per_update(self) -> int:
        """Agent steps of a batch."""
        return self.learner.unroll_length * self.learner.batch_size


C = TypeVar("C", bound=Config)


def load(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration and apply `key=value` overrides; raises `UserError`."""
    return load_as(Config, path, overrides)


def load_as(model: type[C], path: str, overrides: Sequence[str] = ()) -> C:
    """`load` for a subclass of `Config`."""
    name, text = find(path)
    values = parse_yaml(text, path)
    return build_as(model, name, {} if values is None else values, overrides)


def build(name: str, values: Any, overrides: Sequence[str] = ()) -> Config:
    """Validate a nested mapping with overrides; `name` names the run's folder and the errors."""
    return build_as(Config, name, values, overrides)


def build_as(model: type[C], name: str, values: Any, overrides: Sequence[str] = ()) -> C:
    """`build` for a subclass of `Config`."""
    if not isinstance(values, dict):
        raise UserError(f"{shorten(name)}: a configuration is a mapping of sections, not {type(values).__name__}")
    apply_overrides(values, overrides, name)
    try:
        config = model.model_validate(values)
    except ValidationError as e:
        raise UserError("; ".join(explain(name, e, list(keys(model))))) from None
    if not code_allowed():
        for key, text in named_code(config):
            raise UserError(f"{shorten(name)}: {refusal(key, text)}")
    return config


def named_code(config: Config) -> list[tuple[str, str]]:
    """Dotted keys and texts of the values that can make this program import a module."""
    return [(key, text) for key, text in _texts(config.model_dump(mode="json")) if names_code(key, text)]


def keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key."""
    for field, info in model.model_fields.items():
        yield prefix + field
        for kind in get_args(info.annotation) or [info.annotation]:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind, f"{prefix}{field}.")


def get(config: Config, key: str) -> object:
    """The value or section of a dotted key."""
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Texts of nested mappings and lists by dotted key, keys of mappings included."""
    if isinstance(values, str):
        yield key, values
    elif isinstance(values, dict):
        for name, value in values.items():
            yield from ((key, name), *_texts(value, f"{key}.{name}" if key else name))
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value, key)


def to_yaml(config: Config) -> str:
    """The configuration as the YAML that loads it again, without credentials."""
    return dump_yaml(redact_values(config.model_dump(mode="json")))
