"""Find likely wrong labels by confident learning on out-of-fold probabilities (arXiv 1911.00068).

A small network is trained on all folds of the images but one, and answers for that one, so that no
answer comes from a network that has seen its label. cleanlab proposes labels that disagree. How
many of them to believe follows from the answers: temperature and share of wrong labels are fitted
together, and the most doubtful labels are listed as long as most of them are expected to be wrong.
N C H W K: images, channels, height, width, classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from resnets.data.workers import usable_cpus
from resnets.device import restore_num_threads
from resnets.models.layers import Whitening
from resnets.models.registry import create_model
from resnets.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from resnets.training.recipe import Recipe

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

NETWORK = "resnet8_fast_half"
FOLDS = 3
# SGD: the steps of Muon cost more than those of so small a network.
RECIPE = Recipe().override(optimizer="sgd", momentum=0.9, weight_decay=5e-4, warmup=0.2)
# Images of a batch, fewer for few images, and the learning rate of this many.
BATCH_SIZE, LEAST_BATCH, LEARNING_RATE = 100, 16, 0.3
# Images that the networks of all folds see together, within these numbers of epochs.
NUM_SEEN, LEAST_EPOCHS, MOST_EPOCHS = 120_000, 3, 30
# Least images, in all and of a class, from which the answers mean anything.
FEW_IMAGES, FEW_OF_A_CLASS = 60, 6
# Share of the listed labels that should be wrong, by the fitted model.
PRECISION = 0.5
# Pixels by which images are shifted in training, and their side in its first half.
SHIFT, SMALL_SIDE = 2, 24


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """Likely wrong labels, the most doubtful first.

    Args:
        rows: Indices of the images, M.
        suggested: The class that the networks answer instead, M.
        wrong: Probability that the label is wrong, M.
        share: Fitted share of wrong labels among all images.
        accuracy: Share of the labels that the networks predict out of fold.
    """

    rows: Indices
    suggested: Indices
    wrong: Floats
    share: float
    accuracy: float


def find_wrong_labels(
    images: NDArray[np.uint8],
    labels: Indices,
    groups: Indices,
    *,
    device: torch.device,
    progress: Callable[[str], None],
) -> LabelIssues | None:
    """Find likely wrong labels.

    Args:
        images: uint8 N S S 3.
        labels: Classes, N, each index below the largest one in use.
        groups: Images of one group are copies, which share a fold, N.
        device: Where to train.
        progress: Called with a line of text before each fold.

    Returns:
        The issues, or None where there are too few images to tell.
    """
    classes, targets, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(images) < FEW_IMAGES or len(classes) < 2 or counts.min() < FEW_OF_A_CLASS:
        return None
    logits = out_of_fold_logits(images, targets, groups, device=device, progress=progress)
    probabilities, wrong, share = fit_noise(logits, targets)
    rows = _issues(probabilities, targets, wrong)
    answers = probabilities.argmax(1)
    return LabelIssues(
        rows=rows,
        suggested=classes[answers[rows]],
        wrong=wrong[rows],
        share=share,
        accuracy=float((answers == targets).mean()),
    )


def _issues(probabilities: Floats, labels: Indices, wrong: Floats) -> Indices:
    """Return the issues that cleanlab finds and that are expected to be right, in their order."""
    from cleanlab.filter import find_label_issues

    proposed = find_label_issues(
        labels,
        probabilities,
        filter_by="low_self_confidence",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    candidates = np.asarray(proposed, np.int64)
    candidates = candidates[probabilities[candidates].argmax(1) != labels[candidates]]
    candidates = candidates[np.argsort(-wrong[candidates], kind="stable")]
    expected = np.cumsum(wrong[candidates]) / np.arange(1, len(candidates) + 1)
    kept: Indices = candidates[: int((expected >= PRECISION).sum())]
    return kept


def fit_noise(logits: Floats, labels: Indices) -> tuple[Floats, Floats, float]:
    """Fit the temperature and the share of wrong labels, drawn evenly from the other classes.

    Args:
        logits: Out-of-fold answers, N K.
        labels: The labels as given, N.

    Returns:
        Probabilities of the true classes N K; the probability that each label is wrong, N; and the
        share of wrong labels.
    """
    best = -np.inf
    others = logits.shape[1] - 1
    result = None
    for temperature in np.geomspace(0.3, 3, 24):
        scaled = logits / temperature
        scaled -= scaled.max(1, keepdims=True)
        probabilities = np.exp(scaled)
        probabilities /= probabilities.sum(1, keepdims=True)
        own = probabilities[np.arange(len(labels)), labels]
        for share in np.geomspace(0.001, 0.5, 32):
            right, mistaken = (1 - share) * own, share * (1 - own) / others
            likelihood = float(np.log(right + mistaken + 1e-30).mean())
            if likelihood > best:
                best = likelihood
                wrong = mistaken / (right + mistaken + 1e-30)
                result = probabilities, wrong, float(share)
    assert result is not None
    return result


def out_of_fold_logits(
    images: NDArray[np.uint8],
    targets: Indices,
    groups: Indices,
    *,
    device: torch.device,
    progress: Callable[[str], None],
) -> Floats:
    """Return for each image the logits of a network that was trained without it, N K."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # N S S 3 -> N 3 S S
    pixels -= pixels.mean((0, 2, 3), keepdim=True)
    pixels /= pixels.std((0, 2, 3), keepdim=True).clamp(min=1)
    pixels = pixels.to(device, memory_format=torch.channels_last)
    answers = torch.from_numpy(targets).to(device)
    num_classes = int(targets.max()) + 1
    fold_of = torch.from_numpy(_folds(targets, groups)).to(device)
    logits = torch.zeros(len(images), num_classes, device=device)
    with _reproducible():
        for fold in range(FOLDS):
            progress(f"looking for wrong labels: fold {fold + 1} of {FOLDS}")
            model = _train(pixels[fold_of != fold], answers[fold_of != fold], num_classes, fold)
            held_out = (fold_of == fold).nonzero().flatten()
            logits[held_out] = _answer(model, pixels, held_out)
    return logits.double().cpu().numpy()


def _folds(targets: Indices, groups: Indices) -> Indices:
    """Return the fold of each image, N: each class is spread evenly, each group in one fold."""
    _, first = np.unique(groups, return_index=True)
    draws = np.random.PCG64(0).random_raw(len(first))
    order = np.lexsort((draws, targets[first]))
    fold_of_group = np.empty(len(first), np.int64)
    fold_of_group[order] = np.arange(len(first)) % FOLDS
    return fold_of_group[np.unique(groups, return_inverse=True)[1]]


@contextmanager
def _reproducible() -> Iterator[None]:
    """Draw from a seed of our own, and leave the caller's generators and threads as they are."""
    with torch.random.fork_rng(), restore_num_threads():
        torch.set_num_threads(usable_cpus())
        yield


def _train(images: Tensor, targets: Tensor, num_classes: int, seed: int) -> nn.Module:
    """Train a small network for a short time; progressive sizes save half of the time."""
    torch.manual_seed(seed)
    model = create_model(NETWORK, num_classes=num_classes, in_channels=images.shape[1])
    if isinstance(model.conv1, Whitening):
        model.conv1.fit(images[torch.randperm(len(images))[:2000]].cpu())
    model.to(device=images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch_size = min(max(len(images) // 16, LEAST_BATCH), BATCH_SIZE)
    epochs = min(max(NUM_SEEN // (FOLDS * len(images)), LEAST_EPOCHS), MOST_EPOCHS)
    steps = epochs * (len(images) // batch_size)
    rate = LEARNING_RATE * batch_size / BATCH_SIZE
    recipe = RECIPE.override(batch_size=batch_size, steps=steps, learning_rate=rate)
    optimizer = make_optimizer(model, recipe)
    model.train()
    order = torch.randperm(0)
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(len(images)).to(images.device)
        batch, order = order[:batch_size], order[batch_size:]
        shown = _shift_and_flip(images[batch])
        if 2 * step < steps:
            shown = F.interpolate(shown, size=SMALL_SIDE, mode="bilinear", antialias=True)
        with _autocast(images.device):
            logits = model(shown)
        loss = F.cross_entropy(logits.float(), targets[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(optimizer, learning_rate(recipe, step))
        optimizer.step()
    return model.eval()


@torch.no_grad()
def _answer(model: nn.Module, images: Tensor, indices: Tensor) -> Tensor:
    """Return the mean logits of some images and their mirror images, M K."""
    answers = []
    with _autocast(images.device):
        for chunk in indices.split(500):
            shown = images[chunk]
            answers.append((model(shown).float() + model(shown.flip(3)).float()) / 2)
    return torch.cat(answers)


def _shift_and_flip(images: Tensor) -> Tensor:
    """Shift a batch by up to SHIFT pixels, and mirror half of it."""
    side = images.shape[-1]
    top, left = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
    padded = F.pad(images, [SHIFT] * 4, mode="reflect")
    shifted = padded[:, :, top : top + side, left : left + side]
    mirrored = (torch.rand(len(images)) < 0.5).to(images.device).view(-1, 1, 1, 1)
    return torch.where(mirrored, shifted.flip(3), shifted)


def _autocast(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where the processor has it: twice as fast."""
    native = device.type == "cuda" or any(
        getattr(torch.cpu, name, bool)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=native)
