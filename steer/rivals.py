"""Other ways to find the direction of a factor, for the same measures and reports.

None of them follows transforms code by code: `walk` learns one straight step for all codes,
`pca` and `closed-form` name no factor, so that a measure chooses among what they give, and
`group-means` is told by a measure which codes show more of it, or by a person (`fit_groups`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from steer.batches import affordable
from steer.calibration import ALPHAS, calibrated, choose_measure, measured_at
from steer.closed_loop import Plant, place
from steer.directions import Direction
from steer.errors import InputError
from steer.files import how_made
from steer.generators.base import Generator
from steer.generators.spaces import Mapped
from steer.generators.style import EqualLinear
from steer.measures import properties
from steer.optimise import Adam
from steer.registry import Registry
from steer.regression import Pairs, fit_g
from steer.trajectories import Follow
from steer.transforms import transforms

Array = NDArray[np.float64]
Report = Callable[[int], None]
#: Layers that a code goes into.
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, EqualLinear)
#: Fewer codes tell of no property, and make no group.
LEAST = 8
#: Parts of groups, each of which is judged by the direction of the others.
FOLDS = 4
#: What a direction may be called: it stands before "=" on a command line, and in file names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Task:
    """What a method is given: codes [n, width] of the prior, what is measured on their pictures
    [n] as in `Seen`, the transform, and how many steps and codes a search may take."""

    generator: Generator
    codes: Tensor
    measured: Array
    how: Follow
    seed: int = 0
    steps: int = 300
    batch: int = 16


#: Name to a function of a task that gives candidates [k, d], rows of any length.
methods: Registry[Callable[[Task], Array]] = Registry("method", "steer.methods")


@methods.register("closed-form")
def closed_form(task: Task) -> Array:
    """Eigenvectors of A^T A, for the first layer's weights A on the code, the largest first (Shen
    and Zhou 2021, equation 4); in w, of the weights of every layer's modulation."""
    weights = first_weights(task.generator)
    _, _, directions = np.linalg.svd(weights, full_matrices=False)
    return directions


@methods.register("pca")
def pca(task: Task) -> Array:
    """Principal components of what the first layer makes of codes, regressed back to codes; in w,
    of w itself (Haerkoenen et al. 2020)."""
    generator = task.generator
    z = task.codes[:, : generator.latent.dim].double().numpy()
    if isinstance(generator, Mapped):
        seen = z @ generator.get_buffer("root").double().cpu().numpy()
    else:
        seen = z @ first_weights(generator).T
    left, _, _ = np.linalg.svd(seen - seen.mean(0), full_matrices=False)
    return left[:, : generator.latent.dim].T @ (z - z.mean(0))


@methods.register("group-means")
def group_means(task: Task) -> Array:
    """Mean of the codes with the most of the property less that of those with the least, a
    quarter of them each (Zeng 2022, equations 4.2 and 4.3, whose groups were labelled)."""
    z = task.codes[:, : task.generator.latent.dim].double().numpy()
    found = ~np.isnan(task.measured)
    order = np.argsort(task.measured[found])
    quarter = max(1, len(order) // 4)
    most, least = z[found][order[-quarter:]], z[found][order[:quarter]]
    return (most.mean(0) - least.mean(0))[None]


@methods.register("walk")
def walk(task: Task) -> Array:
    """w such that G(z + t w) shows the transform T_t of G(z), for all z and t at once, t in shares
    of the transform's range (Jahanian et al. 2020, equation 2), by Adam."""
    generator, how = task.generator, task.how
    dim = generator.latent.dim
    loss, warp = how.search.loss_for(generator), how.warp
    w = torch.zeros(1, dim, device=generator.device)
    solver = Adam(0.05, 0.005)
    state = solver.init(w)
    batch = affordable(generator, task.batch)
    random = torch.Generator().manual_seed(task.seed)
    for step in range(task.steps):
        items = torch.randint(len(task.codes), (batch,), generator=random)
        codes = task.codes[items].to(generator.device)
        t = (2 * torch.rand(batch, 1, generator=random) - 1).to(codes) * how.reach
        with torch.no_grad():
            target, defined = warp(generator(codes), t[:, 0])
        w = w.detach().requires_grad_()
        moved = torch.cat([codes[:, :dim] + t / how.reach * w, codes[:, dim:]], dim=1)
        (gradient,) = torch.autograd.grad(loss(generator(moved), target, defined).mean(), w)
        w, state = solver.step(w.detach(), gradient, state, step, task.steps)
    return w.double().cpu().numpy()


@torch.no_grad()
def first_weights(generator: Generator) -> Array:
    """The weights [rows, d] that codes meet first; in w those of every modulation, in codes of w.

    Raises InputError for a generator whose first layer does not take the code alone.
    """
    if isinstance(generator, Mapped):
        if generator.space != "w":
            raise InputError("expected the space z or w for the weights of a first layer, got w+.")
        state = generator.base.state_dict()
        affine = torch.cat([w for name, w in state.items() if name.endswith("affine.weight")])
        return (affine @ generator.get_buffer("root")).double().cpu().numpy()
    met: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: met.append(module))
        for module in generator.modules()
        if isinstance(module, LAYERS)
    ]
    try:
        generator(generator.sample(1).to(generator.device))
    finally:
        for hook in hooks:
            hook.remove()
    dim = generator.latent.dim
    weight: Tensor = met[0].weight if met else torch.empty(0, 0)  # type: ignore[assignment]
    # kernels of transposed convolutions have the code's side first
    inputs = 0 if met and isinstance(met[0], nn.ConvTranspose2d) else 1
    rows = weight.movedim(inputs, -1).flatten(0, -2)
    if rows.shape[-1] < dim:
        raise InputError(
            f"expected a first layer that takes the {dim} numbers of a code of {generator.name}, "
            f"found one of {rows.shape[-1]}."
        )
    return rows[:, :dim].double().cpu().numpy()


# --- from candidates to a calibrated direction ---


@dataclass(frozen=True)
class Seen:
    """Codes [n, width] of the prior, and what `plant` measures of one property on their pictures
    [n] (NaN: not found; a periodic one is `opened`): the same for every method."""

    plant: Plant
    codes: Tensor
    values: Array


def look(
    generator: Generator,
    name: str,
    *,
    find: str | None = None,
    samples: int = 256,
    seed: int = 0,
    batch: int = 64,
) -> Seen:
    """Measures a property on codes of the prior.

    Raises InputError for one that is not measurable, or found in fewer than `LEAST` pictures.
    """
    if name not in properties or name not in transforms:
        raise InputError(
            f"expected a property with a measure and a transform of its own, got {name}."
        )
    plant = Plant(generator, [name], find or choose_measure(generator), batch)
    codes = generator.sample(samples, seed)
    values = properties.get(name).opened(plant(codes)[:, 0]).numpy()
    found = int(np.isfinite(values).sum())
    if found < LEAST:
        raise InputError(
            f"expected {name} in {LEAST} or more of {samples} pictures by "
            f"{plant.measure.find.name}, found it in {found}."
        )
    return Seen(plant, codes, values)


def fit_by(
    generator: Generator,
    method: str,
    how: Follow,
    *,
    find: str | None = None,
    samples: int = 256,
    seed: int = 0,
    batch: int = 64,
    report: Report = lambda done: None,
) -> Direction:
    """The direction of a measurable property by a method of `methods`, calibrated by a measure.

    Of several candidates the one is taken whose coordinates correlate most with the measured
    property over `samples` codes; its sign makes the property rise. g is fitted to what is measured
    where codes are placed along it, and judged on a quarter of them that was left out: its
    `held_out_r2` is one of measured values, not of trajectories.

    Raises InputError for a property that cannot be measured, or is found in too few pictures.

    >>> from steer.generators import load
    >>> found = fit_by(load(device="cpu"), "group-means", Follow("brightness"), samples=32)
    >>> found.name, len(found.u)
    ('brightness', 10)
    """
    methods.get(method)
    seen = look(generator, how.transform, find=find, samples=samples, seed=seed, batch=batch)
    return fit_seen(seen, method, how, seed, report)


def fit_seen(
    seen: Seen, method: str, how: Follow, seed: int = 0, report: Report = lambda done: None
) -> Direction:
    """`fit_by`, where the codes have been measured already."""
    task = Task(seen.plant.generator, seen.codes, seen.values, how, seed)
    candidates = methods.get(method)(task)
    if not np.isfinite(candidates).all() or not candidates.any():
        raise InputError(
            f"expected a direction of {how.transform} by {method}, what it found is none."
        )
    return _along(seen, chosen(candidates, task), seed, report, method=method)


def _along(seen: Seen, u: Array, seed: int, report: Report, **options: Any) -> Direction:
    """u [d] with g fitted to what is measured along it, and the measured response."""
    generator, name = seen.plant.generator, seen.plant.measure.names[0]
    std = generator.latent.std_along(u)
    direction = Direction(name, transforms.get(name).unit, u, np.ones(100), std=std)
    at = measured_at(seen.plant, seen.codes, direction, ALPHAS, report)
    direction = replace(direction, **fit_g(_pairs(seen, direction, at), u, std, seed=seed))
    direction.generator = generator.identity()
    direction.made = how_made(
        "fit-direction", seed=seed, samples=len(seen.codes), transform=name, **options
    )
    return calibrated(direction, seen.plant, at)


def chosen(candidates: Array, task: Task) -> Array:
    """The unit vector [d] among rows [k, d] along which the property rises most surely."""
    found = ~np.isnan(task.measured)
    dim = task.generator.latent.dim
    z, measured = task.codes[found, :dim].double().numpy(), task.measured[found]
    units = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    coordinates = z @ units.T
    centred = coordinates - coordinates.mean(0)
    length = np.linalg.norm(centred, axis=0) * np.linalg.norm(measured - measured.mean())
    correlation = centred.T @ (measured - measured.mean()) / np.maximum(length, 1e-12)
    best = int(np.abs(correlation).argmax())
    return units[best] * (1.0 if correlation[best] >= 0 else -1.0)


def _pairs(seen: Seen, direction: Direction, at: Array) -> Pairs:
    """Codes placed along the direction, with the change of what is measured `at` [A, n] ALPHAS."""
    dim, codes = len(direction.u), seen.codes
    zero = np.broadcast_to(at[int(np.abs(ALPHAS).argmin())], at.shape).copy()
    prop = seen.plant.measure.properties[0]
    change = prop.difference(torch.from_numpy(at), torch.from_numpy(zero)).numpy()
    middle = place(codes, [direction], np.zeros((len(codes), 1)))[:, :dim].double().numpy()
    moved = np.stack([middle + a * direction.std * direction.u for a in ALPHAS])
    used = np.isfinite(change) & (ALPHAS != 0)[:, None]
    items = np.broadcast_to(np.arange(len(codes)), change.shape)[used]
    return Pairs(middle[items], moved[used], change[used], np.zeros(len(items)), items)


# --- groups that somebody has made ---


def fit_groups(
    generator: Generator,
    more: Tensor,
    less: Tensor,
    name: str,
    *,
    find: str | None = None,
    samples: int = 256,
    seed: int = 0,
    batch: int = 64,
    source: Sequence[str] | None = None,
    report: Report = lambda done: None,
) -> Direction:
    """The direction from the mean of codes `less` [m, width] to that of `more` [n, width], groups
    that a person or a classifier has made (Zeng 2022, equations 4.2 and 4.3).

    Of a measurable property it is calibrated as by `fit_by`; its sign stays that of the groups, and
    `steer.calibration.falls` says where the property falls along it. Of any other name g(s) is s: t
    counts standard deviations of the prior, and nothing is measured. The quality's `held_out_auc`
    is the share of pairs that the coordinate puts in order, each of `FOLDS` parts of the groups
    judged by the direction of the others, and `held_out_auc_error` its standard error by chance:
    of groups that differ in nothing 5 % to 7 % come to two of it above a half. `source` is what the
    direction records of where the groups came from.

    Raises InputError for groups of fewer than `LEAST` codes or with one mean, and for a name that
    no file can have, or of a transform or a property that is not measurable on its own.

    >>> from steer.generators import load
    >>> sprites = load(device="cpu")
    >>> codes = sprites.sample(64)
    >>> odd = codes[:, 3] > 0
    >>> found = fit_groups(sprites, codes[odd], codes[~odd], "odd")
    >>> found.unit, int(abs(found.u).argmax()), found.quality["held_out_auc"] > 0.8
    ('std', 3, True)
    """
    groups = [_group(codes, generator) for codes in (more, less)]
    u = _between(*groups)
    auc, error = _told_apart(groups, seed)
    quality = {
        "held_out_auc": auc,
        "held_out_auc_error": error,
        "more": float(len(more)),
        "less": float(len(less)),
    }
    if name in properties and name in transforms:
        seen = look(generator, name, find=find, samples=samples, seed=seed, batch=batch)
        direction = _along(seen, u, seed, report, method="group-means", groups=source)
        direction.quality |= quality
        return direction
    require_new_name(name)
    std = generator.latent.std_along(u)
    low, high = np.quantile(np.concatenate(groups) @ u / std, [0.01, 0.99])
    made = how_made("fit-direction", seed=seed, name=name, method="group-means", groups=source)
    return Direction(
        name, "std", u, np.ones(100), (float(low), float(high)), quality,
        generator=generator.identity(), std=std, made=made,
    )  # fmt: skip


def _group(codes: Tensor, generator: Generator) -> Array:
    """z [n, d] of a group's codes."""
    if codes.dim() != 2 or codes.shape[1] != generator.width or len(codes) < LEAST:
        raise InputError(
            f"expected {LEAST} or more codes [n, {generator.width}] of {generator.name} in each "
            f"group, got {list(codes.shape)}."
        )
    return codes[:, : generator.latent.dim].double().cpu().numpy()


def _between(more: Array, less: Array) -> Array:
    """The unit vector [d] from the mean of one group to that of the other."""
    apart = more.mean(0) - less.mean(0)
    if not apart.any():
        raise InputError("expected groups whose means differ, they are the same.")
    return apart / np.linalg.norm(apart)


def _told_apart(groups: Sequence[Array], seed: int) -> tuple[float, float]:
    """The share of pairs of left-out codes, one of each group, that are in order along the
    direction of the other codes, every code left out once; and its standard error where groups do
    not differ: that of the Mann-Whitney statistic, as if folds were independent."""
    random = np.random.default_rng(seed)
    folds = [np.array_split(random.permutation(len(group)), FOLDS) for group in groups]
    in_order, pairs, variance = 0.0, 0, 0.0
    for left_out in zip(*folds, strict=True):
        both = list(zip(groups, left_out, strict=True))
        u = _between(*(np.delete(group, items, axis=0) for group, items in both))
        more, less = (group[items] @ u for group, items in both)
        in_order += float(mannwhitneyu(more, less).statistic)
        pairs += len(more) * len(less)
        variance += len(more) * len(less) * (len(more) + len(less) + 1) / 12
    return in_order / pairs, math.sqrt(variance) / pairs


def require_new_name(name: str) -> None:
    """InputError for a name that cannot be a direction's own."""
    if name in properties or name in transforms:
        raise InputError(
            f"expected a property with a measure and a transform of its own, or a new name for "
            f"what no measure knows, got {name}."
        )
    if not NAME.fullmatch(name):
        raise InputError(f"expected a name of letters, digits, - and _ (at most 40), got {name!r}.")
