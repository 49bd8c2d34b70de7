"""Other ways to find the direction of a factor, for the same measures and reports.

None of them follows transforms code by code: `walk` learns one straight step for all codes,
`pca` and `closed-form` name no factor, so that a measure chooses among what they give, and
`group-means` is told by a measure which codes show more of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steer.batches import affordable
from steer.calibration import ALPHAS, calibrate, choose_measure, measured_at
from steer.closed_loop import Plant, place
from steer.directions import Direction
from steer.errors import InputError
from steer.evaluation import evaluate, root_mean_square
from steer.files import how_made
from steer.fitting import fit_direction
from steer.generators.base import Generator
from steer.generators.spaces import Mapped
from steer.generators.style import EqualLinear
from steer.knobs import Status
from steer.measures import properties
from steer.optimise import Adam
from steer.registry import Registry
from steer.regression import Pairs, fit_g
from steer.trajectories import Follow

Array = NDArray[np.float64]
#: Layers that a code goes into.
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, EqualLinear)


@dataclass(frozen=True)
class Task:
    """What a method is given: codes [n, width] of the prior, what is measured on their pictures
    [n] (NaN: no object), the transform, and how many steps and codes a search may take."""

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
    """Mean of the codes with the most of the property less that of those with the least: a
    quarter of them each (equations 4.2 and 4.3 of the thesis)."""
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


def fit_by(
    generator: Generator,
    method: str,
    how: Follow,
    *,
    find: str | None = None,
    samples: int = 256,
    seed: int = 0,
    batch: int = 64,
) -> Direction:
    """The direction of a measurable property by a method of `methods`, calibrated by a measure.

    Of several candidates the one is taken whose coordinates correlate most with the measured
    property over `samples` codes; its sign makes the property rise. g is fitted to what is measured
    where codes are placed along it, and judged on a quarter of them that was left out.

    Raises InputError for a property that cannot be measured, or is found in too few pictures.

    >>> from steer.generators import load
    >>> found = fit_by(load(device="cpu"), "group-means", Follow("brightness"), samples=32)
    >>> found.name, len(found.u)
    ('brightness', 10)
    """
    candidates_of, name = methods.get(method), how.transform
    if name not in properties:
        raise InputError(f"expected a measurable property for the method {method}, got {name}.")
    find = find or choose_measure(generator)
    plant = Plant(generator, [name], find, batch)
    codes = generator.sample(samples, seed)
    measured = plant(codes)[:, 0].numpy()
    if np.isfinite(measured).sum() < 8:
        raise InputError(
            f"expected {name} in 8 or more of {samples} pictures by {find}, found it in "
            f"{int(np.isfinite(measured).sum())}."
        )
    task = Task(generator, codes, measured, how, seed)
    candidates = candidates_of(task)
    if not np.isfinite(candidates).all() or not candidates.any():
        raise InputError(f"expected a direction of {name} by {method}, what it found is none.")
    u = chosen(candidates, task)
    std = generator.latent.std_along(u)
    direction = Direction(name, how.warp.unit, u, np.ones(100), std=std)
    pairs = _placed(plant, codes, direction)
    fitted = replace(direction, **fit_g(pairs, u, std, seed=seed))
    fitted.generator = generator.identity()
    fitted = calibrate(generator, fitted, find, samples=samples, seed=seed, batch=batch)
    fitted.made = how_made(
        "fit-direction", seed=seed, method=method, samples=samples, transform=name
    )
    return fitted


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


def _placed(plant: Plant, codes: Tensor, direction: Direction) -> Pairs:
    """Codes placed along the direction, with the change of what is measured."""
    dim = plant.generator.latent.dim
    at = measured_at(plant, codes, direction, ALPHAS)
    zero = np.broadcast_to(at[int(np.abs(ALPHAS).argmin())], at.shape).copy()
    prop = plant.measure.properties[0]
    change = prop.difference(torch.from_numpy(at), torch.from_numpy(zero)).numpy()
    middle = place(codes, [direction], np.zeros((len(codes), 1)))[:, :dim].double().numpy()
    moved = np.stack([middle + a * direction.std * direction.u for a in ALPHAS])
    used = np.isfinite(change) & (ALPHAS != 0)[:, None]
    items = np.broadcast_to(np.arange(len(codes)), change.shape)[used]
    return Pairs(middle[items], moved[used], change[used], np.zeros(len(items)), items)


# --- all of them on the same codes ---


@dataclass(frozen=True)
class Compared:
    """A method's direction and how it does.

    `r2` is that of g on held-out codes, `open` and `closed` the root mean square of the measured
    value less the one asked for (closed: where it was reached, a share `reached` of the items),
    `std` that of the measured value at one coordinate, `leakage` the mean move of the other
    properties for a move by one standard deviation, in theirs; `evaluations` are pictures made to
    find it.
    """

    direction: Direction
    method: str
    r2: float
    open: float
    closed: float
    reached: float
    std: float
    leakage: float
    seconds: float
    evaluations: int

    @property
    def row(self) -> dict[str, float | str]:
        """All but the direction, by name."""
        return {name: value for name, value in vars(self).items() if name != "direction"}


def compare(
    generator: Generator,
    method: str,
    transform: str,
    *,
    starts: int = 64,
    samples: int = 256,
    judged_on: int = 64,
    find: str | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Compared:
    """The direction of a transform by `trajectory` or one of `methods`, judged on `judged_on` codes
    that it was not found with.

    Raises InputError for a property that is not measurable, and what finding it raises.
    """
    drawn = 0

    def count(module: nn.Module, arguments: tuple, pictures: Tensor) -> None:
        nonlocal drawn
        drawn += len(pictures)

    if transform not in properties:
        raise InputError(f"expected a measurable property to compare, got {transform}.")
    options: dict[str, Any] = {"find": find, "samples": samples, "seed": seed, "batch": batch}
    hook, start = generator.register_forward_hook(count), time.perf_counter()
    try:
        if method == "trajectory":
            direction = fit_direction(generator, transform, starts=starts, **options)
        else:
            direction = fit_by(generator, method, Follow(transform), **options)
    finally:
        hook.remove()
    seconds = time.perf_counter() - start
    judged = evaluate(generator, [direction], samples=judged_on, seed=seed + 1, batch=batch)
    measured = judged.measured[0]
    if measured is None:
        raise InputError(f"expected {transform} to be found at coordinate 0, it never is.")
    errors: dict[str, list[Array]] = {"open": [], "closed": []}
    for one in measured.accuracy:
        counts = one.loop == "open" or one.status == Status.REACHED
        errors[one.loop].append(one.error[np.broadcast_to(counts, one.error.shape)])
    closed = [one for one in measured.accuracy if one.loop == "closed"]
    others = np.delete(judged.relative[0], judged.names.index(transform))
    return Compared(
        direction,
        method,
        r2=direction.quality["held_out_r2"],
        open=root_mean_square(np.concatenate(errors["open"])),
        closed=root_mean_square(np.concatenate(errors["closed"])),
        reached=float(np.mean([one.share(Status.REACHED) for one in closed])),
        std=float(np.nanmean(measured.response[:, 1])),
        leakage=float(np.nanmean(others)),
        seconds=seconds,
        evaluations=drawn,
    )
