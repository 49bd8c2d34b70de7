"""Batch norms folded into convolutions, as long as nothing is trained."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from steer.generators.avae import AVAE, PictureShape
from steer.generators.dcgan import DCGAN
from steer.generators.folded import Foldable, folded


def lively(network: nn.Module) -> nn.Module:
    """The network with running statistics unlike those of the start."""
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.data.normal_()
            part.bias.data.normal_()
    return network.eval().requires_grad_(False)


@pytest.fixture
def layers() -> Foldable:
    return lively(
        Foldable(
            nn.ConvTranspose2d(5, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.Tanh(),
        )
    )  # fmt: skip


def test_the_same_function_with_fewer_layers(layers):
    x = torch.randn(3, 5, 4, 4)
    wanted = nn.Sequential(*layers)(x)
    assert (layers(x) - wanted).abs().max() < 1e-5
    kinds = [type(layer).__name__ for layer in folded(layers)]
    assert kinds == ["ConvTranspose2d", "ReLU", "BatchNorm2d", "Conv2d", "Tanh"]


@pytest.mark.parametrize("change", ["in place", "loaded", "a statistic", "replaced"])
def test_what_changes_is_folded_anew(layers, change):
    x = torch.randn(2, 5, 4, 4)
    before = layers(x)
    with torch.no_grad():
        if change == "in place":
            layers[0].weight.mul_(2)
        elif change == "loaded":
            layers.load_state_dict({k: v * 2 for k, v in layers.state_dict().items()})
        elif change == "a statistic":
            layers[1].running_mean.add_(1)
        else:
            layers[4] = lively(nn.Conv2d(8, 4, 3))
    after = layers(x)
    assert (after - before).abs().max() > 1e-3
    assert torch.allclose(after, nn.Sequential(*layers)(x), atol=1e-5)


def test_training_goes_through_the_layers_themselves(layers):
    x = torch.randn(4, 5, 4, 4)
    layers(x)
    layers.train()
    mean = layers[1].running_mean.clone()
    layers(x)
    assert not torch.equal(mean, layers[1].running_mean)
    layers.eval().requires_grad_(True)
    layers(x).sum().backward()
    assert layers[0].weight.grad.abs().sum() > 0 and layers[1].bias.grad.abs().sum() > 0


def test_what_is_kept_is_neither_saved_nor_copied(layers):
    names = list(layers.state_dict())
    strides = layers[0].weight.stride()
    layers(torch.randn(1, 5, 4, 4))
    assert list(layers.state_dict()) == names and layers[0].weight.stride() == strides
    assert len(pickle.dumps(layers)) < 1.2 * len(pickle.dumps(nn.Sequential(*layers)))
    assert "_folded" not in copy.deepcopy(layers).__dict__


@pytest.mark.parametrize(
    "generator", [DCGAN((10, 16, 8, 3)), AVAE(PictureShape(3, 16, 16), latent=4, width=4)]
)
def test_generators_draw_and_read_the_same(generator):
    lively(generator)
    z = torch.randn(3, generator.latent.dim)
    drawn, network = generator(z), generator.main if isinstance(generator, DCGAN) else None
    decoder = network or generator.decoder
    shaped = z[:, :, None, None] if network else z
    assert (2 * drawn - 1 - nn.Sequential(*decoder)(shaped)).abs().max() < 1e-5
    code = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(generator(code).square().sum(), code)
    again = shaped.clone().requires_grad_()
    plain = ((nn.Sequential(*decoder)(again) + 1) / 2).square().sum()
    (wanted,) = torch.autograd.grad(plain, again)
    assert torch.allclose(gradient, wanted.flatten(1), rtol=1e-3, atol=1e-4)
