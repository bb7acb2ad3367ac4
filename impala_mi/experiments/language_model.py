"""Table 1 and figure 5(b): an LSTM with multiplicative embeddings on words (paper, section 8 and appendix G).

The paper names the layers and their sizes, segments of 128 words, dropout of 0.3 and Adam at 0.001. Chosen here,
where it is silent:

- Which diagonal form the encoder has and where dropout is applied: see `lstm_lm`.
- Texts are read in `batch` columns, without gaps; the state is carried from segment to segment, not its gradient.
- The gradient's norm is clipped. The learning rate stays as it is.
- The validation text is read four times an epoch, training ends when `patience` times brought nothing, and the
  test's perplexity is that at the best of them. Every token is predicted once, the first after an <eos>.
  They too are read in columns, each from a state of zeros: a little worse than from end to end.
- On a GPU training computes in bfloat16 but for the softmax's logarithm, the loss and the multiplicative core;
  evaluation is in float32.

`--quick` reads Python's own documentation and has models of one size, narrower where the decoder has more
parameters, instead of LSTMs of one width: the paper's models with more parameters are the better ones anyway.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from impala_mi.errors import UserError
from impala_mi.experiments.batched import made
from impala_mi.experiments.corpus import END, NEEDED, WIKITEXT_103, Corpus, files, python_documentation, read
from impala_mi.experiments.findings import Cell, Findings, Table
from impala_mi.experiments.lstm_lm import KINDS, Kind, LanguageModel, Sizes, as_large, parameters
from impala_mi.experiments.study import Study
from impala_mi.machine import keep_freed_memory
from impala_mi.nn.multiplicative import Diagonal
from impala_mi.types import CoreState

PAPER: Mapping[Kind, tuple[float, float, str]] = {
    "LSTM": (34.7, 36.7, "88M"),
    "LSTM + MultDec": (31.7, 33.7, "105M"),
    "LSTM + MultEncDec": (28.9, 30.3, "110M"),
}
"""Table 1: perplexity of validation and test, parameters."""

CLAIM = (
    "multiplicative output embeddings boost a word-level LSTM, and multiplicative input embeddings increase the "
    "gain (table 1, test perplexity on WikiText-103: 36.7, 33.7, 30.3)."
)


@dataclass(frozen=True)
class Plan:
    """How large and how long."""

    sizes: Sizes
    """Of `LSTM + MultEncDec`; the vocabulary is the corpus's."""
    equal: bool
    """Whether the others are as wide as makes their parameters as many, or else as wide."""
    seeds: int
    batch: int
    """Columns."""
    length: int
    """Of a segment."""
    epochs: int
    """At most."""
    patience: int
    """Validations without a better one."""
    checks: int = 4
    """Validations in an epoch."""
    dropout: float = 0.3
    learning_rate: float = 0.001
    clip: float = 1.0


FULL = Plan(Sizes(0), equal=False, seeds=1, batch=64, length=128, epochs=30, patience=8)
QUICK = Plan(
    Sizes(0, 64, 128, 8), equal=True, seeds=3, batch=16, length=32, epochs=3, patience=12, learning_rate=0.002
)
"""The learning rate is the best of 0.001, 0.002 and 0.004 for the baseline after three epochs."""


def run(study: Study) -> Findings:
    """Train and test the three models. Raises `UserError` where the corpus is missing or cannot be used."""
    folder = study.settings["corpus"]
    check(study.quick, folder)
    keep_freed_memory()
    if study.quick:
        torch.set_num_threads(1)  # more gain little on products this small, and stall on a busy machine
        return learn(study, python_documentation(), QUICK)
    return learn(study, read(folder), FULL)


def check(quick: bool, folder: str | None) -> None:
    """Raise `UserError` where --quick and --corpus do not say which corpus to read, or its files are not there."""
    if quick and folder is not None:
        raise UserError(
            f"--corpus {folder!r} with --quick, which brings a corpus of its own: leave out one of them"
        )
    if not quick:
        if folder is None:
            raise UserError(f"language-model needs --corpus FOLDER, or --quick: {NEEDED}")
        files(folder)


def learn(study: Study, corpus: Corpus, plan: Plan) -> Findings:
    """All models, a part of the study each. Raises `UserError` where the corpus has too few words."""
    if len(corpus.train) < plan.batch:
        raise UserError(
            f"{corpus.name!r}: {len(corpus.train)} words of training text, {plan.batch} at least are needed"
        )
    study.begin(**asdict(plan), corpus_counts=corpus.counts)
    models = sizes_of(plan, len(corpus.vocabulary), study.settings.get("softmax") == "adaptive")
    found: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    parts = [(kind, study.seed + number) for number in range(plan.seeds) for kind in KINDS]
    for done, (kind, seed) in enumerate(parts):
        name = f"{kind.replace(' + ', '-')}-{seed}".lower()

        def work(kind: Kind = kind, seed: int = seed, name: str = name, done: int = done) -> dict[str, Any]:
            training = Training(kind, models[kind], plan, corpus, seed, study.device)
            return training.finish(study, name, done / len(parts), 1 / len(parts))

        found[kind].append(study.part(name, work))
    return conclude(corpus, plan, models, found)


def sizes_of(plan: Plan, vocabulary: int, adaptive: bool) -> dict[Kind, Sizes]:
    """Of each model."""
    sizes = replace(plan.sizes, vocabulary=vocabulary, adaptive=adaptive)
    wanted = parameters("LSTM + MultEncDec", sizes)
    return {kind: as_large(kind, sizes, wanted) if plan.equal else sizes for kind in KINDS}


def columns(text: Int[Tensor, " N"], count: int, before: int) -> tuple[Int[Tensor, "L B"], Int[Tensor, "L B"]]:
    """A text as words to read and words to predict, in columns one after another.

    The word before the first is `before`; where the last column is shorter, -1 is to be predicted.
    """
    length = math.ceil(len(text) / count)
    padding = length * count - len(text)
    read = F.pad(F.pad(text[:-1], (1, 0), value=before), (0, padding))
    predict = F.pad(text, (0, padding), value=-1)
    return read.view(count, length).T.contiguous(), predict.view(count, length).T.contiguous()


class Training:
    """One model in training. `state` has all that it goes on from."""

    def __init__(
        self, kind: Kind, sizes: Sizes, plan: Plan, corpus: Corpus, seed: int, device: torch.device
    ) -> None:
        self.kind, self.plan, self.corpus, self.device, self.seed = kind, plan, corpus, device, seed
        self.model = made(seed, lambda: LanguageModel(kind, sizes)).to(device)
        self.learnt = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.learnt, plan.learning_rate, fused=True)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.before = corpus.vocabulary.index(END)
        whole = len(corpus.train) // plan.batch * plan.batch
        self.words, self.targets = (
            part.to(device) for part in columns(corpus.train[:whole], plan.batch, self.before)
        )
        self.core = self.model.start(plan.batch)
        self.at = 0
        """Row of the text that is read next."""
        self.valid: list[float] = []
        """Perplexities so far."""
        self.test = math.inf
        """At the best of them."""

    def state(self) -> dict[str, Any]:
        """Tensors, numbers, and containers of them."""
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "core": tuple(self.core),
            "generator": self.generator.get_state(), "at": self.at, "valid": self.valid, "test": self.test,
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.core = CoreState(*(part.to(self.device) for part in state["core"]))
        self.generator.set_state(state["generator"])
        self.at, self.valid, self.test = state["at"], state["valid"], state["test"]

    def finish(self, study: Study, name: str, begun: float, share: float) -> dict[str, Any]:
        """Train to the end, from where the part was interrupted; `share` of the study's progress from `begun`."""
        saved = study.saved(name)
        if saved is not None:
            self.load(saved)
        while not self.over:
            self.update()
            epoch = len(self.valid) // self.plan.checks
            done = (epoch + self.at / len(self.words)) / self.plan.epochs
            study.progress(begun + share * done, f"{self.kind}, seed {self.seed}, epoch {epoch + (self.at > 0)}")
            study.save(name, self.state)
        return {"valid": self.valid, "test": self.test, "parameters": sum(p.numel() for p in self.learnt)}

    @property
    def over(self) -> bool:
        """Whether the epochs are done, or the last validations brought nothing."""
        best = self.valid.index(min(self.valid)) if self.valid else 0
        return len(self.valid) == self.plan.epochs * self.plan.checks or (
            len(self.valid) - 1 - best >= self.plan.patience
        )

    def update(self) -> None:
        """One step of Adam on the next segment, and the validation that is due; an epoch's last is at its end."""
        rows = slice(self.at, self.at + self.plan.length)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            z, self.core = self.model(self.words[rows], self.core, self._dropout)
            loss = self.model.loss(z, self.targets[rows].long())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learnt, self.plan.clip)
        self.optimizer.step()
        self.at = min(rows.stop, len(self.words))
        while self.at * self.plan.checks >= (len(self.valid) % self.plan.checks + 1) * len(self.words):
            self.validate()
            if len(self.valid) % self.plan.checks == 0:
                self.at, self.core = 0, self.model.start(self.plan.batch)

    def _dropout(self, x: Tensor) -> Tensor:
        kept = 1 - self.plan.dropout
        return x * torch.empty_like(x).bernoulli_(kept, generator=self.generator).div_(kept)

    def validate(self) -> None:
        """Read the validation text and, if it was never better predicted, the test's."""
        perplexity = self.perplexity(self.corpus.valid)
        if perplexity < min(self.valid, default=math.inf):
            self.test = self.perplexity(self.corpus.test)
        self.valid.append(perplexity)

    @torch.no_grad()
    def perplexity(self, text: Int[Tensor, " N"]) -> float:
        """Of a text, in float32; the state is carried through, from zeros in each column. Infinite, never NaN."""
        batch = min(self.plan.batch, len(text))
        words, targets = (part.to(self.device) for part in columns(text, batch, self.before))
        state, total = self.model.start(batch), torch.zeros((), dtype=torch.float64, device=self.device)
        for word, target in zip(words.split(self.plan.length), targets.split(self.plan.length), strict=True):
            z, state = self.model(word, state)
            surprise = self.model.surprise(z, target.clamp(min=0).long())
            total += surprise.masked_fill_(target < 0, 0).sum(dtype=torch.float64)
        return float((total / len(text)).exp().nan_to_num(nan=math.inf, posinf=math.inf))


CONFIDENCE = 1 - 0.05 / 3
"""Of the interval of each of three comparisons, so that all hold together with 95 % (Bonferroni)."""


@dataclass(frozen=True)
class Change:
    """Of one model's test perplexity against another's, in percent."""

    mean: float
    interval: tuple[float, float] | None
    """Welch's, over seeds, of the logarithm, at `CONFIDENCE`; None for one seed."""

    @property
    def better(self) -> bool:
        """Whether it is surely lower; what diverged decides nothing, and neither does one seed."""
        return self.interval is not None and self.interval[1] < 0

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.mean:+.1f} %"
        return f"{self.mean:+.1f} % ({self.interval[0]:+.1f} to {self.interval[1]:+.1f})"


def change(of: Sequence[float], against: Sequence[float]) -> Change:
    """Of perplexities, one a seed; not in pairs, as seeds of different models have nothing in common."""
    one, other = np.log(of), np.log(against)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return Change(math.nan, (math.nan, math.nan))
    interval = None
    if len(one) > 1:
        low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval(CONFIDENCE)
        interval = (100 * math.expm1(low), 100 * math.expm1(high))
    return Change(100 * math.expm1(one.mean() - other.mean()), interval)


def verdict(corpus: Corpus, found: Mapping[Kind, Sequence[Mapping[str, Any]]]) -> str:
    """Held: MultDec below the LSTM, and MultEncDec below MultDec, each with its whole interval.

    In part: one of these, or MultEncDec below the LSTM. One seed decides nothing.
    """
    tests = {kind: [one["test"] for one in found[kind]] for kind in KINDS}
    lstm, decoder, both = KINDS
    changes = {
        "MultDec against the LSTM": change(tests[decoder], tests[lstm]),
        "MultEncDec against MultDec": change(tests[both], tests[decoder]),
        "MultEncDec against the LSTM": change(tests[both], tests[lstm]),
    }
    better, seeds = [one.better for one in changes.values()], len(tests[lstm])
    word = "held" if all(better[:2]) else "held in part" if any(better) else "was not shown"
    if seeds == 1:
        below = [one.mean < 0 for one in changes.values()][:2]
        word = "was not decided, by one run each which " + (
            "point the same way" if all(below) else "do not all point the same way"
        )
    other = "" if corpus.is_wikitext_103 else ", which is not WikiText-103"
    return (
        f"{word} on {corpus.name}{other}. Test perplexity "
        + ", ".join(f"{kind} {mean_and_deviation(tests[kind])}" for kind in KINDS)
        + "; "
        + ", ".join(f"{name} {one}" for name, one in changes.items())
        + (
            f"; means and deviations over {seeds} seeds, intervals together of 95 %."
            if seeds > 1
            else "; one run each."
        )
    )


def mean_and_deviation(values: Sequence[float]) -> str:
    """In a table."""
    if not np.isfinite(values).all():
        return "diverged"
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def conclude(
    corpus: Corpus, plan: Plan, models: Mapping[Kind, Sizes], found: Mapping[Kind, Sequence[Mapping[str, Any]]]
) -> Findings:
    """What was found, from the parts of each model."""
    rows: list[list[Cell]] = []
    for kind in KINDS:
        best = [min(one["valid"]) for one in found[kind]]
        tests = [one["test"] for one in found[kind]]
        rows.append(
            [
                kind, models[kind].hidden, found[kind][0]["parameters"], mean_and_deviation(best),
                mean_and_deviation(tests), *map(str, PAPER[kind]),
            ]
        )  # fmt: skip
    header = [
        "model",
        "LSTM width",
        "parameters",
        "valid",
        "test",
        "paper: valid",
        "paper: test",
        "paper: parameters",
    ]
    softmax = ", adaptive softmax" if models["LSTM"].adaptive else ""
    return Findings(
        CLAIM,
        verdict(corpus, found),
        [
            Table(f"Perplexity on {corpus.name}{softmax}; the paper's on WikiText-103", header, rows),
            full_size(),
            Table(
                "Corpus: tokens with <eos>, and words",
                ["", *WIKITEXT_103],
                [[corpus.name, *corpus.counts.values()], ["WikiText-103", *WIKITEXT_103.values()]],
            ),
        ],
        {"perplexity": figure(corpus, plan.checks, found)},
        {kind: {"sizes": vars(models[kind]), "runs": list(found[kind])} for kind in KINDS},
    )


def full_size() -> Table:
    """Parameters of the models with the paper's sizes and WikiText-103's words."""
    sizes = Sizes(WIKITEXT_103["vocabulary"])
    counts: list[tuple[str, int, str]] = [(kind, parameters(kind, sizes), PAPER[kind][2]) for kind in KINDS]
    with torch.device("meta"):
        narrow = sum(p.numel() for p in Diagonal(sizes.embedding, sizes.hidden).parameters())
    counts.append(("the encoder as wide as z, not used: see lstm_lm.py", counts[1][1] + narrow, counts[2][2]))
    return Table(
        "Parameters at the paper's size",
        ["model", "parameters", "paper", "difference"],
        [[name, count, paper, f"{count / float(paper[:-1]) / 1e4 - 100:+.1f} %"] for name, count, paper in counts],
    )


def figure(corpus: Corpus, checks: int, found: Mapping[Kind, Sequence[Mapping[str, Any]]]) -> Figure:
    """Validation perplexity by epoch, `checks` times in each, and against the LSTM's: means, ranges over seeds."""
    drawn = Figure(figsize=(10, 4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    length = min(len(one["valid"]) for ones in found.values() for one in ones)
    epochs = np.arange(1, length + 1) / checks
    baseline = np.mean([one["valid"][:length] for one in found["LSTM"]], 0)
    for kind in KINDS:
        curves = np.array([one["valid"][:length] for one in found[kind]])
        for axes, values in ((left, curves), (right, 100 * (curves / baseline - 1))):
            (line,) = axes.plot(epochs, values.mean(0), marker="o", markersize=3, label=kind)
            axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    left.set(ylabel="validation perplexity", yscale="log")
    right.set(ylabel="against the LSTM's mean (%)")
    for axes in (left, right):
        axes.set(xlabel=f"epochs of {corpus.counts['train']:,} tokens", title=corpus.name)
        axes.grid(alpha=0.3, which="both")
    left.yaxis.set_minor_formatter("{x:.0f}")
    left.yaxis.set_major_formatter("{x:.0f}")
    left.legend()
    return drawn
