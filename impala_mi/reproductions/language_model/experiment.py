"""The three models, from several seeds."""

from dataclasses import asdict, replace
from typing import Any

import torch

from impala_mi.errors import UserError
from impala_mi.host.threads import keep_freed_memory
from impala_mi.reproductions.findings import Findings
from impala_mi.reproductions.language_model.comparison import conclude
from impala_mi.reproductions.language_model.corpus import NEEDED, Corpus, files, python_documentation, read
from impala_mi.reproductions.language_model.model import KINDS, Kind, Sizes, as_large, parameters
from impala_mi.reproductions.language_model.training import Plan, Training
from impala_mi.reproductions.study import Study

FULL = Plan(Sizes(0), equal=False, seeds=3, batch=64, length=128, epochs=30, patience=8)
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
            f"--corpus {study.settings.get('corpus')!r}: {len(corpus.train)} words of training text, line ends "
            f"included; {plan.batch} at least are needed"
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
