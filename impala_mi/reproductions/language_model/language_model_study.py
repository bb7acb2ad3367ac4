"""The three models, trained from several seeds."""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from impala_mi.errors import UserError
from impala_mi.host.threads import keep_freed_memory
from impala_mi.nn.precision import compute_with
from impala_mi.reproductions.language_model.corpus import (
    REQUIRED_FILES,
    Corpus,
    corpus_files,
    python_documentation,
    read_corpus,
)
from impala_mi.reproductions.language_model.language_model_report import report_from_data
from impala_mi.reproductions.language_model.language_model_training import (
    LanguageModelProtocol,
    LanguageModelTraining,
)
from impala_mi.reproductions.language_model.word_lstm import (
    KINDS,
    Kind,
    LanguageModelSizes,
    match_parameters,
    model_parameters,
)
from impala_mi.reproductions.study import Study
from impala_mi.reproductions.study_report import StudyReport, as_stored

FULL = LanguageModelProtocol(
    LanguageModelSizes(0), equal=False, seeds=3, batch=64, length=128, epochs=30, patience=8
)
QUICK = LanguageModelProtocol(
    LanguageModelSizes(0, 64, 128, 8),
    equal=True, seeds=3, batch=16, length=32, epochs=3, patience=12, learning_rate=0.002,
)  # fmt: skip
"""Protocol of --quick; its learning rate is the best of 0.001, 0.002 and 0.004 for the LSTM after three epochs."""


def run_study(study: Study) -> StudyReport:
    """Train and test the three models. Raises `UserError` if the corpus is missing or cannot be used."""
    folder = study.settings["corpus"]
    if study.quick and folder is not None:
        raise UserError(f"--corpus {folder!r} with --quick, which brings its own corpus: leave out one of them")
    if not study.quick and folder is None:
        raise UserError(f"language-model needs --corpus FOLDER, or --quick: {REQUIRED_FILES}")
    if folder is not None:
        corpus_files(folder)
    keep_freed_memory()
    if study.quick:
        compute_with(1)  # more help little with products this small, and stall on a busy machine
        return train_models(study, python_documentation(), QUICK)
    return train_models(study, read_corpus(folder), FULL)


def train_models(study: Study, corpus: Corpus, protocol: LanguageModelProtocol) -> StudyReport:
    """Train all models, each in a part of the study. Raises `UserError` if the corpus has too few words."""
    if len(corpus.train) < protocol.batch:
        raise UserError(
            f"--corpus {study.settings.get('corpus')!r}: the training text has {len(corpus.train)} words including "
            f"line ends; at least {protocol.batch} are needed"
        )
    study.begin(**asdict(protocol), corpus_counts=corpus.counts)
    models = sizes_of(protocol, len(corpus.vocabulary), study.settings.get("softmax") == "adaptive")
    results: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    parts = [(kind, study.seed + number) for number in range(protocol.seeds) for kind in KINDS]

    def work(kind: Kind, seed: int, name: str, done: int) -> dict[str, Any]:
        training = LanguageModelTraining(kind, models[kind], protocol, corpus, seed, study.device)
        return training.finish(study, name, done / len(parts), 1 / len(parts))

    for done, (kind, seed) in enumerate(parts):
        name = f"{kind.replace(' + ', '-')}-{seed}".lower()
        results[kind].append(study.part(name, partial(work, kind, seed, name, done)))
    data = {
        "corpus": {"name": corpus.name, "counts": corpus.counts},
        "checks": protocol.checks,
        "models": {kind: {"sizes": asdict(models[kind]), "runs": results[kind]} for kind in KINDS},
    }
    return report_from_data(as_stored(data))


def sizes_of(protocol: LanguageModelProtocol, vocabulary: int, adaptive: bool) -> dict[Kind, LanguageModelSizes]:
    """Sizes of each model."""
    sizes = replace(protocol.sizes, vocabulary=vocabulary, adaptive=adaptive)
    target = model_parameters("LSTM + MultEncDec", sizes)
    return {kind: match_parameters(kind, sizes, target) if protocol.equal else sizes for kind in KINDS}
