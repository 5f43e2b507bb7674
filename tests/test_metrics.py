"""Scores against hand-computed cases, published intervals, torch's loss and plain loops."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resnets.errors import UserError
from resnets.evaluation.metrics import NUM_BINS, MetricAccumulator, Scores, evaluate, wilson

ROUNDING = 1e-12  # sums of a few hundred float64 values in another order
PUBLISHED_DIGITS = 5e-5  # intervals printed with four digits


def score(logits: torch.Tensor, targets: torch.Tensor, classes: int, batch: int = 10**9) -> Scores:
    sums = MetricAccumulator([f"class {index}" for index in range(classes)])
    for images, true in zip(logits.split(batch), targets.split(batch), strict=True):
        sums.add(images, true)
    return sums.scores()


def random_case(num_images: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_images + num_classes)
    logits = 3 * torch.randn(num_images, num_classes, generator=generator)
    return logits, torch.randint(num_classes, (num_images,), generator=generator)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # The rows of 263, 148, 20 and 29 trials: Newcombe 1998, table I, method 3
        (8, 10, 0.4902, 0.9433),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_agrees_with_published_intervals(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=PUBLISHED_DIGITS)


def test_wilson_at_its_ends() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(UserError, match="3 successes in 2 trials"):
        wilson(3, 2)


def test_a_case_computed_by_hand() -> None:
    # True classes 0 0 0 1, predicted 0 0 1 1; class 2 neither occurs nor is predicted.
    # Each prediction has probabilities 1/2, 1/4, 1/4.
    winner = torch.tensor([0, 0, 1, 1])
    logits = math.log(2) * F.one_hot(winner, 3).double()
    scores = score(logits, torch.tensor([0, 0, 0, 1]), 3)
    assert scores.num_images == 4
    assert scores.top1 == 0.75
    assert scores.top1_interval == wilson(3, 4)
    assert scores.top5 is None
    assert scores.top5_interval is None
    assert scores.loss == pytest.approx((3 * math.log(2) + math.log(4)) / 4, abs=ROUNDING)
    assert scores.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2, abs=ROUNDING)
    assert scores.calibration_error == pytest.approx(0.25, abs=ROUNDING)
    assert scores.confusion == ((2, 1, 0), (0, 1, 0), (0, 0, 0))
    rows = [(row.precision, row.recall, row.num_images) for row in scores.per_class]
    assert rows == [(1.0, 2 / 3, 3), (0.5, 1.0, 1), (None, None, 0)]
    filled = [bin for bin in scores.reliability if bin.count]
    assert len(scores.reliability) == NUM_BINS
    assert len(filled) == 1
    assert scores.reliability.index(filled[0]) == 7  # 7/15 < 1/2 <= 8/15
    assert filled[0].confidence == pytest.approx(0.5, abs=ROUNDING)
    assert filled[0].accuracy == 0.75


def test_many_classes_have_all_scores_but_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = random_case(211, 7)
    whole = score(logits, targets, 7).to_dict()
    monkeypatch.setattr("resnets.evaluation.metrics.MAX_MATRIX", 6)
    scores = score(logits, targets, 7)
    assert scores.to_dict() == whole | {"confusion": None}
    assert Scores.from_dict(scores.to_dict()) == scores


def test_agrees_with_plain_loops_and_torch() -> None:
    logits, targets = random_case(211, 7)
    scores = score(logits, targets, 7)
    predicted = logits.argmax(1)
    assert scores.top1 == (predicted == targets).sum().item() / 211
    top5 = logits.topk(5).indices
    assert scores.top5 == sum(int(t in row) for t, row in zip(targets, top5, strict=True)) / 211
    assert scores.loss == pytest.approx(
        F.cross_entropy(logits.double(), targets).item(), abs=ROUNDING
    )
    confusion = np.zeros((7, 7), int)
    for true, guess in zip(targets.tolist(), predicted.tolist(), strict=True):
        confusion[true, guess] += 1
    assert np.array_equal(scores.confusion, confusion)
    confidence = logits.double().softmax(1).amax(1).numpy()
    right = (predicted == targets).numpy()
    error = 0.0
    for number in range(NUM_BINS):
        inside = (confidence > number / NUM_BINS) & (confidence <= (number + 1) / NUM_BINS)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert scores.calibration_error == pytest.approx(error, abs=ROUNDING)
    for index, row in enumerate(scores.per_class):
        assert row.recall == right[targets.numpy() == index].mean()
        assert row.precision == right[predicted.numpy() == index].mean()


def test_batches_and_order_do_not_matter() -> None:
    logits, targets = random_case(211, 7)
    whole = score(logits, targets, 7)
    order = torch.randperm(211, generator=torch.Generator().manual_seed(5))
    # What is counted rather than measured is equal exactly.
    measured = ("loss", "calibration_error", "reliability")
    counted = {key: value for key, value in whole.to_dict().items() if key not in measured}
    for batch in (1, 7, 64, 211):
        split = score(logits[order], targets[order], 7, batch)
        assert split.loss == pytest.approx(whole.loss, abs=ROUNDING), batch
        assert split.calibration_error == pytest.approx(whole.calibration_error, abs=ROUNDING)
        assert {key: split.to_dict()[key] for key in counted} == counted, batch


def test_top5_starts_with_six_classes() -> None:
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1]]).repeat(3, 1)
    scores = score(logits, torch.tensor([0, 4, 5]), 6)
    assert scores.top1 == 1 / 3
    assert scores.top5 == 2 / 3
    assert scores.top5_interval == wilson(2, 3)
    assert score(logits[:, :5], torch.tensor([0, 1, 4]), 5).top5 is None


def test_ties_go_to_the_lower_class() -> None:
    equal = torch.zeros(8, 8)
    scores = score(equal, torch.arange(8), 8)
    assert scores.top1 == 1 / 8
    assert scores.top5 == 5 / 8
    assert [sum(column) for column in zip(*scores.confusion, strict=True)] == [8, *[0] * 7]


def test_broken_logits_count_as_wrong() -> None:
    logits = torch.tensor([[1.0, 0], [math.nan, 0], [math.nan, math.nan], [math.inf, 0]])
    scores = score(logits, torch.tensor([0, 1, 0, 0]), 2)
    assert scores.num_images == 4
    assert scores.top1 == 0.25
    assert scores.balanced_accuracy == pytest.approx((1 / 3 + 0) / 2, abs=ROUNDING)
    assert math.isnan(scores.loss)
    assert scores.confusion == ((1, 0), (0, 0))
    assert sum(bin.count for bin in scores.reliability) == 1
    record = scores.to_dict()
    assert record["loss"] is None
    assert Scores.from_dict(json.loads(json.dumps(record, allow_nan=False))) == scores
    all_broken = score(logits[1:], torch.tensor([1, 0, 0]), 2).to_dict()
    assert all_broken["calibration_error"] is None
    assert all_broken["top1"] == 0


def test_a_class_that_is_ruled_out_is_no_fault() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    assert score(logits, torch.tensor([1]), 3).loss == pytest.approx(math.log(2), abs=ROUNDING)
    assert score(logits, torch.tensor([2]), 3).to_dict()["loss"] is None


@pytest.mark.parametrize("num_classes", [3, 7])
def test_json_and_back(num_classes: int) -> None:
    logits, targets = random_case(40, num_classes)
    scores = score(logits, targets, num_classes)
    record = scores.to_dict()
    wanted = {"top1", "top1_interval", "top5", "loss", "num_images", "per_class"}
    assert wanted <= record.keys()
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text) == record
    assert Scores.from_dict(json.loads(text)) == scores
    assert repr(Scores.from_dict(json.loads(text))) == repr(scores)
    assert scores != replace(scores, top1=scores.top1 / 2)


def test_a_record_that_lacks_a_field() -> None:
    record = score(*random_case(9, 3), 3).to_dict()
    del record["loss"]
    with pytest.raises(UserError, match="lacks loss"):
        Scores.from_dict(record)


def test_every_float_type_is_summed_in_float64() -> None:
    full, targets = random_case(50, 4)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        logits = full.to(dtype)
        expected = F.cross_entropy(logits.double(), targets).item()
        assert score(logits, targets, 4).loss == pytest.approx(expected, abs=ROUNDING), dtype


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e30, -1e30], [800.0, 0.0]])
    assert score(logits, torch.tensor([0, 1]), 2).loss == pytest.approx(400, abs=ROUNDING)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), r"\(N, 3\)"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), r"\(2, 3\) with targets"),
        (torch.zeros(2, 3), torch.zeros(2), "float32"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "0 to 2"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), "from -1"),
    ],
)
def test_what_does_not_fit_is_refused(
    logits: torch.Tensor, targets: torch.Tensor, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        MetricAccumulator(["a", "b", "c"]).add(logits, targets)


def test_nothing_to_score() -> None:
    sums = MetricAccumulator(["a", "b"])
    sums.add(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(UserError, match="no image"):
        sums.scores()
    with pytest.raises(UserError, match="at least one class"):
        MetricAccumulator([])
    scores = score(*random_case(9, 3), 3)
    with pytest.raises(UserError, match="do not fit"):
        replace(scores, per_class=scores.per_class[:2])


@dataclass(frozen=True)
class Batch:
    images: torch.Tensor
    targets: torch.Tensor


def test_a_network_is_scored_in_evaluation_mode_and_left_as_it_was() -> None:
    network = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Flatten())
    logits, targets = random_case(30, 4)
    pairs = zip(logits.view(30, 4, 1, 1).split(7), targets.split(7), strict=True)
    batches = [Batch(images, true) for images, true in pairs]
    seen: list[int] = []
    watched = evaluate(network, batches, "abcd", callback=lambda batch, out: seen.append(len(out)))
    assert watched == replace(
        score(logits, targets, 4, batch=7), classes=watched.classes, per_class=watched.per_class
    )
    assert watched.classes == ("a", "b", "c", "d")
    assert seen == [7, 7, 7, 7, 2]
    assert network.training
    with pytest.raises(UserError, match="since there are 5 classes"):
        evaluate(network, batches, "abcde")
    assert network.training
