"""Random input of the command line: configurations, overrides, options and paths, in this process."""

import io
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin
from unittest.mock import patch

import click
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from impala_mi.cli.main import cli, main
from impala_mi.config import build
from impala_mi.host.signals import StopSignal
from impala_mi.pbt.settings import PopulationConfig
from impala_mi.training import preflight
from tests.texts import texts

MAX_S = 5.0
"""Longest time that a command may take to answer."""
CONFIGS = Path(__file__).resolve().parents[2] / "impala_mi" / "configs"


@dataclass
class Tally:
    """Outcomes of the cases so far."""

    tried: int = 0
    clear: Counter[str] = field(default_factory=Counter)
    """Cases that were accepted, or refused in one line, by exit code."""
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """Arguments of the cases that ended otherwise, by what happened."""
    slowest: tuple[float, str] = 0.0, ""
    """Seconds and arguments of the slowest case."""

    def add(self, args: list[str]) -> None:
        """Run a command and count its outcome."""
        start = time.monotonic()
        outcome = run(args)
        self.tried += 1
        took = time.monotonic() - start
        self.slowest = max(self.slowest, (took, repr(args)[:500]))
        if took > MAX_S:
            outcome = f"took {took:.1f} s"
        if outcome.isdigit():
            self.clear[outcome] += 1
        else:
            self.wrong.setdefault(outcome, []).append(repr(args)[:2000])


def run(args: list[str]) -> str:
    """Exit code of a command, or what is wrong with its end. `check` stands for the start of a run up to Ray."""
    errors = io.StringIO()
    handlers = {number: signal.getsignal(number) for number in StopSignal.SIGNALS}
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(errors), warnings.catch_warnings():
            main(args)
    except SystemExit as e:
        return _outcome(e.code, errors.getvalue())
    except Exception as e:
        frames = traceback.extract_tb(e.__traceback__)
        own = [f for f in frames if "impala_mi" in f.filename] or frames
        return f"{type(e).__name__} at {own[-1].name}: {str(e)[:100]}"
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        torch.set_flush_denormal(False)  # hypothesis tries such numbers
    return "main returned"


def _outcome(code: Any, errors: str) -> str:
    """Exit code, unless what was printed is not one line that says why; an `OSError` does not."""
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    usage = bool(lines) and lines[0].startswith("Usage: ")
    if code == 0 or usage:
        return str(code)
    if len(lines) != 1 or not lines[0].isprintable() or len(lines[0]) > 3100:
        return f"message that is not one line: {errors[:200]!r}"
    return f"an OSError: {lines[0][:100]}" if "[Errno " in lines[0] else str(code)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def check(overrides: tuple[str, ...]) -> None:
    """All that training checks before it starts Ray."""
    preflight.check(build("fuzz", {"env": {"suite": "tiny"}, "agent": {"torso": "mlp"}}, overrides))


_shipped = cli.get_command


def _command(ctx: click.Context, name: str) -> click.Command | None:
    """A command of the product, or `check`."""
    return check if name == "check" else _shipped(ctx, name)


# -- strategies ------------------------------------------------------------------------------

ODD_VALUES = [
    "", " ", "null", "~", "[]", "{}", "[[]]", "{a: 1}", "{1: 2}", "{a: 1, a: 2}", "{[a]: 1}", "{? {a: 1} : 2}",
    "true", "yes", "on", "0", "-1", "010", "0x10", "0x_", "0b_", "0o17", "1:30", "1_000", "1e9", "1e30",
    "1e300", "1e999", "-1e-400", ".inf", "-.inf", ".nan", "1e-320", "9" * 400, "9" * 401, "9" * 5000,
    "0." + "1" * 5000, "2024-13-45", "2024-01-01", "12:00:00", "2001-12-14t21:59:43.10-05:00", "!!int x",
    "!!float x", "!!timestamp x", "!!binary x", "!!set {a}", "!!omap [a: 1]", "!!bool maybe", "!!null x",
    "!!str [a]", "!!python/object/apply:os.system [ls]", "!x y", "! 1", "&a [*a]", "*a", "&a {<<: *a}",
    "{<<: 3}", "{<<: [{a: 1}, 2]}", "<<", "<<: 1", "[" * 3000, "{a: " * 200, "- " * 500, "'", '"', '"\\ud800"',
    '"\\0"', "\0", "\x07", "\udcff", "\N{BOM}", "\u2028", "a\nb", "a\tb: c", "---", "--- 1\n--- 2",
    "%YAML 9.9\n--- 1", "@", "`", "|", ">", "x" * 200_000,
    "{" + ", ".join(f"k{i}: 1" for i in range(3000)) + "}", "[a]", "a.b:c", "s3://bucket/runs",
    "~nosuchuser/x", "/proc/x", "../..", "x/" * 3000, "n" * 300, "package.module:name",
]  # fmt: skip
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = [
    "",
    "learner:",
    "- 1",
    "a: [",
    "learner.batch_size: 3",
    "seed: 1\nseed: 2",
    BOMB,
    "<<: *x",
    "\xff",
    "x: &x\n  <<: *x",
]


def leaf_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys that are no sections, with their annotations."""
    for name, info in model.model_fields.items():
        annotation = info.annotation
        sections = [
            t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        yield prefix + name, annotation
        for section in sections:
            yield from leaf_keys(section, f"{prefix}{name}.")


KEYS = dict(leaf_keys(PopulationConfig))


def plausible(annotation: Any) -> st.SearchStrategy[str]:
    """Values of a key's own type, in and out of its range."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return plausible(args[0])
    if origin is Literal:
        return st.sampled_from([str(a) for a in args])
    if origin in (list, dict):
        return st.sampled_from(["[]", "[a]", "[a, a]", "[1]", "{}", "{learner.epsilon: {fixed: 1}}"])
    if origin is UnionType or args:
        return st.one_of([plausible(a) for a in args])
    if annotation is bool:
        return st.sampled_from(["true", "false"])
    if annotation is int:
        powers = st.integers(-3, 70).map(lambda k: 2**k if k >= 0 else k)
        return st.one_of(*[st.integers(1, 64)] * 6, st.integers(-2, 70), powers, st.floats(0, 1e18)).map(str)
    if annotation is float:
        return st.one_of(*[st.floats(0.01, 1)] * 4, st.floats()).map(str)
    return st.sampled_from(["null", "a", "tiny", "runs"])


def odd() -> st.SearchStrategy[str]:
    """Values that no key expects."""
    return st.one_of(st.sampled_from(ODD_VALUES), texts(max_size=30), st.binary(max_size=20).map(os.fsdecode))


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """Overrides of a few keys."""
    out = []
    for _ in range(draw(st.integers(0, 4))):
        key = draw(st.sampled_from(list(KEYS)))
        value = draw(st.one_of(*[plausible(KEYS[key])] * 12, odd()))
        key = draw(st.one_of(*[st.just(key)] * 40, texts(max_size=12), st.just(key + ".x"), st.just(key[:-1])))
        out.append(draw(st.sampled_from([f"{key}={value}"] * 60 + [key, f"={value}", f"{key}==", value])))
    return out


@st.composite
def yaml_texts(draw: st.DrawFn) -> str:
    """Shipped configurations with parts cut out, repeated and replaced, or other texts."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.one_of(st.sampled_from(TEXTS), texts(max_size=100), odd()))
    text = draw(st.sampled_from(SHIPPED))
    for _ in range(draw(st.integers(0, 5))):
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 12))
        text = text[:at] + draw(st.one_of(st.just(""), odd())) + text[at + length :]
    return text


SHIPPED = [file.read_text() for file in sorted(CONFIGS.glob("*.yaml"))]
NAMES = [file.stem for file in sorted(CONFIGS.glob("*.yaml"))]
OPTIONS = {
    "resume": ["--checkpoint"], "eval": ["--episodes", "--seed", "--checkpoint", "--processes", "--max-steps",
             "--max-time"],
    "tsne": ["--episodes", "--seed", "--checkpoint", "--points", "--of", "--beside"],
    "watch": ["--every", "--once"],
    "units": ["--episodes", "--seed", "--most", "--of"], "video": ["--episodes", "--seed", "--fps", "--level"],
    "report": ["--out"],
}  # fmt: skip
"""Commands that take a run, and options of theirs with a value."""


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """Arguments of a command that starts nothing."""
    kind = draw(st.sampled_from(["override"] * 3 + ["check"] * 2 + ["file"] * 3 + ["run"] * 2 + ["words"]))
    start = draw(st.sampled_from(["train", "pbt"]))
    if kind == "override":
        return [start, draw(st.sampled_from(NAMES)), *draw(overrides()), "--print-config"]
    if kind == "check":
        return ["check", *draw(overrides())]
    if kind == "file":
        Path("fuzz.yaml").write_text(draw(yaml_texts()), encoding="utf-8", errors="surrogateescape")
        return [start, "fuzz.yaml", *draw(overrides()), "--print-config"]
    if kind == "words":
        return [start, draw(odd()), "--print-config"]
    name = draw(st.sampled_from(list(OPTIONS)))
    args = [name, draw(odd())]
    for _ in range(draw(st.integers(0, 3))):
        args += [
            draw(st.sampled_from(OPTIONS[name])),
            draw(st.one_of(odd(), st.integers(-(2**70), 2**70).map(str))),
        ]
    return args + draw(overrides())


def campaign(examples: int, first_seed: int = 1) -> Tally:
    """Try a number of random commands in an empty folder."""
    tally = Tally()

    @seed(first_seed)
    @settings(
        max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(commands())
    def attempt(args: list[str]) -> None:
        tally.add([arg.replace("\0", "") for arg in args])  # which no program can be given

    with tempfile.TemporaryDirectory() as folder, chdir(folder), patch.object(cli, "get_command", _command):
        for command in ("pbt", *OPTIONS):
            run([command, "nowhere"])  # imports what it needs
        attempt()
    return tally
