"""u and g of a factor from trajectories (equation 9 of Plumerault et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls
from scipy.sparse import csr_matrix

from steer.directions import KNOTS, Direction
from steer.errors import InputError
from steer.generators.base import LatentSpace
from steer.trajectories import Trajectories

#: Slopes of g stay above this share of the slope of a straight-line fit.
LEAST_SLOPE = 0.02
#: Strengths to choose from of the pull of u to the mean displacement, as shares of the mean
#: eigenvalue, and the folds of the starts that the choice is made on.
PULLS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
FOLDS = 4
#: Errors this share apart count as equal: a pull that is not needed bends u.
INDIFFERENT = 0.1
#: Fewer starts are not fitted: a quarter of them is held out.
LEAST_STARTS = 4
Array = NDArray[np.float64]
#: Slopes of the pieces to values at the knots, 0 at the first.
_SUM = np.tril(np.ones((len(KNOTS), len(KNOTS) - 1)), -1) * (KNOTS[1] - KNOTS[0])


@dataclass
class Pairs:
    """What is known of a factor: differences. z_0 [m, d], z [m, d], shift [m], error [m] and the
    start [m] that each pair belongs to."""

    z_0: Array
    z: Array
    shift: Array
    error: Array
    start: NDArray[np.int64]

    @classmethod
    def of(cls, trajectories: Trajectories, dim: int | None = None) -> Pairs:
        """The first `dim` numbers (all by default) of every code of every trajectory, with those
        of its start; equal codes are one start. Numbers that never move count as 0: what is held
        (other parts of the code) has no part in u."""
        s, p, width = trajectories.z.shape
        d = width if dim is None else dim
        _, first, which = np.unique(
            trajectories.z_0.numpy(), axis=0, return_index=True, return_inverse=True
        )
        z_0 = trajectories.z_0[:, None, :d].expand(s, p, d).reshape(-1, d).double().numpy()
        z = trajectories.z[..., :d].reshape(-1, d).double().numpy()
        moves = (z != z_0).any(axis=0)
        return cls(
            z_0=z_0 * moves,
            z=z * moves,
            shift=trajectories.shift.reshape(-1).double().numpy(),
            error=trajectories.error.reshape(-1).double().numpy(),
            start=first[which.reshape(-1)].repeat(p),
        )

    def __getitem__(self, chosen: Any) -> Pairs:
        return Pairs(*(value[chosen] for value in vars(self).values()))

    def __len__(self) -> int:
        return len(self.shift)

    def pruned(self, worst: float = 0.1, threshold: float | None = None) -> Pairs:
        """Without the share `worst` of largest errors, or without errors above `threshold`.

        Codes whose error is not finite (their search diverged) are dropped in any case.
        """
        known = self[np.isfinite(self.error)]
        if threshold is None and len(known):
            threshold = float(np.quantile(known.error, 1 - worst))
        return known[known.error <= (threshold or 0.0)]


def fit(
    name: str,
    unit: str,
    pairs: Pairs,
    *,
    worst: float = 0.1,
    threshold: float | None = None,
    smoothness: float = 1.0,
    held_out: float = 0.25,
    seed: int = 0,
    space: LatentSpace | None = None,
) -> Direction:
    """u and g that explain the shifts of `pairs` (equation 9).

    The quality is measured on a share `held_out` of the starts by a fit on the others, after
    pruning and before it (`unpruned`); the direction returned is fitted on all of them. `space`
    tells the standard deviation of coordinates under the prior; without it, that is 1.

    Raises InputError where too few starts are left, no code moves, or an option cannot be.
    """
    check_fit(worst, threshold, smoothness, held_out)
    pairs, basis = _spanned(pairs)
    std = _std(pairs.pruned(worst, threshold), basis, space, smoothness) if space else 1.0
    pairs = replace(pairs, z_0=pairs.z_0 / std, z=pairs.z / std)
    kept = pairs.pruned(worst, threshold)
    starts = np.unique(kept.start)
    if len(starts) < LEAST_STARTS:
        raise InputError(
            f"expected at least {LEAST_STARTS} starts to fit {name}, got {len(starts)} after "
            f"pruning, of {len(np.unique(pairs.start))}."
        )
    if np.array_equal(kept.z, kept.z_0):
        raise InputError(f"expected codes that move with {name}, all of them stay at their start.")
    shuffled = np.random.default_rng(seed).permutation(starts)
    test = shuffled[: max(1, round(held_out * len(shuffled)))]
    first = _Model(kept[~np.isin(kept.start, test)], smoothness).solve()
    quality = {
        **first.score(kept[np.isin(kept.start, test)], "held_out"),
        **first.score(pairs[np.isin(pairs.start, test)], "unpruned"),
    }
    final = _Model(kept, smoothness).solve()
    quality |= {**final.score(kept, "fit"), "pairs": float(len(kept)), "starts": float(len(starts))}
    seen = np.concatenate([kept.z_0 @ final.u, kept.z @ final.u])
    low, high = np.quantile(seen, [0.01, 0.99])
    span = (float(low), float(high))
    return Direction(name, unit, basis @ final.u, final.slopes, span, quality, std=std)


def fit_g(
    pairs: Pairs,
    u: Array,
    std: float,
    *,
    smoothness: float = 1.0,
    held_out: float = 0.25,
    seed: int = 0,
) -> dict[str, Any]:
    """g for a given u [d]: `slopes`, `span` and `quality` of a `Direction`, as `fit` gives them."""
    pairs = replace(pairs, z_0=pairs.z_0 / std, z=pairs.z / std)
    starts = np.random.default_rng(seed).permutation(np.unique(pairs.start))
    test = np.isin(pairs.start, starts[: max(1, round(held_out * len(starts)))])
    first, final = (_Model(each, smoothness, u) for each in (pairs[~test], pairs))
    quality = {**first.score(pairs[test], "held_out"), **final.score(pairs, "fit")}
    quality |= {"pairs": float(len(pairs)), "starts": float(len(starts))}
    low, high = np.quantile(pairs.z @ u, [0.01, 0.99])
    return {"slopes": final.slopes, "span": (float(low), float(high)), "quality": quality}


def _spanned(pairs: Pairs) -> tuple[Pairs, Array]:
    """The pairs in an orthonormal basis [d, r] of all that their codes span, where that is less
    than the whole space: no fit leaves it."""
    rows = np.concatenate([pairs.z, np.unique(pairs.z_0, axis=0)])
    count, dim = rows.shape
    if count >= dim:
        return pairs, np.eye(dim)
    moves = rows.any(axis=0)
    columns, _ = np.linalg.qr(rows[:, moves].T)
    basis = np.zeros((dim, columns.shape[1]))
    basis[moves] = columns
    return replace(pairs, z_0=pairs.z_0 @ basis, z=pairs.z @ basis), basis


def _std(kept: Pairs, basis: Array, space: LatentSpace, smoothness: float) -> float:
    """Standard deviation of <u, z> under the prior; where it depends on u, of a first fit's u."""
    first = space.std_along(_unit(np.ones(space.dim)))
    if not len(kept) or first == space.std_along(np.eye(1, space.dim)[0]):
        return first
    return space.std_along(basis @ _Model(kept, smoothness).solve().u)


def check_fit(
    worst: float = 0.1,
    threshold: float | None = None,
    smoothness: float = 1.0,
    held_out: float = 0.25,
) -> None:
    """InputError for options of `fit` that cannot be, so that long work does not end with it.

    >>> check_fit(worst=0.2, smoothness=0.0)
    """
    if not 0 <= worst < 1:
        raise InputError(f"expected a share of 0 or more and under 1 to drop, got {worst:g}.")
    if not 0 < held_out < 1:
        raise InputError(f"expected a share above 0 and under 1 to hold out, got {held_out:g}.")
    if threshold is not None and not threshold >= 0:
        raise InputError(f"expected a threshold of 0 or more, got {threshold:g}.")
    if not 0 <= smoothness < np.inf:
        raise InputError(f"expected a smoothness of 0 or more, got {smoothness:g}.")


class _Model:
    """Least squares in u and g: for a given u the best monotone g is a small non-negative least
    squares problem (variable projection); u moves by Gauss-Newton with that g.

    With few starts in many dimensions u would explain the noise of the searches. It is pulled to
    the mean displacement; cross-validation over starts, of ridge regressions of the shifts on the
    displacements, chooses how strongly.
    """

    def __init__(self, pairs: Pairs, smoothness: float, u: Array | None = None):
        self.pairs, self.smoothness = pairs, smoothness
        if u is not None:  # g alone
            change = (pairs.z - pairs.z_0) @ u
            length = float(change @ change) or 1.0
            self.scale = abs(float(change @ pairs.shift)) / length or 1.0
            self.u = u
            self.slopes, _ = self._best_slopes(u)
            return
        difference = pairs.z - pairs.z_0
        gram, right = difference.T @ difference, difference.T @ pairs.shift
        self.scale = float(np.linalg.norm(_ridge(gram, right, PULLS[0]))) or 1.0
        self.pull = _best_pull(pairs)
        # not the least-squares start, which amplifies latents that hardly move
        self.u = self.middle = _unit(right)
        self.slopes = np.full(len(KNOTS) - 1, self.scale)

    def solve(self, rounds: int = 20) -> _Model:
        """Alternates until a round gains less than a thousandth."""
        self.slopes, loss = self._best_slopes(self.u)
        for _ in range(rounds):
            step, weight = self._gauss_newton_step()
            before = loss + weight * np.sum((self.u - self.middle) ** 2)
            least = before
            for share in (1.0, 0.5, 0.25, 0.1):
                u = _unit(self.u + share * step)
                slopes, trial = self._best_slopes(u)
                least = trial + weight * np.sum((u - self.middle) ** 2)
                if least < before:
                    self.u, self.slopes, loss = u, slopes, trial
                    break
            if before - least < 1e-3 * before:
                break
        return self

    def _best_slopes(self, u: Array) -> tuple[Array, float]:
        """Slopes of g for a given u, and the penalised loss."""
        pairs = self.pairs
        rows = _hats(pairs.z @ u) - _hats(pairs.z_0 @ u)
        gram = _SUM.T @ (rows.T @ rows / len(pairs)) @ _SUM
        right = _SUM.T @ (rows.T @ pairs.shift / len(pairs))
        rough = np.diff(np.eye(len(gram)), axis=0)
        # smoothness is relative to the mean information on one slope
        gram += self.smoothness * np.trace(gram) / len(gram) * rough.T @ rough
        gram += 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram))
        least = LEAST_SLOPE * self.scale
        factor = np.linalg.cholesky(gram).T
        above, _ = nnls(factor, np.linalg.solve(factor.T, right - gram.sum(1) * least))
        slopes = above + least
        loss = slopes @ gram @ slopes - 2 * right @ slopes + np.mean(pairs.shift**2)
        return slopes, float(loss)

    def _gauss_newton_step(self) -> tuple[Array, float]:
        """Change of u that would remove the residual, g's slopes held, and the pull's weight."""
        pairs = self.pairs
        jacobian = (
            self._slope_at(pairs.z @ self.u)[:, None] * pairs.z
            - self._slope_at(pairs.z_0 @ self.u)[:, None] * pairs.z_0
        )
        residual = pairs.shift - self.predict(pairs)
        gram = jacobian.T @ jacobian / len(pairs)
        weight = self.pull * np.trace(gram) / len(gram)
        right = jacobian.T @ residual / len(pairs) - weight * (self.u - self.middle)
        return _ridge(gram, right, self.pull + PULLS[0]), weight

    def _slope_at(self, coordinate: Array) -> Array:
        return self.slopes[_piece(coordinate)]

    def predict(self, pairs: Pairs) -> Array:
        """Shifts [m] by the model."""
        g = Direction("", "", self.u, self.slopes).g
        return g(pairs.z @ self.u) - g(pairs.z_0 @ self.u)

    def score(self, pairs: Pairs, prefix: str) -> dict[str, float]:
        """R^2 and root mean square error on pairs."""
        residual = pairs.shift - self.predict(pairs)
        # one shift alone has no variance to explain
        r2 = 1 - residual.var() / (pairs.shift.var() or np.nan)
        return {f"{prefix}_r2": float(r2), f"{prefix}_rmse": float(np.sqrt(np.mean(residual**2)))}


def _piece(coordinate: Array) -> NDArray[np.int64]:
    """The piece of g that a coordinate lies in."""
    width = KNOTS[1] - KNOTS[0]
    return np.clip((coordinate - KNOTS[0]) // width, 0, len(KNOTS) - 2).astype(np.int64)


def _hats(coordinate: Array) -> csr_matrix:
    """g as a matrix: g of coordinates [m] is `_hats(coordinate) @ g(knots)`, two entries a row."""
    piece = _piece(coordinate)
    share = (coordinate - KNOTS[piece]) / (KNOTS[1] - KNOTS[0])
    entries = np.stack([1 - share, share], 1).ravel()
    columns = np.stack([piece, piece + 1], 1).ravel()
    ends = np.arange(0, 2 * len(coordinate) + 1, 2)
    return csr_matrix((entries, columns, ends), shape=(len(coordinate), len(KNOTS)))


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)


def _ridge(gram: Array, right: Array, strength: float) -> Array:
    """Solution [d] of (gram + strength * its mean eigenvalue) x = right."""
    ridge = strength * np.trace(gram) / len(gram) + np.finfo(float).tiny
    return cho_solve(cho_factor(gram + ridge * np.eye(len(gram))), right)


def _best_pull(pairs: Pairs) -> float:
    """The weakest of PULLS whose ridge regression tells the shifts of left-out starts as well as
    the best; the length of u is free, as it is for g."""
    starts = np.unique(pairs.start)
    fold = np.searchsorted(starts, pairs.start) % FOLDS
    parts = [(d := (pairs.z - pairs.z_0)[fold == k], d.T @ d, d.T @ pairs.shift[fold == k])
             for k in range(FOLDS)]  # fmt: skip
    gram, right = sum(part[1] for part in parts), sum(part[2] for part in parts)
    errors = np.zeros(len(PULLS))
    for k, (difference, own_gram, own_right) in enumerate(parts):
        for i, pull in enumerate(PULLS):
            u = _ridge(gram - own_gram, right - own_right, pull)
            length = u @ (right - own_right) / max(u @ (gram - own_gram) @ u, np.finfo(float).tiny)
            errors[i] += np.sum((pairs.shift[fold == k] - length * (difference @ u)) ** 2)
    return PULLS[int((errors <= (1 + INDIFFERENT) * errors.min()).argmax())]
