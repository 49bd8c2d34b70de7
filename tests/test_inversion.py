"""Pictures to codes, on generators whose codes are known."""

from __future__ import annotations

import math

import pytest
import torch
from toys import Blob, Linear

from steer.errors import InputError
from steer.generators import load
from steer.generators.base import LatentSpace, PictureShape
from steer.inversion import FEW_RESTARTS, Pool, Search, invert, milestones
from steer.optimise import Adam, Status

FINE = Search(loss="mse", steps=250, rate=0.05, final_rate=0.0005, tolerance=0.0, pool=64)


class Encoded(Linear):
    """The linear generator with an encoder that is right up to `off`."""

    off = 0.0

    def encode(self, pictures):
        flat = (pictures - 0.5).flatten(1)
        return torch.linalg.lstsq(self.weight, flat.T).solution.T + self.off


@pytest.mark.parametrize("loss", ["mse", "blurred-mse", "mse+l1:0.1"])
@pytest.mark.parametrize("start", ["auto", "prior"])
def test_a_linear_generator_is_inverted_to_1e_4(loss, start):
    linear = Linear()
    z = linear.latent.project(linear.latent.sample(5, seed=8))
    sigma = 0.5 if "blurred" in loss else None
    search = Search(
        loss=loss, sigma=sigma, start=start, steps=300, rate=0.03, final_rate=1e-5, tolerance=0.0,
        pool=64,
    )  # fmt: skip
    found = invert(linear, linear(z), search)
    assert (found.z - z).abs().max() < 1e-4
    assert (found.loss < 1e-5).all()


def test_what_comes_back():
    blob = Blob()
    z = blob.latent.sample(3, seed=2)
    found = invert(blob, blob(z), Search(steps=60, pool=64))
    assert torch.allclose(found.pictures, blob(found.z), atol=1e-6)
    assert set(found.errors) == {"blurred-mse", "mse", "l1", "dssim"}
    mse = (found.pictures - blob(z)).square().mean(dim=(1, 2, 3))
    assert torch.allclose(found.errors["mse"], mse, atol=1e-9)
    assert torch.allclose(found.errors["blurred-mse"], found.loss, rtol=1e-3, atol=1e-9)
    assert {len(v) for v in (found.z, found.loss, found.status, found.evaluations)} == {3}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_cut_into_batches_changes_nothing(batch):
    linear = Linear()
    noise = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = linear(linear.latent.sample(5, seed=3)) + 0.02 * noise
    search = Search(loss="mse", steps=60, tolerance=1e-5, pool=64)
    whole = invert(linear, targets, search, batch=8)
    cut = invert(linear, targets, search, batch=batch)
    assert torch.allclose(cut.z, whole.z, atol=3e-4)
    assert torch.equal(cut.evaluations, whole.evaluations)
    assert torch.equal(cut.status, whole.status)


@pytest.mark.parametrize(("steps", "restarts"), [(40, 1), (40, 2), (100, 4), (200, 7), (3, 4)])
def test_a_search_costs_what_its_docstring_says(steps, restarts):
    linear = Linear()
    plan = milestones(steps, restarts)
    assert list(plan) == sorted(plan) and list(plan.values())[-1:] in ([1], [])
    targets = linear(linear.latent.sample(2, seed=3))
    pool = 70
    search = Search(steps=steps, restarts=restarts, pool=pool, tolerance=0.0, loss="mse")
    linear.codes = 0
    found = invert(linear, targets, search)
    spent = int(found.evaluations.sum())
    # besides the evaluations: one forward pass of the pool, and of the two pictures found
    assert linear.codes == spent + pool + 2
    if steps >= 200:
        assert found.evaluations.max() <= steps * (1 + restarts * 0.1)
    assert (found.status == Status.BUDGET).all()


def test_restarts_are_kept_by_loss():
    """On a picture with many local minima, the answer is no worse than any start was."""
    blob = Blob(lambda s: 0.25 * torch.sin(5 * s), size=24)
    targets = blob(blob.latent.sample(8, seed=4))
    search = Search(steps=40, restarts=8, start="prior", pool=128)
    found = invert(blob, targets, search)
    pool = blob.latent.project(blob.latent.sample(128, search.seed))
    loss = search.loss_for(blob)
    of_pool = torch.stack([loss(blob(pool), t.expand(128, -1, -1, -1)).min() for t in targets])
    assert (found.loss <= of_pool).all() and found.loss.median() < 0.3 * of_pool.median()
    # four of the eight go on after 4 steps, two after 12, one after 36 and to the end
    assert (found.evaluations == 4 * 4 + 2 * 12 + 36 + 40).all()


def test_the_encoders_start_is_used_and_ends_at_once_where_it_is_right():
    linear = Encoded()
    z = linear.latent.project(linear.latent.sample(4, seed=1))
    search = Search(loss="mse", start="encoder", tolerance=1e-9, steps=30)
    found = invert(linear, linear(z), search)
    assert (found.status == Status.CONVERGED).all() and (found.evaluations == 1).all()
    assert (found.z - z).abs().max() < 1e-4
    # beside other starts it still comes first, and ends them
    beside = invert(linear, linear(z), Search(loss="mse", tolerance=1e-9, steps=30, pool=64))
    assert (beside.status == Status.CONVERGED).all() and (beside.evaluations == FEW_RESTARTS).all()


def test_an_encoder_alone_needs_no_pool():
    linear = Encoded()
    linear.off = 0.1
    targets = linear(linear.latent.sample(2))
    linear.codes = 0
    found = invert(linear, targets, Search(loss="mse", start="encoder", steps=10, tolerance=0.0))
    assert (found.evaluations == 10).all() and linear.codes == 22


def test_no_encoder_to_start_from():
    with pytest.raises(InputError, match=r"a generator with an encoder, linear has none"):
        invert(Linear(), torch.zeros(1, 3, 8, 8), Search(start="encoder"))


def test_the_tolerance_ends_an_item():
    linear = Linear()
    targets = linear(linear.latent.sample(4, seed=6))
    found = invert(linear, targets, Search(loss="mse", tolerance=1e-3, steps=200, pool=64))
    assert (found.status == Status.CONVERGED).all() and (found.loss <= 1e-3).all()
    assert found.evaluations.max() < 100


@pytest.mark.parametrize(("constraint", "inside"), [("ball", True), ("none", False)])
def test_the_ball(constraint, inside):
    linear = Linear()
    far = 3 * linear.latent.radius / math.sqrt(6) * torch.ones(1, 6)
    search = Search(
        loss="mse", constraint=constraint, steps=400, rate=0.3, final_rate=0.01, pool=64,
        tolerance=0.0,
    )  # fmt: skip
    found = invert(linear, linear(far), search)
    norm = float(found.z.norm())
    assert norm <= linear.latent.radius * 1.0001 if inside else norm > 2 * linear.latent.radius


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 8, 9), (3, 8, 8), (0,)])
def test_wrong_shapes(shape):
    with pytest.raises(InputError, match=r"pictures of shape \(3, 8, 8\) for linear"):
        invert(Linear(), torch.zeros(shape))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"restarts": 0}, {"pool": 0}, {"rate": 0.0}, {"final_rate": -1.0},
        {"rate": math.nan}, {"final_rate": math.inf}, {"tolerance": math.nan}, {"tolerance": -1.0},
        {"constraint": "sphere"}, {"start": "middle"},
    ],
)  # fmt: skip
def test_wrong_options(wrong):
    name = next(iter(wrong))
    with pytest.raises(InputError, match=f"expected {name}"):
        Search(**wrong)


@pytest.mark.parametrize("pool", [1, 2])
def test_a_pool_of_hardly_anything(pool):
    linear = Linear()
    targets = linear(linear.latent.sample(2, seed=6))
    found = invert(linear, targets, Search(loss="mse", pool=pool, steps=5))
    assert found.loss.isfinite().all()


def test_no_pictures():
    with pytest.raises(InputError, match=r"expected one or more pictures .* got \(0, 3, 8, 8\)"):
        invert(Linear(), torch.zeros(0, 3, 8, 8))


def test_the_report_ends_at_the_last_step():
    linear, told = Linear(), []
    targets = linear(linear.latent.sample(4, seed=6))
    invert(
        linear, targets, Search(loss="mse", steps=20, tolerance=0.0, pool=64), batch=2,
        report=lambda done, loss: told.append((done, loss)),
    )  # fmt: skip
    drawn, steps = told[:-40], told[-40:]
    assert drawn == [(0, "64 of 64 starts drawn")]
    assert all(math.isfinite(loss) for _, loss in steps)
    assert [done for done, _ in steps] == [pytest.approx(n / 10) for n in range(40)]


def test_the_solver_is_the_options():
    assert Search(rate=0.3, final_rate=0.2).solver == Adam(0.3, 0.2)


@pytest.mark.shared
def test_a_trained_generators_own_pictures(shared):
    sprites = load(str(shared / "data" / "generators" / "disvae" / "btcvae_dsprites"), device="cpu")
    assert sprites.latent == LatentSpace(10) and sprites.picture == PictureShape(1, 64, 64)
    targets = sprites(sprites.latent.sample(4, seed=9))
    found = invert(sprites, targets, Search(steps=60, restarts=3, pool=128))
    assert found.errors["blurred-mse"].median() < 1e-3


@pytest.mark.parametrize(("side", "drawn"), [(128, 40), (512, 32), (8192, 16)])
def test_a_pool_of_large_pictures_is_small(side, drawn):
    class Large(Linear):
        """Pictures of 8x8 that count as larger ones."""

        def forward(self, z):
            return torch.zeros(len(z), 3, 8, 8)

    large = Large()
    large.picture = PictureShape(3, side, side)
    assert len(Pool(large, Search(pool=40)).codes) == drawn
