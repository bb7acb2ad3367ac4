"""One model in training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from impala_mi.reproductions.batched import made
from impala_mi.reproductions.language_model.corpus import END, Corpus
from impala_mi.reproductions.language_model.model import Kind, LanguageModel, Sizes
from impala_mi.reproductions.study import Study
from impala_mi.types import CoreState


@dataclass(frozen=True)
class Plan:
    """How large and how long."""

    sizes: Sizes
    """Of `LSTM + MultEncDec`; the vocabulary is the corpus's."""
    equal: bool
    """Whether the others are as wide as makes their parameters as many, or else as wide."""
    seeds: int
    """Two at least: of one, no difference is sure."""
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
        study.restore(name, self.load)
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
