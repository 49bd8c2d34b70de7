"""StyleGAN2 checkpoints of rosinality/stylegan2-pytorch, under the names of NVIDIA's layout."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.registry import first_few

#: Of what NVIDIA's code stores without leading dimensions of 1.
DIMENSIONS = {"const": 3, "weight": 4, "bias": 1, "noise_const": 2, "noise_strength": 0}


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether the tensors are named as by rosinality."""
    return {"style.1.weight", "input.input", "to_rgb1.bias"} <= checkpoint.state.keys()


def names(depth: int, sizes: int) -> dict[str, str]:
    """NVIDIA's name to rosinality's, for `depth` mapping layers and `sizes` sizes from 4x4.

    >>> names(1, 2)["synthesis.b8.conv0.affine.weight"]
    'convs.0.conv.modulation.weight'
    """
    table = {"synthesis.b4.const": "input.input"}
    for i in range(depth):
        for end in ("weight", "bias"):
            table[f"mapping.fc{i}.{end}"] = f"style.{i + 1}.{end}"
    for i in range(sizes):
        block = f"synthesis.b{4 << i}"
        table |= _convolution(f"{block}.conv1", f"convs.{2 * i - 1}" if i else "conv1", 2 * i)
        table |= _to_picture(f"{block}.torgb", f"to_rgbs.{i - 1}" if i else "to_rgb1")
        if i:
            table |= _convolution(f"{block}.conv0", f"convs.{2 * i - 2}", 2 * i - 1)
            table[f"{block}.conv0.resample_filter"] = f"convs.{2 * i - 2}.conv.blur.kernel"
            table[f"{block}.resample_filter"] = f"to_rgbs.{i - 1}.upsample.kernel"
    return table


def _convolution(ours: str, theirs: str, noise: int) -> dict[str, str]:
    return {
        f"{ours}.weight": f"{theirs}.conv.weight",
        f"{ours}.affine.weight": f"{theirs}.conv.modulation.weight",
        f"{ours}.affine.bias": f"{theirs}.conv.modulation.bias",
        f"{ours}.bias": f"{theirs}.activate.bias",
        f"{ours}.noise_strength": f"{theirs}.noise.weight",
        f"{ours}.noise_const": f"noises.noise_{noise}",
    }


def _to_picture(ours: str, theirs: str) -> dict[str, str]:
    return {
        f"{ours}.weight": f"{theirs}.conv.weight",
        f"{ours}.affine.weight": f"{theirs}.conv.modulation.weight",
        f"{ours}.affine.bias": f"{theirs}.conv.modulation.bias",
        f"{ours}.bias": f"{theirs}.bias",
    }


def translated(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, whose tensors are taken out of it, with NVIDIA's names, shapes and scales.

    The mean of w is the `latent_avg` beside the state dict, or 0 where there is none.
    Names that belong to no layer stay, for the network's own check to complain of. Raises
    InputError that names what is missing.
    """
    state = checkpoint.state
    depth = next(i for i in range(len(state)) if f"style.{i + 1}.weight" not in state)
    sizes = 1 + next(i for i in range(len(state)) if f"to_rgbs.{i}.bias" not in state)
    table = names(depth, sizes)
    if missing := [theirs for theirs in table.values() if theirs not in state]:
        raise InputError(f"{checkpoint.origin} does not fit: missing {first_few(missing)}.")
    renamed = {ours: _converted(ours, state.pop(theirs)) for ours, theirs in table.items()}
    renamed |= {name: state.pop(name) for name in list(state)}
    # NVIDIA's layout has a filter where nothing is resampled, too
    taps = renamed.get("synthesis.b8.resample_filter", torch.ones(4, 4) / 16)
    for i in range(sizes):
        renamed[f"synthesis.b{4 << i}.conv1.resample_filter"] = taps
    renamed["synthesis.b4.resample_filter"] = taps
    average = checkpoint.beside.get("latent_avg", torch.zeros_like(renamed["mapping.fc0.bias"]))
    renamed["mapping.w_avg"] = average.flatten()
    return replace(checkpoint, state=renamed)


def _converted(name: str, tensor: Tensor) -> Tensor:
    """A tensor of rosinality's as NVIDIA's code stores it under `name`."""
    layer, _, part = name.rpartition(".")
    if part == "resample_filter":
        return tensor / 4
    if layer.startswith("mapping") or layer.endswith("affine"):
        return tensor
    if layer.endswith("torgb") and part == "bias":
        return tensor.flatten()
    while tensor.dim() > DIMENSIONS[part] and len(tensor) == 1:
        tensor = tensor[0]
    is_demodulated = part == "weight" and not layer.endswith("torgb") and tensor.dim() == 4
    return tensor / math.sqrt(tensor[0].numel()) if is_demodulated else tensor
