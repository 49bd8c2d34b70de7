"""StyleGAN2 checkpoints of NVIDIA's TensorFlow code, under the names of its PyTorch code."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators.style import LARGEST, options_of
from steer.registry import first_few

#: TensorFlow's names of sizes to those of the PyTorch code.
SIZES = {
    "latent_size": "z_dim",
    "label_size": "c_dim",
    "dlatent_size": "w_dim",
    "resolution": "img_resolution",
    "num_channels": "img_channels",
}
SIDE = re.compile(r"synthesis/(\d+)x\1/")
MOST_TAPS = 64
#: Leading dimensions of 1 that PyTorch's code does without.
LEADING = {"const": (1,), "noise_const": (1, 1)}


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether the tensors are named as by TensorFlow's StyleGAN2."""
    return {"mapping/Dense0/weight", "synthesis/4x4/Const/const"} <= checkpoint.state.keys()


def names(depth: int, sizes: int, noisy: bool = True) -> dict[str, str]:
    """PyTorch's name to TensorFlow's, for `depth` mapping layers and `sizes` sizes from 4x4.

    >>> names(1, 2)["synthesis.b8.conv0.noise_const"]
    'synthesis/noise1'
    """
    table = {"mapping.w_avg": "dlatent_avg", "synthesis.b4.const": "synthesis/4x4/Const/const"}
    for i in range(depth):
        for end in ("weight", "bias"):
            table[f"mapping.fc{i}.{end}"] = f"mapping/Dense{i}/{end}"
    for i in range(sizes):
        block, theirs = f"synthesis.b{4 << i}", f"synthesis/{4 << i}x{4 << i}"
        table |= _layer(f"{block}.torgb", f"{theirs}/ToRGB")
        layers = {"conv0": "Conv0_up", "conv1": "Conv1"} if i else {"conv1": "Conv"}
        for number, (ours, name) in enumerate(layers.items(), start=2 * i - len(layers) + 1):
            table |= _layer(f"{block}.{ours}", f"{theirs}/{name}")
            if noisy:
                table[f"{block}.{ours}.noise_const"] = f"synthesis/noise{number}"
                table[f"{block}.{ours}.noise_strength"] = f"{theirs}/{name}/noise_strength"
    return table


def _layer(ours: str, theirs: str) -> dict[str, str]:
    return {
        f"{ours}.weight": f"{theirs}/weight",
        f"{ours}.bias": f"{theirs}/bias",
        f"{ours}.affine.weight": f"{theirs}/mod_weight",
        f"{ours}.affine.bias": f"{theirs}/mod_bias",
    }


def translated(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, whose tensors are taken out of it, with PyTorch's names, shapes and options.

    Names that belong to no layer stay, for the network's own check to complain of. Raises
    InputError that names what is missing, or an option that no network here has.
    """
    state, given = checkpoint.state, options_of(checkpoint)
    depth = next(i for i in range(len(state)) if f"mapping/Dense{i}/weight" not in state)
    sides = [int(found[1]) for name in state if (found := SIDE.match(name))]
    sizes = max(sides).bit_length() - 2
    table = names(depth, sizes, noisy="synthesis/noise0" in state)
    joint = "mapping/LabelConcat/weight" in state
    if "mapping/LabelEmbed/weight" in state:
        table |= {f"mapping.embed.{end}": f"mapping/LabelEmbed/{end}" for end in ("weight", "bias")}
    if missing := [theirs for theirs in table.values() if theirs not in state]:
        raise InputError(f"{checkpoint.origin} does not fit: missing {first_few(missing)}.")
    taps = _filter(given, checkpoint.origin)
    options = _options(given, joint, checkpoint.origin)
    renamed = {ours: _converted(ours, state.pop(theirs)) for ours, theirs in table.items()}
    if joint:
        renamed |= _embedding(state.pop("mapping/LabelConcat/weight"))
    for i in range(sizes):
        for layer in ("", "conv0.", "conv1.") if i else ("", "conv1."):
            renamed[f"synthesis.b{4 << i}.{layer}resample_filter"] = taps
    state.pop("lod", None)  # of training, which started with small pictures
    renamed |= {name: state.pop(name) for name in list(state)}
    return replace(checkpoint, state=renamed, config=options)


def _converted(name: str, tensor: Tensor) -> Tensor:
    """A tensor of TensorFlow's as PyTorch's code stores it under `name`; one of other dimensions
    than it should have stays, for the network's own check to complain of."""
    layer, _, part = name.rpartition(".")
    if part in LEADING:
        leading = len(LEADING[part])
        fits = tensor.dim() == 4 and tensor.shape[:leading] == LEADING[part]
        return tensor.reshape(tensor.shape[leading:]) if fits else tensor
    if part == "weight" and tensor.dim() == 2:
        return tensor.T.contiguous()
    if part == "weight" and tensor.dim() == 4:
        # the upsampling convolution is a true one there, and a correlation here
        turned = tensor.flip(0, 1) if layer.endswith("conv0") else tensor
        return turned.permute(3, 2, 0, 1).contiguous()
    return tensor + 1 if layer.endswith("affine") and part == "bias" else tensor


def _embedding(weight: Tensor) -> dict[str, Tensor]:
    """The first StyleGAN2's embedding [classes, width], which was not scaled and had no bias."""
    return {
        "mapping.embed.weight": (weight * math.sqrt(len(weight))).T.contiguous(),
        "mapping.embed.bias": torch.zeros(weight.shape[-1]),
    }


def _options(given: Mapping[str, Any], joint: bool, where: str) -> dict[str, Any]:
    """What the network was made with, under the names of the PyTorch code."""
    if given.get("normalize_latents", True) is not True:
        raise InputError(
            f"{where}: expected normalize_latents True, got {given['normalize_latents']!r}."
        )
    return {
        **{ours: given[theirs] for theirs, ours in SIZES.items() if theirs in given},
        "mapping_kwargs": {
            "lr_multiplier": given.get("mapping_lrmul", 0.01),
            "activation": given.get("mapping_nonlinearity", "lrelu"),
            "joint": joint,
        },
        "synthesis_kwargs": {
            "architecture": given.get("architecture", "skip"),
            "activation": given.get("nonlinearity", "lrelu"),
            "conv_clamp": given.get("conv_clamp"),
        },
    }


def _filter(given: Mapping[str, Any], where: str) -> Tensor:
    """The low-pass filter [n, n] of `resample_kernel`; a box where that is None."""
    taps = given.get("resample_kernel", (1, 3, 3, 1)) or (1, 1)
    if not (
        isinstance(taps, list | tuple)
        and 2 <= len(taps) <= MOST_TAPS
        and all(type(tap) in (int, float) and abs(tap) <= LARGEST for tap in taps)
        and sum(taps)
    ):
        raise InputError(
            f"{where}: expected 2 to {MOST_TAPS} numbers, not 0 together, for resample_kernel, got "
            f"{taps!r}."
        )
    row = torch.tensor(taps, dtype=torch.float32)
    return torch.outer(row, row) / row.sum().square()
