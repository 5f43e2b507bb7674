"""Find likely wrong labels by confident learning (arXiv 1911.00068) with two judges.

The first judge, a kernel on image patches, answers for each image without its label. From these
answers follows how many labels are wrong: right labels are rare among the classes that an image
resembles least, wrong ones are not. The second, a small network, is trained on all labels for a
time too short to learn wrong ones by heart, and its answers during training are averaged
(arXiv 2001.10528). Both together decide which labels are the most doubtful; as many are listed as
are estimated to be wrong. N C H W K: images, channels, height, width, classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resnets.audit.patch_kernel import held_out_scores
from resnets.data.workers import usable_cpus
from resnets.device import restore_num_threads
from resnets.models.layers import Whitening
from resnets.models.registry import create_model
from resnets.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from resnets.training.recipe import Recipe

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

NETWORK = "resnet8_fast_half"
# SGD: the steps of Muon cost more than those of so small a network.
RECIPE = Recipe().override(optimizer="sgd", momentum=0.9, weight_decay=5e-4, warmup=0.2)
# Images of a batch, fewer for few images, and the learning rate of this many.
BATCH_SIZE, LEAST_BATCH, LEARNING_RATE = 100, 16, 0.3
# Images that the network sees, within these numbers of epochs.
NUM_SEEN, LEAST_EPOCHS, MOST_EPOCHS = 50_000, 4, 30
# Share of the training before the answers count.
SETTLING = 0.2
# Least images, in all and of a class, from which the answers mean anything.
FEW_IMAGES, FEW_OF_A_CLASS = 60, 6
# Share of the images, those that resemble a class least, whose labels are taken for wrong ones.
UNLIKE = 0.2
# Pixels by which images are shifted in training, and their side in its first half.
SHIFT, SMALL_SIDE = 2, 24
# Keeps logarithms and quotients finite.
TINY = 1e-30


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """Likely wrong labels, the most doubtful first.

    Args:
        rows: Indices of the images, M.
        suggested: The class that the judges answer instead, M.
        share: Estimated share of wrong labels among all images.
        accuracy: Share of the labels that are predicted without having been seen.
    """

    rows: Indices
    suggested: Indices
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
        groups: Images of one group are copies, none of which is judged by the label of another, N.
        device: Where to train.
        progress: Called with a line of text before each part of the work.

    Returns:
        The issues, or None where there are too few images to tell.
    """
    classes, targets, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(images) < FEW_IMAGES or len(classes) < 2 or counts.min() < FEW_OF_A_CLASS:
        return None
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)  # N S S 3 -> N 3 S S
    answers = torch.from_numpy(targets).to(device)
    with _reproducible():
        progress("looking for wrong labels: comparing patches")
        scores = held_out_scores(pixels, answers, groups).double().cpu().numpy()
        progress("looking for wrong labels: training a network")
        logits = _train(pixels, answers).double().cpu().numpy()
    share = share_of_wrong_labels(probabilities_of(scores, targets), targets)
    together = scores / (scores.std() + TINY) + logits / (logits.std() + TINY)
    judged = probabilities_of(together, targets)
    rows = _most_doubtful(judged, targets)[: round(share * len(targets))]
    return LabelIssues(
        rows=rows,
        suggested=classes[judged[rows].argmax(1)],
        share=share,
        accuracy=float((scores.argmax(1) == targets).mean()),
    )


def _most_doubtful(probabilities: Floats, labels: Indices) -> Indices:
    """Return the images with another answer than their label, the least likely label first."""
    from cleanlab.filter import find_label_issues

    found = find_label_issues(
        labels,
        probabilities,
        filter_by="predicted_neq_given",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return np.asarray(found, np.int64)


def probabilities_of(scores: Floats, labels: Indices) -> Floats:
    """Turn scores into probabilities of the true classes, N K.

    The temperature is fitted together with a share of labels that are drawn from the other classes.

    Args:
        scores: Larger for likelier classes, N K.
        labels: The labels as given, N.
    """
    best = -np.inf
    others = scores.shape[1] - 1
    result = np.full(scores.shape, 1 / (others + 1))
    for temperature in (scores.std() + TINY) * np.geomspace(0.1, 3, 32):
        scaled = scores / temperature
        scaled -= scaled.max(1, keepdims=True)
        probabilities = np.exp(scaled)
        probabilities /= probabilities.sum(1, keepdims=True)
        own = probabilities[np.arange(len(labels)), labels]
        for share in np.geomspace(0.001, 0.5, 32):
            likelihood = float(np.log((1 - share) * own + share * (1 - own) / others + TINY).mean())
            if likelihood > best:
                best, result = likelihood, probabilities
    return result


def share_of_wrong_labels(probabilities: Floats, labels: Indices) -> float:
    """Estimate the share of wrong labels.

    Images that carry a class by mistake resemble it no more than the images of other classes do: a
    share UNLIKE of them is among the UNLIKE that resemble it least. Few of those that carry it
    rightly are. The number of both, divided by UNLIKE, is therefore little more than that of the
    wrong labels.

    Args:
        probabilities: Of the classes, from answers that do not know the image's own label, N K.
        labels: The labels as given, N.
    """
    unlike = 0
    for label in range(probabilities.shape[1]):
        carries = labels == label
        threshold = np.quantile(probabilities[~carries, label], UNLIKE)
        unlike += int((probabilities[carries, label] <= threshold).sum())
    return min(unlike / (UNLIKE * len(labels)), 1.0)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Draw from a seed of our own, and leave the caller's generators and threads as they are."""
    with torch.random.fork_rng(), restore_num_threads():
        torch.set_num_threads(usable_cpus())
        yield


def _train(images: Tensor, targets: Tensor) -> Tensor:
    """Train a small network for a short time; return its mean logits for each image, N K.

    Progressive sizes save half of the time.
    """
    images = images.to(torch.float32, memory_format=torch.channels_last)
    images -= images.mean((0, 2, 3), keepdim=True)
    images /= images.std((0, 2, 3), keepdim=True).clamp(min=1)
    num_classes = int(targets.max()) + 1
    torch.manual_seed(0)
    model = create_model(NETWORK, num_classes=num_classes, in_channels=images.shape[1])
    if isinstance(model.conv1, Whitening):
        model.conv1.fit(images[torch.randperm(len(images))[:2000]].cpu())
    model.to(device=images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch_size = min(max(len(images) // 16, LEAST_BATCH), BATCH_SIZE)
    epochs = min(max(NUM_SEEN // len(images), LEAST_EPOCHS), MOST_EPOCHS)
    steps = epochs * (len(images) // batch_size)
    rate = LEARNING_RATE * batch_size / BATCH_SIZE
    recipe = RECIPE.override(batch_size=batch_size, steps=steps, learning_rate=rate)
    optimizer = make_optimizer(model, recipe)
    model.train()
    order = torch.randperm(0)
    total = torch.zeros(len(images), num_classes, device=images.device)
    times = torch.zeros(len(images), 1, device=images.device)
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(len(images)).to(images.device)
        batch, order = order[:batch_size], order[batch_size:]
        shown = _shift_and_flip(images[batch])
        if 2 * step < steps:
            shown = F.interpolate(shown, size=SMALL_SIDE, mode="bilinear", antialias=True)
        with _autocast(images.device):
            logits = model(shown)
        if step >= SETTLING * steps:
            total[batch] += logits.detach().float()
            times[batch] += 1
        loss = F.cross_entropy(logits.float(), targets[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(optimizer, learning_rate(recipe, step))
        optimizer.step()
    return total / times.clamp(min=1)


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
