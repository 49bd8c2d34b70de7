"""Codes with a class, codes of w and w+, and the parts of codes that may move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steer.errors import InputError
from steer.files import Artefact, save
from steer.generators import generators, load, require_same
from steer.generators.base import Condition, Generator, LatentSpace, PictureShape
from steer.generators.biggan_deep import TruncatedNormalSpace
from steer.generators.spaces import LayerSpace, Mapped, in_space, typical
from steer.generators.style import Mapping
from steer.generators.stylegan2 import StyleGAN2
from steer.inversion import Pool, Search, invert
from steer.regression import Pairs, fit
from steer.trajectories import Follow, Trajectories, follow


class Told(Generator):
    """Pictures 0.5 + A (z, c): four latents in two parts and a class of three numbers."""

    def __init__(self):
        codes = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
        condition = Condition(codes, ("ant", "bee", "cat", "dog", "eel"))
        super().__init__(LatentSpace(4, {"coarse": 1, "fine": 3}), PictureShape(1, 8, 8), condition)
        weight = torch.randn(64, 7, generator=torch.Generator().manual_seed(1))
        self.weight = torch.nn.Parameter(0.1 * weight)

    def forward(self, z: Tensor) -> Tensor:
        return 0.5 + (z @ self.weight.T).unflatten(1, (1, 8, 8))


@pytest.fixture
def told() -> Told:
    return Told().eval().requires_grad_(False)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The cache folder of the test."""
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def stylegan(classes: int = 0, seed: int = 0) -> StyleGAN2:
    torch.manual_seed(seed)
    network = StyleGAN2(Mapping((8, 12, 12), classes), channels=(12, 8)).eval()
    network.mapping.w_avg = torch.randn(12)
    return network.requires_grad_(False)


# --- classes ---


@pytest.mark.parametrize("classes", [None, (3,), (4, 0, 2)])
@given(first=st.integers(0, 50), n=st.integers(1, 9), seed=st.integers(0, 9))
def test_codes_with_classes_do_not_depend_on_how_the_stream_is_cut(classes, first, n, seed):
    told = Told()
    told.classes = classes
    assert torch.equal(told.sample(60, seed)[first : first + n], told.sample(n, seed, first))


def test_z_is_that_of_the_prior_and_classes_are_all_drawn(told):
    codes = told.sample(200, seed=3)
    assert torch.equal(codes[:, :4], told.latent.sample(200, seed=3))
    drawn = told.condition.nearest(codes[:, 4:])
    assert torch.equal(told.condition.codes[drawn], codes[:, 4:])
    assert torch.bincount(drawn, minlength=5).min() > 20


def test_chosen_classes_are_taken_in_turn(told):
    told.classes = (4, 1)
    assert told.condition.nearest(told.sample(5)[:, 4:]).tolist() == [4, 1, 4, 1, 4]
    assert told.identity()["classes"] == [4, 1]


def test_a_condition_stays_among_the_classes(told):
    far = told.project(100 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0)))
    assert (far[:, :4].norm(dim=1) <= told.latent.radius + 1e-4).all()
    own = told.condition.codes
    reach = (own - own.mean(0)).norm(dim=1).max()
    assert ((far[:, 4:] - own.mean(0)).norm(dim=1) <= reach + 1e-5).all()
    typical_ = told.sample(20)
    torch.testing.assert_close(told.project(typical_)[:, 4:], typical_[:, 4:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": ["cot"]}, "unknown class 'cot': did you mean cat"),
        ({"classes": ["7"]}, "unknown class '7': Known: ant, bee, cat, dog, eel"),
        ({"truncation": 0.5}, "expected no truncation for told, which has none"),
        ({"noise": "none"}, "expected no noise for told, which has none"),
        ({"space": "w"}, "expected a StyleGAN for the space w, told has only z"),
        ({"space": "v"}, r"expected a space z, w, w\+, got 'v'"),
    ],
)
def test_settings_that_are_not_there(options, said, listed):
    listed(generators, "told", Told)
    with pytest.raises(InputError, match=said):
        load("told", "cpu", **options)


def test_classes_of_a_generator_without_any():
    with pytest.raises(InputError, match="expected no classes for sprites"):
        load("sprites", "cpu", classes=["1"])


def test_many_classes_are_not_listed_one_by_one():
    condition = Condition(torch.eye(50), tuple(f"kind {i}" for i in range(50)))
    with pytest.raises(InputError, match="unknown class 'x': Known: 0 to 49"):
        condition.index("x")


# --- searches with a class, and with parts ---


def test_a_fixed_class_stays_and_a_free_one_is_found(told):
    z = told.sample(6, seed=2)
    wanted = told(z)
    told.classes = (1,)
    fixed = invert(told, wanted, Search(steps=60, pool=32, condition="auto"))
    assert torch.equal(fixed.z[:, 4:], told.condition.codes[[1] * 6])
    told.classes = None
    free = invert(told, wanted, Search(steps=300, pool=32))
    assert free.loss.max() < 1e-6 and (free.z - z).abs().max() < 0.05
    held = invert(told, wanted, Search(steps=60, pool=32, condition="fixed"))
    nearest = told.condition.nearest(held.z[:, 4:])
    assert torch.equal(held.z[:, 4:], told.condition.codes[nearest])


def test_starts_of_a_fixed_class_keep_it(told):
    pool = Pool(told, Search(pool=16, condition="fixed"))
    starts = pool.regressed(told(told.sample(5, seed=9)))
    nearest = told.condition.nearest(starts[:, 4:])
    assert torch.equal(starts[:, 4:], told.condition.codes[nearest])


@pytest.mark.parametrize("parts", [None, ("coarse",), ("1",), ("0-1",)])
def test_only_the_chosen_parts_move(told, parts):
    how = Follow("brightness", points=2, steps=6, parts=parts)
    found = follow(told, how, starts=5)
    free = told.free(parts)
    moved = (found.z != found.z_0[:, None]).flatten(0, 1).any(0)
    assert moved.tolist() == free.tolist() and not free[4:].any()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("midle",), r"expected a part of the code \(coarse, fine\), its number from 0 to 1"),
        (("2",), "got '2'"),
        (("1-0",), "got '1-0'"),
        (("",), "got ''"),
    ],
)
def test_parts_that_are_not_there(told, parts, said):
    with pytest.raises(InputError, match=said):
        follow(told, Follow("brightness", parts=parts), starts=2)


def test_a_code_without_parts_has_none_to_choose():
    generator = Generator(LatentSpace(3), PictureShape(1, 8, 8))
    with pytest.raises(InputError, match="expected no parts for generator, whose codes have none"):
        generator.free(["0"])


# --- directions in them ---


def pairs_along(u: np.ndarray, starts: int = 60, std: float = 1.0, seed: int = 0) -> Pairs:
    """Codes that moved along u, and the shifts that g(s) = 0.1 s / std would give."""
    rng = np.random.default_rng(seed)
    z_0 = std * rng.standard_normal((starts, len(u))).repeat(4, 0)
    moved = std * rng.uniform(-1, 1, len(z_0))
    return Pairs(
        z_0, z_0 + moved[:, None] * u, 0.1 * moved / std, np.zeros(len(z_0)),
        np.arange(starts).repeat(4),
    )  # fmt: skip


def test_a_direction_counts_in_standard_deviations_of_the_prior():
    u = np.linalg.qr(np.random.default_rng(5).standard_normal((8, 8)))[0][0]
    space = TruncatedNormalSpace(8)
    direction = fit("t", "x", pairs_along(u, std=0.8796), space=space)
    assert direction.std == pytest.approx(0.8796, abs=1e-4)
    assert direction.u @ u > 0.999
    assert direction.g(2.0) == pytest.approx(0.2, abs=0.005)
    codes = torch.from_numpy(np.array([0.8796 * 2 * u]))
    assert direction.coordinate(codes) == pytest.approx(2, abs=0.01)
    beyond = torch.cat([codes, torch.ones(1, 3)], dim=1)  # a class behind it
    assert direction.coordinate(beyond) == pytest.approx(direction.coordinate(codes))


def test_a_space_larger_than_its_codes_is_fitted_where_they_are():
    small = np.array([0.6, -0.8, 0.0])
    into = np.linalg.qr(np.random.default_rng(1).standard_normal((2000, 3)))[0]
    known = pairs_along(small, starts=30)
    large = Pairs(known.z_0 @ into.T, known.z @ into.T, known.shift, known.error, known.start)
    direction = fit("t", "x", large)
    assert direction.u @ (into @ small) > 0.9999
    assert np.linalg.norm(direction.u) == pytest.approx(1)


def test_what_never_moves_has_no_part_in_u():
    generator = torch.Generator().manual_seed(0)
    z_0 = torch.randn(40, 6, generator=generator)
    shift = torch.tensor([-0.1, 0.1]).expand(40, 2)
    z = z_0[:, None].repeat(1, 2, 1)
    z[:, :, 1] += 3 * shift
    z[:, :, 2] += shift * torch.randn(40, 1, generator=generator)
    found = Trajectories(z_0, z, shift, torch.zeros(40, 2), torch.zeros(40))
    u = fit("t", "x", Pairs.of(found, dim=5)).u
    assert len(u) == 5 and u[1] > 0.9 and np.array_equal(u[[0, 3, 4]], np.zeros(3))


@pytest.mark.parametrize(
    ("u", "std"),
    [
        (np.full(6, 6**-0.5), 3**0.5),  # the same in three layers
        (np.eye(6)[0], 1),
        (np.array([1, 0, -1, 0, 0, 0]) / 2**0.5, 1),  # cancels out
    ],
)
def test_the_spread_of_a_direction_over_layers(u, std):
    space = LayerSpace(3, 2)
    assert space.std_along(u) == pytest.approx(std)
    measured = (space.sample(4000).numpy() @ u).std()
    assert measured == pytest.approx(std, rel=0.05) or measured < 1e-6


@pytest.mark.parametrize(
    "space", [LatentSpace(12), TruncatedNormalSpace(12), LayerSpace(3, 4), LayerSpace(12, 1)]
)
def test_covariances_are_those_of_samples(space):
    vectors = np.random.default_rng(2).standard_normal((5, 12))
    vectors[4] = np.kron([1, -1, 0], vectors[0, :4])  # layers that cancel out
    known = space.covariance(vectors)
    measured = np.cov(vectors @ space.sample(20_000, seed=5).numpy().T)
    scale = np.sqrt(np.outer(*[np.diag(known) + 0.01] * 2))
    assert known == pytest.approx(known.T)
    assert np.abs((measured - known) / scale).max() < 0.04


# --- w and w+ ---


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("space", ["w", "w+"])
def test_the_same_pictures_from_every_space(space, classes, home):
    base = stylegan(classes)
    mapped = Mapped(base, space)
    for psi in (1.0, 0.7, 0.0):
        mapped.truncation = psi
        assert base.truncation == psi
        torch.testing.assert_close(
            mapped(mapped.sample(5, seed=4)), base(base.sample(5, seed=4)), atol=2e-4, rtol=0
        )


def test_codes_of_w_are_standard(home):
    mapped = Mapped(stylegan(), "w")
    codes = mapped.sample(4000, seed=1)
    assert codes.mean(0).abs().max() < 0.1
    spread = torch.linalg.eigvalsh(torch.cov(codes.T))
    assert spread.max() < 1.2 and spread.min() > 0.8
    torch.testing.assert_close(
        mapped.codes_of(mapped.ws(codes)[:, :1]), codes, atol=2e-2, rtol=1e-3
    )


def test_layers_of_w_plus_reach_their_own_layer(home):
    mapped = Mapped(stylegan(), "w+")
    assert mapped.latent.parts == {f"layer {i}": 12 for i in range(4)}
    code = mapped.sample(1).repeat(2, 1)
    code[1, mapped.latent.columns(["3"])] += 1  # the last layer: colours of the largest picture
    ws = mapped.ws(code)
    assert torch.equal(ws[0, :3], ws[1, :3]) and not torch.equal(ws[0, 3], ws[1, 3])
    assert not torch.equal(*mapped(code))
    ball = mapped.project(100 * code).reshape(-1, 12).norm(dim=1)
    assert (ball <= LatentSpace(12).radius + 1e-4).all()


def test_the_typical_set_is_estimated_once(home):
    base = stylegan()
    base.checksum = "ab" * 32
    first = typical(base, samples=500)
    (kept,) = home.iterdir()
    base.mapping.fc0.weight.mul_(2)  # what was found is used again, whatever the network does now
    again = typical(base, samples=500)
    for name in ("mean", "root", "inverse"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    kept.write_bytes(kept.read_bytes()[:100])  # cut short: estimated anew
    assert not torch.equal(typical(base, samples=500).mean, first.mean)
    for kind, width in (("latents", 12), ("typical", 5)):  # something else
        square = torch.zeros(width, width)
        tensors = {"mean": torch.zeros(width), "root": square, "inverse": square}
        save(Artefact(kind, tensors), kept)
        assert typical(base, samples=500).root.abs().max() > 0


def test_a_cache_that_cannot_be_written_costs_nothing_else(home):
    home.write_bytes(b"a file, no folder")
    base = stylegan()
    base.checksum = "cd" * 32
    assert typical(base, samples=100).mean.shape == (12,)


def test_noise_and_classes_go_through(home):
    base = stylegan(classes=3)
    mapped = in_space(base, "w")
    mapped.noise = "none"
    mapped.classes = (2,)
    assert base.noise == "none" and base.classes == (2,)
    assert in_space(base, "z") is base
    identity = mapped.identity()
    assert (identity["space"], identity["noise"], identity["classes"]) == ("w", "none", [2])
    with pytest.raises(InputError, match=r"expected latents in the space w of .*, got z"):
        require_same(base.identity(), mapped, "latents")


@pytest.mark.parametrize("space", ["w", "w+"])
def test_codes_of_another_shape_are_refused(space, home):
    mapped = Mapped(stylegan(), space)
    for codes in (torch.zeros(2, 5), torch.zeros(mapped.latent.dim)):
        with pytest.raises(InputError, match=r"expected codes \[B, "):
            mapped(codes)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_random_noise_is_the_same_in_every_batch(space, home):
    base = stylegan()
    for block in base.synthesis.values():
        for layer in block.convolutions:
            layer.noise_strength.fill_(1)
    mapped = Mapped(base, space)
    mapped.noise = "random"
    codes = mapped.sample(9, seed=1)
    alone = torch.cat([mapped(code[None]) for code in codes])
    torch.testing.assert_close(mapped(codes), alone, atol=1e-4, rtol=0)
    mapped.noise = "none"
    assert (mapped(codes) - alone).abs().max() > 0.05


def test_other_options_have_a_typical_set_of_their_own(home):
    one, other = stylegan(), stylegan()
    one.checksum = other.checksum = "ef" * 32
    other.config["mapping_kwargs"] = {"lr_multiplier": 1.0}
    for layer in other.mapping.children():
        layer.rate = 1.0
    assert not torch.equal(typical(one, 100).mean, typical(other, 100).mean)


@pytest.mark.parametrize(("classes", "numbers"), [("12", (12,)), (3, (3,)), (["4", 2], (4, 2))])
def test_classes_are_one_or_several(listed, classes, numbers):
    class Many(Told):
        def __init__(self):
            super().__init__()
            self.condition = Condition(torch.randn(20, 3))

    listed(generators, "many", Many)
    assert load("many", "cpu", classes=classes).classes == numbers


def test_a_direction_of_longer_codes_is_not_cut():
    from steer.closed_loop import place
    from steer.directions import Direction

    long = Direction("zoom", "log2", np.eye(8)[0], np.full(100, 0.1))
    with pytest.raises(InputError, match="expected codes of 8 numbers or more"):
        place(torch.zeros(2, 4), [long], np.zeros((2, 1)))


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_picture_of_the_network_is_found_in_w(space, home):
    mapped = Mapped(stylegan(), space)
    wanted = mapped(mapped.sample(3, seed=8))
    found = invert(mapped, wanted, Search(steps=150, pool=64))
    assert found.loss.median() < 2e-4
    torch.testing.assert_close(found.z, mapped.project(found.z))
