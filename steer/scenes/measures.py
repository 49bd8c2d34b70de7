"""How well objects are found: average precision, counts, and the adjusted Rand index of masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steer.errors import InputError

#: Thresholds of the average that is called average AP, and those of the papers' other one.
HIGH = tuple(0.5 + 0.05 * i for i in range(10))
ALL = tuple(0.1 * (i + 1) for i in range(9))


def average_precision(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    wanted: Sequence[Tensor],
    thresholds: Sequence[float] = HIGH,
) -> Tensor:
    """Average precision [T] of boxes [n, 4] with scores [n], against those wanted [m, 4], of
    several pictures: the area under precision over recall, where a box counts as right if its
    intersection over union with a wanted one that is not taken yet is a threshold or more.

    Boxes of all pictures take the best one left in the order of their scores; precision is made to
    fall, as in the PASCAL VOC since 2010. Coordinates are left, top, right, bottom. NaN where
    nothing is wanted. Raises InputError for lists that do not belong together, and boxes of NaN.

    >>> box = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    >>> average_precision([box], [torch.ones(1)], [box + 0.1], [0.4, 0.5])
    tensor([1., 0.])
    """
    from torchvision.ops import box_iou

    if len({len(boxes), len(scores), len(wanted)}) != 1:
        raise InputError(
            f"expected boxes, scores and boxes wanted of as many pictures, got {len(boxes)}, "
            f"{len(scores)} and {len(wanted)}."
        )
    for i, (b, s, w) in enumerate(zip(boxes, scores, wanted, strict=True)):
        if len(b) != len(s) or b.isnan().any() or w.isnan().any():
            raise InputError(
                f"expected a score for each box of picture {i} and no NaN in boxes, got {len(b)} "
                f"boxes and {len(s)} scores."
            )
    boxes, scores, wanted = ([each.cpu() for each in part] for part in (boxes, scores, wanted))
    overlaps = [box_iou(b, w) for b, w in zip(boxes, wanted, strict=True)]
    total = sum(map(len, wanted))
    if not total:
        return torch.full((len(thresholds),), math.nan)
    order = torch.cat(list(scores)).argsort(descending=True, stable=True)
    found = []
    for threshold in thresholds:
        right = torch.cat([_right(o, s, threshold) for o, s in zip(overlaps, scores, strict=True)])
        found.append(_area(right[order], total))
    return torch.tensor(found)


def _right(overlaps: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Which boxes [n] of a picture take a wanted one, by their overlaps [n, m]."""
    left = overlaps.clone()
    right = torch.zeros(len(left), dtype=torch.bool)
    for i in scores.argsort(descending=True, stable=True).tolist() if left.shape[1] else []:
        best, which = left[i].max(0)
        if best >= threshold:
            right[i] = True
            left[:, which] = -1
    return right


def _area(right: Tensor, total: int) -> float:
    """Area under falling precision over recall of boxes in order, right or not [n]."""
    hits = right.cumsum(0).double()
    precision = hits / torch.arange(1, len(right) + 1)
    falling = precision.flip(0).cummax(0).values.flip(0) if len(right) else precision
    return float((falling * right).sum() / total)


def count_errors(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """Share of pictures with a wrong count of objects (Plumerault 2023), and the mean absolute
    difference of counts (Zeng 2022), of counts [B] each.

    >>> count_errors(torch.tensor([1, 2, 5]), torch.tensor([1, 3, 3]))
    (0.6666666865348816, 1.0)
    """
    away = (found - wanted).abs().float()
    return float((away > 0).float().mean()), float(away.mean())


def foreground_rand(found: Tensor, wanted: Tensor) -> float:
    """Mean over pictures of the adjusted Rand index (Hubert and Arabie 1985, by scikit-learn) of
    labels [B, H, W], on the pixels whose wanted label is not 0, the background's.

    1 for the same division into objects, about 0 for one by chance; pictures without an object are
    left out, NaN where all are.

    >>> labels = torch.tensor([[[0, 1, 1, 2, 2]]])
    >>> foreground_rand(3 - labels, labels)
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    each = [
        adjusted_rand_score(truth[truth > 0].numpy(), labels[truth > 0].numpy())
        for labels, truth in zip(found.cpu(), wanted.cpu(), strict=True)
        if (truth > 0).any()
    ]
    return sum(each) / len(each) if each else math.nan
