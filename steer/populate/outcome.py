"""What came out of making a data set: a row for each picture, and the figures of all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from steer.disk import plain
from steer.distributions import Mixture
from steer.evaluation import ks_distance
from steer.knobs import Setting, Status
from steer.measures import properties
from steer.populate.recipe import Recipe

Array = NDArray[np.float64]


def packed(values: Tensor) -> Tensor:
    """Numbers of which some are NaN as artefacts may hold them, which hold no NaN: their bits."""
    return values.double().contiguous().view(torch.int64)


def unpacked(bits: Tensor) -> Tensor:
    """The numbers again."""
    return bits.view(torch.float64)


def rows_of(recipe: Recipe, tensors: dict[str, Tensor], first: int = 0) -> Iterator[dict[str, Any]]:
    """What `metadata.jsonl` says of each picture of the items from `first` on."""
    columns = {"measured_" + name: i for i, name in enumerate(recipe.measured)}
    measured = unpacked(tensors["measured"]).tolist()
    asked = unpacked(tensors["asked"]).tolist() if "asked" in tensors else None
    for row, values in enumerate(measured):
        item, step = divmod(row, len(recipe.steps))
        label, item = int(tensors["label"][item]), first + item
        said: dict[str, Any] = {"file_name": recipe.file(label, item, step), "item": item}
        said["sha256"] = bytes(tensors["sha256"][row].tolist()).hex()
        if recipe.along is not None:
            said["step"] = step
        if recipe.generator.condition is not None:
            said["class"] = recipe.generator.condition.name(label)
        if recipe.sources:
            said["source"] = recipe.sources[item]
        if asked is not None:
            said |= {f"asked_{n}": v for n, v in zip(recipe.asked, asked[row], strict=True)}
            said |= {name: values[i] for name, i in columns.items()}
            said["status"] = Status(int(tensors["status"][row])).message
            said["evaluations"] = int(tensors["evaluations"][row])
        yield plain(said)


def manifest_of(
    recipe: Recipe, rows: Sequence[dict[str, Any]], tensors: dict[str, Tensor], made: dict[str, Any]
) -> dict[str, Any]:
    """How the set was made, and what came out."""
    manifest = {
        "classes": Counter(row["file_name"].rpartition("/")[0] for row in rows),
        "items": recipe.n,
        "steps": len(recipe.steps),
        "made": made,
    }
    if "asked" not in tensors:
        return plain(manifest)
    names, measured = recipe.measured, unpacked(tensors["measured"])
    manifest["counts"] = Counter(row["status"] for row in rows)
    manifest["evaluations"] = tensors["evaluations"].double().mean()
    reached = tensors["status"] == Status.REACHED
    manifest["settings"] = {
        setting.name: _outcome(setting, asked, measured[:, names.index(setting.name)], reached)
        for setting, asked in zip(recipe.steps[0], unpacked(tensors["asked"]).T, strict=True)
        if setting.name in names
    }
    manifest["measure"] = recipe.finder
    manifest["dependence"] = {
        "before": _by_name(names, dependence(names, unpacked(tensors["before"]))),
        "after": _by_name(names, dependence(names, measured)),
    }
    return plain(manifest)


def _outcome(setting: Setting, asked: Tensor, measured: Tensor, reached: Tensor) -> dict[str, Any]:
    """How near measured values [n] came to those asked; of a wanted distribution also the
    Kolmogorov-Smirnov distance, of all items and of those that were reached."""
    # a periodic property is taken within half a period of what was asked
    near = asked + properties.get(setting.name).difference(measured, asked)
    said: dict[str, Any] = {
        "mode": setting.mode,
        "asked": _mean_and_std(asked),
        "measured": _mean_and_std(near),
    }
    if isinstance(setting.value, Mixture):
        said["ks"] = _ks(near, setting.value)
        said["ks_reached"] = _ks(near[reached], setting.value)
    return said


def _mean_and_std(values: Tensor) -> dict[str, float]:
    found = values[~values.isnan()]
    mean = found.mean()
    return {"mean": float(mean), "std": float((found - mean).square().mean().sqrt())}


def _ks(values: Tensor, wanted: Mixture) -> float:
    return ks_distance(values, wanted) if not values.isnan().all() else math.nan


def dependence(names: Sequence[str], values: Tensor) -> Array:
    """Spearman's rank correlation [k, k] of each two of the properties `names`, over the rows of
    values [n, k] that have both; NaN where there are fewer than 3 or one does not vary.

    A periodic property is cut open opposite its mean.

    >>> values = torch.tensor([[0.1, 5.0], [0.2, 3.0], [0.3, torch.nan], [0.4, 1.0]])
    >>> dependence(["translate-x", "zoom"], values).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    columns = [
        properties.get(name).opened(column).numpy()
        for name, column in zip(names, values.T, strict=True)
    ]
    return np.array([[_spearman(a, b) for b in columns] for a in columns])


def _by_name(names: Sequence[str], table: Array) -> dict[str, dict[str, float]]:
    return {
        name: dict(zip(names, row, strict=True)) for name, row in zip(names, table, strict=True)
    }


def _spearman(a: Array, b: Array) -> float:
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if len(a) < 3 or not np.ptp(a) or not np.ptp(b):
        return math.nan
    return float(spearmanr(a, b).statistic)
