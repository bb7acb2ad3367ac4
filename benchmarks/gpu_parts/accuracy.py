"""Part g: bfloat16, graphs and compilation against float32 eager updates."""

import traceback

import torch

from gpu_parts.part import Run
from gpu_parts.work import batch_sizes, config_of, device_batch, make_learner, memory_freed, overrides_of

BATCHES = 5
"""Different batches, which take turns."""


def agreement(run: Run) -> None:
    """Loss, gradient norm and weights of each variant beside the reference after the same updates."""
    updates = 4 if run.small else 50
    run.note(
        f"{updates} updates of B = {batch_sizes(run)[0]}, learning rate 3e-4, the same seeds and batches. *loss*, "
        "*gradient norm*: mean absolute difference over the mean absolute reference. *weights*: norm of the "
        "difference over the norm of the reference's change. The reference is float32 eager without TF32."
    )
    variants = {
        "float32 again": ("float32", False, False, False),
        "float32, TF32 allowed": ("float32", False, False, True),
        "bfloat16": ("bfloat16", False, False, True),
        "float32, graphs": ("float32", True, False, False),
        "bfloat16, graphs": ("bfloat16", True, False, True),
        "float32, compiled": ("float32", False, True, False),
        "bfloat16, graphs, compiled": ("bfloat16", True, True, True),
    }
    if run.small:
        variants = {name: variants[name] for name in ("bfloat16", "float32, compiled")}
    for torso in ("shallow",) if run.small else ("shallow", "deep"):
        reference = _losses(run, torso, updates, "float32", False, False, False)
        losses, norms, start, end = reference
        for name, variant in variants.items():
            if run.left() < 3:
                run.row("not reached in time", torso=torso, variant=name)
                continue
            try:
                with memory_freed(run):
                    other_losses, other_norms, _, other_end = _losses(run, torso, updates, *variant)
            except Exception:
                run.note(f"{torso}, {name} failed:\n```\n{traceback.format_exc()[-2500:]}\n```")
                continue
            run.row(
                "agreement", torso=torso, variant=name,
                **{"loss, relative": _relative(other_losses, losses)},
                **{"last loss, relative": _relative(other_losses[-1:], losses[-1:])},
                **{"gradient norm, relative": _relative(other_norms, norms)},
                **{"weights, relative to their change": float((other_end - end).norm() / (end - start).norm())},
            )  # fmt: skip


def _losses(
    run: Run, torso: str, updates: int, precision: str, graphs: bool, compiled: bool, tf32: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses and gradient norms of all updates, and the weights before and after them."""
    allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        overrides = [*overrides_of(torso, "mi_context", precision, graphs), "learner.learning_rate=3e-4"]
        learner = make_learner(run, config_of(run, batch_sizes(run)[0], overrides), compiled)
        batches = [device_batch(learner, seed) for seed in range(BATCHES)]
        start = _weights(learner.agent)
        metrics = [learner.update(batches[i % BATCHES]) for i in range(updates)]
        numbers = torch.tensor([[m["loss/total"], m["learner/grad_norm"]] for m in metrics], dtype=torch.float64)
        return numbers[:, 0], numbers[:, 1], start, _weights(learner.agent)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed


def _weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().double().cpu() for p in module.parameters()])


def _relative(values: torch.Tensor, reference: torch.Tensor) -> float:
    return float((values - reference).abs().mean() / reference.abs().mean())
