"""Vectors of recorded steps for TensorBoard's Embedding Projector."""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from impala_mi.analysis.clusters import reduce
from impala_mi.analysis.recording import Recording, rgb
from impala_mi.analysis.tsne import WHAT

MOST = 3000
"""Points: the projector's page and its sheet of thumbnails get slow and large beyond."""
SIDE = 32
"""Pixels of a thumbnail."""


def project(recording: Recording, kind: str, folder: Path, checkpoint: str, seed: int) -> None:
    """Write the principal components of one kind of vectors, with level, step, instruction and thumbnail.

    Into a folder of their own: TensorBoard keeps one set a folder, and follows one file a folder.

    Args:
        recording: what was played.
        kind: of vectors.
        folder: that TensorBoard looks at.
        checkpoint: whose agent played.
        seed: of the choice of points, and of PCA.
    """
    folder = folder / "tsne" / f"{checkpoint}-{kind}"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
    n = len(recording.level)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:MOST])
    metadata = [
        [
            recording.names[recording.level[i]],
            str(recording.time[i]),
            " ".join(str(recording.instruction[i]).split()) or "-",
        ]
        for i in chosen
    ]
    with SummaryWriter(str(folder)) as board:
        board.add_embedding(
            reduce(recording.vectors[kind], seed)[chosen],
            metadata=metadata,
            metadata_header=["level", "step", "instruction"],
            label_img=None if recording.frame is None else _thumbnails(recording.frame[chosen]),
            tag=WHAT[kind].replace(" ", "_"),
        )


def _thumbnails(frames: np.ndarray) -> torch.Tensor:
    """[N, 3, SIDE, SIDE] in [0, 1] of [N, h, w, c]."""
    pictures = torch.from_numpy(rgb(frames)).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
