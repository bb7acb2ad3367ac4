"""Vectors of recorded steps for TensorBoard's Embedding Projector."""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from impala_mi.analysis.clusters import principal_components
from impala_mi.analysis.recording import Recording, rgb
from impala_mi.analysis.tsne import KINDS

MAX_POINTS = 3000
"""Points: with more, the projector's page is slow and its sheet of thumbnails large."""
SIDE = 32
"""Pixels of a thumbnail's side."""


def write_projector(recording: Recording, kind: str, folder: Path, checkpoint: str, seed: int) -> None:
    """Write the principal components of one kind of vectors, with level, step, instruction and thumbnail.

    They go into their own folder, because TensorBoard shows one set and one file per folder.

    Args:
        recording: steps that were played.
        kind: kind of vectors.
        folder: folder that TensorBoard shows.
        checkpoint: name of the agent's checkpoint.
        seed: seed of the choice of points, and of PCA.
    """
    folder = folder / "tsne" / f"{checkpoint}-{kind}"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
    chosen = np.sort(np.random.default_rng(seed).permutation(len(recording.level))[:MAX_POINTS])
    words = [" ".join(str(recording.instruction[i]).split()) or "-" for i in chosen]
    metadata = [
        [recording.names[recording.level[i]], str(recording.time[i]), text]
        for i, text in zip(chosen, words, strict=True)
    ]
    with SummaryWriter(str(folder)) as board:
        board.add_embedding(
            principal_components(recording.vectors[kind], seed)[chosen],
            metadata=metadata,
            metadata_header=["level", "step", "instruction"],
            label_img=None if recording.frame is None else _thumbnails(recording.frame[chosen]),
            tag=KINDS[kind].replace(" ", "_"),
        )


def _thumbnails(frames: np.ndarray) -> torch.Tensor:
    """Pictures [N, 3, SIDE, SIDE] in [0, 1] of frames [N, h, w, c]."""
    pictures = torch.from_numpy(rgb(frames)).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
