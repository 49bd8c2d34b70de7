"""Pickles in NVIDIA's layout, written by torch's own modules under NVIDIA's names."""

from __future__ import annotations

import pickle
import sys
import types
from unittest import mock

from torch import Tensor, nn

MODULE_SRC = "import pathlib; pathlib.Path('module_src_was_run').touch()"


def named(module: str, name: str):
    """A function or class that says it comes from `module`, as pickle writes it down."""

    def rename(thing):
        thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
        return thing

    return rename


@named("torch_utils.persistence", "_reconstruct_persistent_obj")
def reconstruct(meta):
    raise AssertionError("only the name of this is ever written")


@named("dnnlib.util", "EasyDict")
class EasyDict(dict):
    pass


@named("dnnlib.tflib.network", "Network")
class TensorFlowNetwork:
    def __init__(self, name, variables, components=None, **static_kwargs):
        self.__dict__ = {
            "version": 4,
            "name": name,
            "static_kwargs": static_kwargs,
            "components": components or {},
            "build_module_src": MODULE_SRC,
            "build_func_name": f"{name}_main",
            "variables": list(variables.items()),
        }


class Persistent(nn.Module):
    """A module that is pickled as NVIDIA's are."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self._init_args, self._init_kwargs = args, EasyDict(kwargs)

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": MODULE_SRC}
        return reconstruct, ({**meta, "class_name": "Generator", "state": self.__dict__},)


def dumps(thing, protocol: int = 4) -> bytes:
    """The pickle, with NVIDIA's modules there only while it is written."""
    modules = {}
    for made in (reconstruct, EasyDict, TensorFlowNetwork):
        module = types.ModuleType(made.__module__)
        setattr(module, made.__name__, made)
        modules[made.__module__] = module
    for package in ("torch_utils", "dnnlib", "dnnlib.tflib"):
        modules[package] = types.ModuleType(package)
    with mock.patch.dict(sys.modules, modules):
        return pickle.dumps(thing, protocol)


def grow(state: dict[str, Tensor], root: Persistent | None = None, **kwargs) -> Persistent:
    """A tree of modules with that flat state: floating tensors as parameters, others as buffers."""
    root = root or Persistent(**kwargs)
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, Persistent())
            module = module._modules[part]
        if tensor.is_floating_point():
            module.register_parameter(last, nn.Parameter(tensor))
        else:
            module.register_buffer(last, tensor)
    return root
