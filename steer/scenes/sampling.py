"""New scenes from the prior, with some objects or relations between them fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steer.errors import InputError, SteerError
from steer.files import how_made
from steer.scenes.boxes import HEIGHT, WIDTH, X, Y
from steer.scenes.finding import Objects
from steer.scenes.gaussians import Gaussian
from steer.scenes.model import LOOKED_AT, SceneModel
from steer.scenes.objects import SLOPE
from steer.scenes.scene import Scene

#: Relations of two boxes [..., 5] by name: structured control (Zeng et al. 2023).
RELATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "left-of": lambda a, b: a[..., X] < b[..., X],
    "right-of": lambda a, b: a[..., X] > b[..., X],
    "above": lambda a, b: a[..., Y] < b[..., Y],
    "below": lambda a, b: a[..., Y] > b[..., Y],
    "larger-than": lambda a, b: _area(a) > _area(b),
    "smaller-than": lambda a, b: _area(a) < _area(b),
}
#: Scenes that are drawn at once, and pictures in which objects are found at once.
AT_ONCE, FOUND = 256, 32
#: Scenes that are drawn for one that is wanted, before there is said to be none.
TRIES = 200
#: Logit of the presence of an object that is given, and the presence of one that was drawn.
SURE, CERTAIN = 4.0, 0.98
#: Steps that a code of a given box is searched for, and how near it must come, in fractions.
SEARCH, NEAR = 300, 0.01


def _area(boxes: Tensor) -> Tensor:
    return boxes[..., WIDTH] * boxes[..., HEIGHT]


@dataclass(frozen=True)
class Relation:
    """What must hold between two objects of a scene, by their numbers.

    >>> Relation.parse("0 left-of 1")
    Relation(first=0, name='left-of', second=1)
    """

    first: int
    name: str
    second: int

    @classmethod
    def parse(cls, text: str) -> Relation:
        """That of a text; InputError where it is none."""
        parts = text.split()
        if len(parts) != 3 or not all(p.isdecimal() and len(p) < 9 for p in (parts[0], parts[2])):
            raise InputError(f"expected NUMBER RELATION NUMBER, got {text!r}.")
        if parts[1] not in RELATIONS:
            raise InputError(f"expected a relation {', '.join(RELATIONS)}, got {parts[1]!r}.")
        return cls(int(parts[0]), parts[1], int(parts[2]))

    def holds(self, boxes: Tensor) -> bool:
        """Whether the boxes [m, 5] of a scene have it; those with too few objects do not."""
        if max(self.first, self.second) >= len(boxes):
            return False
        return bool(RELATIONS[self.name](boxes[self.first], boxes[self.second]))


@torch.no_grad()
def sample(
    model: SceneModel,
    n: int,
    seed: int = 0,
    *,
    kept: Scene | None = None,
    relations: Sequence[Relation] = (),
) -> list[Scene]:
    """`n` scenes from the learned prior (section 5.4 of Plumerault 2023).

    The objects of `kept` are in all of them, first and in their order, and its background; the
    others come given those of their cell. Scenes in which a relation does not hold are left out for
    later items of the seed, so that the first of many are those of a few.

    Raises InputError where the boxes of `kept` are none of the model's and for a relation that
    cannot hold, SteerError where no scene has the relations.

    >>> model = SceneModel(width=4).eval()
    >>> scenes = sample(model, 2)
    >>> len(scenes), scenes[0].background.shape
    (2, torch.Size([24]))
    """
    if kept is not None:
        kept.require_of(model)
    _refuse_what_never_holds(relations, kept)
    asked = [f"{each.first} {each.name} {each.second}" for each in relations]
    held = None if kept is None else len(kept)
    found: list[Scene] = []
    drawn = 0
    while len(found) < n:
        if drawn >= TRIES * n:
            raise SteerError(
                f"{len(found)} of {n} scenes: in {drawn} that were drawn the relations do not hold."
            )
        scenes = list(_drawn(model, _Items(seed, drawn, min(n, AT_ONCE)), kept))
        for item, scene in enumerate(scenes, start=drawn):
            if all(relation.holds(scene.boxes) for relation in relations):
                made = how_made("sample", seed=seed, item=item, relations=asked or None, kept=held)
                found.append(replace(scene, made=made))
        drawn += len(scenes)
    return found[:n]


@torch.no_grad()
def calibrate(model: SceneModel, pictures: Tensor) -> None:
    """Sets from which presence on a proposal of the prior is an object, so that samples have as
    many as are found in pictures [B, 3, H, W], in the mean: a Gaussian of presence knows less of
    what is there or not."""
    counts = torch.cat([model.find(some).counts for some in pictures.split(FOUND)])
    presences = _proposed(model, _Items(0, 0, AT_ONCE), None).presences
    wanted = round(counts.float().mean().item() * AT_ONCE)
    if 0 < wanted < presences.numel():
        model.least.copy_(presences.flatten().sort(descending=True).values[wanted])


def _refuse_what_never_holds(relations: Sequence[Relation], kept: Scene | None) -> None:
    """InputError for a relation of an object to itself, or of two that are kept and do not have
    it."""
    for each in relations:
        fixed = kept is not None and max(each.first, each.second) < len(kept)
        if each.first == each.second or (fixed and kept and not each.holds(kept.boxes)):
            raise InputError(
                f"expected a relation that can hold, {each.first} is not {each.name} {each.second}."
            )


class _Items:
    """Random numbers of consecutive items of a seed: an item's do not depend on the others."""

    def __init__(self, seed: int, first: int, count: int):
        items = range(first, first + count)
        self.streams = [np.random.default_rng([seed, item]) for item in items]

    def normal(self, *shape: int) -> Tensor:
        """The next standard normal numbers [n, ...]."""
        drawn = [each.standard_normal(shape, np.float32) for each in self.streams]
        return torch.from_numpy(np.stack(drawn))

    def chance(self) -> Tensor:
        """The next numbers [n], uniform in [0, 1)."""
        return torch.tensor([each.random() for each in self.streams])


class Proposals(NamedTuple):
    """What the prior proposes for scenes: background codes [n, d], presences, boxes, depths and
    looks [n, N, K, ...] of each cell's boxes, and which of these [N, K] were given."""

    background: Tensor
    presences: Tensor
    boxes: Tensor
    depths: Tensor
    what: Tensor
    given: Tensor


def _proposed(model: SceneModel, items: _Items, kept: Scene | None) -> Proposals:
    """Proposals of items, with the objects that are kept among them."""
    device, n = next(model.parameters()).device, len(items.streams)
    chance, normal = items.chance().to(device), items.normal(model.background.dim).to(device)
    background = model.usual.sample(normal, chance)
    fixed = _Fixed(model, kept) if kept is not None and len(kept) else None
    if kept is not None:
        background = kept.background.to(device).expand(n, -1)
    presences: list[Tensor] = []
    codes: tuple[list[Tensor], ...] = ([], [], [])

    def choose(k: int, i: int, gaussian: Gaussian) -> Tensor:
        z = gaussian.sample(items.normal(*gaussian.mean.shape[1:]).to(device))
        if fixed is not None:
            z = fixed.put(k, i, z)
        codes[i].append(z)
        if i == 0:
            there = model.decoder.presences(z)
            # as in training, a cell whose last proposal is absent proposes no more
            before = presences[-1] if presences else torch.ones_like(there)
            presences.append(torch.where(before >= LOOKED_AT, there, 0.0))
            # what is there is so for certain, and its box and look are those of such
            return torch.where((presences[-1] > model.least)[..., None], _surely(model, z), z)
        return z * torch.where(presences[-1] > model.least, CERTAIN, presences[-1])[..., None]

    model.prior(background, choose)
    boxes, depths = model.decoder.boxes(torch.stack(codes[1], dim=2))
    what, present = torch.stack(codes[2], dim=2), torch.stack(presences, dim=2)
    nowhere = torch.zeros(present.shape[1:], dtype=torch.bool, device=device)
    given = nowhere if fixed is None else fixed.places.to(device)
    return Proposals(background, present, boxes, depths, what, given)


def _drawn(model: SceneModel, items: _Items, kept: Scene | None) -> Iterator[Scene]:
    """Scenes as they come; what is in them is there for certain."""
    found = _proposed(model, items, kept)
    for i, background in enumerate(found.background):
        others = (found.presences[i] > model.least) & ~found.given
        which = torch.zeros_like(others).long()[others]
        own = Objects(which, found.boxes[i][others], found.depths[i][others],
                      torch.full_like(found.depths[i][others], CERTAIN),
                      found.what[i][others])  # fmt: skip
        yield _scene(model, background, own, kept)


def _scene(model: SceneModel, background: Tensor, own: Objects, kept: Scene | None) -> Scene:
    """What is kept, and what was drawn after it."""
    parts = [own.boxes, own.depths, own.presences, own.what]
    parts = [part.cpu() for part in parts]
    if kept is not None:
        before = (kept.boxes, kept.depths, kept.presences, kept.what)
        parts = [
            torch.cat([a.reshape(len(kept), *b.shape[1:]), b])
            for a, b in zip(before, parts, strict=True)
        ]
    boxes, depths, presences, what = parts
    return Scene(model.identity, background.cpu(), boxes, depths, presences, what)


def _surely(model: SceneModel, z: Tensor) -> Tensor:
    """z_pres [..., d] with a first number that says that the object is there."""
    more = (SURE - model.decoder.presences(z).logit()).clamp_min(0) / SLOPE
    return torch.cat([z[..., :1] + more[..., None], z[..., 1:]], dim=-1)


class _Fixed:
    """Codes of objects that are there already, as the first of their cells."""

    def __init__(self, model: SceneModel, kept: Scene):
        self.places = torch.zeros(model.grid**2, model.most, dtype=torch.bool)
        self.model = model
        self.codes: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for number in range(len(kept)):
            box = kept.boxes[number]
            column, row = ((box[:2] + 0.5) * model.grid).long().clamp(0, model.grid - 1).tolist()
            cell = row * model.grid + column
            k = int(self.places[cell].sum())
            if k == model.most:
                raise InputError(
                    f"expected {model.most} objects or fewer in a cell, {number} is one more."
                )
            self.places[cell, k] = True
            code = _code_of(model, box, kept.depths[number], cell, number)
            self.codes[cell, k] = (code, kept.what[number])

    def put(self, k: int, i: int, z: Tensor) -> Tensor:
        """Codes [B, N, d] with theirs: of presence, place or look; those of presence are as drawn,
        but for a first number that says that the object is there."""
        z = z.clone()
        for (cell, step), codes in self.codes.items():
            if step == k and i == 0:
                z[:, cell] = _surely(self.model, z[:, cell])
            elif step == k:
                z[:, cell] = codes[i - 1].to(z)
        return z


@torch.enable_grad()
def _code_of(model: SceneModel, box: Tensor, depth: Tensor, cell: int, number: int) -> Tensor:
    """z_box [d] of a cell whose box and depth are these; InputError where none is near."""
    device = next(model.parameters()).device
    box, depth = box.to(device), depth.to(device)
    z = torch.zeros(model.grid**2, 1, model.sizes[1], requires_grad=True, device=device)
    optimiser = torch.optim.Adam([z], lr=0.05)
    scale = torch.tensor([1.0, 1.0, 1.0, 1.0, 1 / 360], device=device)
    for _ in range(SEARCH):
        boxes, depths = model.decoder.boxes(z)
        away = ((boxes[cell, 0] - box) * scale).square().sum()
        optimiser.zero_grad()
        (away + 1e-4 * (depths[cell, 0] - depth).square() + 1e-5 * z.square().sum()).backward()
        optimiser.step()
    with torch.no_grad():
        off = ((model.decoder.boxes(z)[0][cell, 0] - box) * scale).abs().max().item()
    if off > NEAR:
        raise InputError(
            f"expected boxes that the model could find, that of object {number} is {off:.2g} off."
        )
    return z.detach()[cell, 0]
