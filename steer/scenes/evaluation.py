"""How well a scene model finds the objects of a set whose truth is known."""

from __future__ import annotations

import torch
from torch import Tensor

from steer.batches import in_batches
from steer.datasets import WithTruth
from steer.scenes.finding import Found
from steer.scenes.measures import (
    ALL,
    HIGH,
    average_precision,
    count_errors,
    foreground_rand,
)
from steer.scenes.stored import Finder


def evaluate(
    model: Finder, dataset: WithTruth, indices: Tensor, batch: int = 50
) -> dict[str, float]:
    """Average precision at an IoU of 0.5, its means over 0.5 to 0.95 and 0.1 to 0.9, the share of
    pictures with a wrong count and the mean difference of counts, the adjusted Rand index of the
    foreground, boxes that the object VAE was asked about, and the mean square error.

    >>> from steer.datasets.scenes import Scenes
    >>> from steer.scenes.model import SceneModel
    >>> found = evaluate(SceneModel(width=4).eval(), Scenes(), torch.arange(4))
    >>> list(found)[:3]
    ['AP 0.5', 'AP 0.5:0.95', 'AP 0.1:0.9']
    """
    device = next(model.parameters()).device

    def work(items: range) -> tuple[Found, float]:
        pictures = dataset.pictures(indices[items.start : items.stop])
        given = pictures.to(device)
        found = model.find(given)
        found = found.cpu()
        return found, (found.pictures - pictures).square().mean((1, 2, 3)).sum().item()

    parts = list(in_batches(work, len(indices), batch))
    truth = dataset.truth(indices)
    found = [
        (part.boxes[its], part.scores[its])
        for part, _ in parts
        for its in map(part.of, range(len(part.pictures)))
    ]
    wanted = [boxes[there] for boxes, there in zip(truth.boxes, truth.present, strict=True)]
    boxes, scores = (list(each) for each in zip(*found, strict=True))
    precise = average_precision(boxes, scores, wanted, HIGH)
    loose = average_precision(boxes, scores, wanted, ALL)
    counts = torch.cat([part.counts for part, _ in parts])
    wrong, away = count_errors(counts, truth.counts)
    return {
        "AP 0.5": precise[0].item(),
        "AP 0.5:0.95": precise.mean().item(),
        "AP 0.1:0.9": loose.mean().item(),
        "wrong counts": wrong,
        "count error": away,
        "ARI": foreground_rand(torch.cat([part.labels for part, _ in parts]), truth.labels),
        "looked at": torch.cat([part.looked_at for part, _ in parts]).float().mean().item(),
        "MSE": sum(error for _, error in parts) / len(indices),
    }
