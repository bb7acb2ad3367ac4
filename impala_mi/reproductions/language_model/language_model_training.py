"""Training of one language model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from impala_mi.reproductions.language_model.corpus import END, Corpus
from impala_mi.reproductions.language_model.word_lstm import Kind, LanguageModel, LanguageModelSizes
from impala_mi.reproductions.network_stack import make_seeded
from impala_mi.reproductions.study import Study
from impala_mi.types import LSTMState


@dataclass(frozen=True)
class LanguageModelProtocol:
    """Models to train and for how long."""

    sizes: LanguageModelSizes
    """Sizes of `LSTM + MultEncDec`; the vocabulary is the corpus's."""
    equal: bool
    """Whether the other models get as many parameters; otherwise they get the same width."""
    seeds: int
    """Number of seeds, at least 2: with one, no difference is sure."""
    batch: int
    """Columns of text."""
    length: int
    """Words of a segment."""
    epochs: int
    """Largest number of epochs."""
    patience: int
    """Validations without a better one that end training."""
    checks: int = 4
    """Validations per epoch."""
    dropout: float = 0.3
    learning_rate: float = 0.001
    clip: float = 1.0


def columns(text: Int[Tensor, " N"], count: int, before: int) -> tuple[Int[Tensor, "L B"], Int[Tensor, "L B"]]:
    """A text as words to read and words to predict, in consecutive columns.

    The word before the first is `before`; padding of the last column has the target -1.
    """
    length = math.ceil(len(text) / count)
    padding = length * count - len(text)
    read = F.pad(F.pad(text[:-1], (1, 0), value=before), (0, padding))
    predict = F.pad(text, (0, padding), value=-1)
    return read.view(count, length).T.contiguous(), predict.view(count, length).T.contiguous()


class LanguageModelTraining:
    """One model in training; `state` holds everything needed to continue."""

    def __init__(
        self,
        kind: Kind,
        sizes: LanguageModelSizes,
        protocol: LanguageModelProtocol,
        corpus: Corpus,
        seed: int,
        device: torch.device,
    ) -> None:
        self.kind, self.protocol, self.corpus, self.device, self.seed = kind, protocol, corpus, device, seed
        self.model = make_seeded(seed, lambda: LanguageModel(kind, sizes)).to(device)
        self.learnt = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.learnt, protocol.learning_rate, fused=True)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.before = corpus.vocabulary.index(END)
        length = len(corpus.train) // protocol.batch * protocol.batch
        self.words, self.targets = (
            part.to(device) for part in columns(corpus.train[:length], protocol.batch, self.before)
        )
        self.core = self.model.initial_state(protocol.batch)
        self.at = 0
        """Row of the text that is read next."""
        self.valid: list[float] = []
        """Validation perplexities so far."""
        self.test = math.inf
        """Test perplexity at the best validation."""

    def state(self) -> dict[str, Any]:
        """Tensors, numbers, and containers of them."""
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "core": tuple(self.core),
            "generator": self.generator.get_state(), "at": self.at, "valid": self.valid, "test": self.test,
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.core = LSTMState(*(part.to(self.device) for part in state["core"]))
        self.generator.set_state(state["generator"])
        self.at, self.valid, self.test = state["at"], state["valid"], state["test"]

    def finish(self, study: Study, name: str, start: float, share: float) -> dict[str, Any]:
        """Train to the end, from the state of the interrupted part if there is one.

        Args:
            study: study whose part `name` is continued.
            name: name of the part.
            start: share of the study that is done before this part.
            share: share of the study that this part is.
        """
        study.restore(name, self.load)
        while not self.over:
            self.update()
            epoch = len(self.valid) // self.protocol.checks
            done = (epoch + self.at / len(self.words)) / self.protocol.epochs
            study.progress(start + share * done, f"{self.kind}, seed {self.seed}, epoch {epoch + (self.at > 0)}")
            study.save(name, self.state)
        return {"valid": self.valid, "test": self.test, "parameters": sum(p.numel() for p in self.learnt)}

    @property
    def over(self) -> bool:
        """Whether the epochs are done, or the last validations were no better."""
        best = self.valid.index(min(self.valid)) if self.valid else 0
        return len(self.valid) == self.protocol.epochs * self.protocol.checks or (
            len(self.valid) - 1 - best >= self.protocol.patience
        )

    def update(self) -> None:
        """Take one step of Adam on the next segment, and validate if due; the last validation ends the epoch."""
        rows = slice(self.at, self.at + self.protocol.length)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            z, self.core = self.model(self.words[rows], self.core, self._dropout)
            loss = self.model.loss(z, self.targets[rows].long())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learnt, self.protocol.clip)
        self.optimizer.step()
        self.at = min(rows.stop, len(self.words))
        checks = self.protocol.checks
        while self.at * checks >= (len(self.valid) % checks + 1) * len(self.words):
            self.validate()
            if len(self.valid) % checks == 0:
                self.at, self.core = 0, self.model.initial_state(self.protocol.batch)

    def _dropout(self, x: Tensor) -> Tensor:
        kept = 1 - self.protocol.dropout
        return x * torch.empty_like(x).bernoulli_(kept, generator=self.generator).div_(kept)

    def validate(self) -> None:
        """Read the validation text, and the test text if its perplexity is the best so far."""
        perplexity = self.perplexity(self.corpus.valid)
        if perplexity < min(self.valid, default=math.inf):
            self.test = self.perplexity(self.corpus.test)
        self.valid.append(perplexity)

    @torch.no_grad()
    def perplexity(self, text: Int[Tensor, " N"]) -> float:
        """Perplexity of a text in float32, infinite rather than NaN; each column starts from a state of zeros."""
        batch = min(self.protocol.batch, len(text))
        words, targets = (part.to(self.device) for part in columns(text, batch, self.before))
        state, total = self.model.initial_state(batch), torch.zeros((), dtype=torch.float64, device=self.device)
        length = self.protocol.length
        for word, target in zip(words.split(length), targets.split(length), strict=True):
            z, state = self.model(word, state)
            surprise = self.model.surprise(z, target.clamp(min=0).long())
            total += surprise.masked_fill_(target < 0, 0).sum(dtype=torch.float64)
        return float((total / len(text)).exp().nan_to_num(nan=math.inf, posinf=math.inf))
