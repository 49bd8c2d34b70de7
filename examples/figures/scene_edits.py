"""How exactly edits of a scene move what is in its picture, measured on the picture that is drawn.

Each object that stands alone is moved, turned and removed in turn. What is measured is the
difference between the picture and the one without any objects: its barycentre, its main axis and
its mass around the object's place.

Run: python examples/figures/scene_edits.py MODEL [--data scenes] [-n 200] -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from output import Row, finish
from scenes import FIRST
from torch import Tensor

from steer.datasets import open_dataset
from steer.images import to_png
from steer.scenes.boxes import corners
from steer.scenes.scene import Scene, draw
from steer.scenes.stored import load_finder
from steer.sheets import grid, outlined

MOVE, TURN = 0.1, 30.0
#: What a window holds around an object's box, in fractions of the picture's side.
MARGIN = 0.06
#: Ratio of the axes of what has a direction that can be measured.
LONG = 1.3
#: What counts as exact.
MOVED, STAYED, TURNED, GONE = 0.01, 0.005, 3.0, 0.02
DRAWN = 6


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("model", help="folder or Hub id")
    options.add_argument("--data", default="scenes")
    options.add_argument("-n", "--pictures", type=int, default=200)
    options.add_argument("-o", "--out", type=Path, default=Path("scene-edits"))
    given = options.parse_args(arguments)

    model = load_finder(given.model, "cpu")
    pictures = open_dataset(given.data).pictures(torch.arange(FIRST, FIRST + given.pictures))
    found = model.find(pictures).cpu()
    scenes = [Scene.of(found, i, model.identity, {}) for i in range(len(pictures))]
    seen: dict[str, list[float]] = {"moved": [], "others": [], "turned": [], "left": []}
    shown = []
    for scene in scenes:
        for number, window, others in alone(model, scene):
            edited = scene.moved(number, MOVE, 0.0)
            add(seen, model, scene, edited, number, window, others)
            if len(shown) < DRAWN:
                shown.append([outlined(picture_of(model, each), corners(each.boxes))
                              for each in (scene, edited, scene.rotated(number, TURN),
                                           scene.without(number))])  # fmt: skip
    limits = {"moved": MOVED, "others": STAYED, "turned": TURNED, "left": GONE}
    rows: list[Row] = [row(name, seen[name], limit) for name, limit in limits.items()]
    sheet = grid([list(each) for each in zip(*shown, strict=True)],
                 row_labels=["found", "moved", "turned", "removed"]) if shown else None  # fmt: skip
    finish(given.out, "scene_edits", rows, {} if sheet is None else {"edits": to_png(sheet)})


def row(name: str, errors: list[float], limit: float) -> Row:
    """One line of the table: how far off, in fractions of the side, degrees, or share of mass."""
    if not errors:
        return {"edit": name, "n": 0, "median": None, "95 %": None, "limit": limit, "within": None}
    values = torch.tensor(errors)
    return {
        "edit": name, "n": len(errors), "median": values.median().item(),
        "95 %": values.quantile(0.95).item(), "limit": limit,
        "within": (values <= limit).float().mean().item(),
    }  # fmt: skip


def add(
    seen: dict[str, list[float]], model: torch.nn.Module, scene: Scene, edited: Scene, number: int,
    window: Tensor, others: list[Tensor],
) -> None:  # fmt: skip
    """Measures each edit of one object in its window, and what it does to the others in theirs."""
    before, after = differences(model, scene), differences(model, edited)
    shift = barycentre(after, window) - barycentre(before, window)
    seen["moved"].append((shift - torch.tensor([MOVE, 0.0])).abs().max().item())
    for other in others:
        away = barycentre(after, other) - barycentre(before, other)
        seen["others"].append(away.abs().max().item())
    long, angle = axis(before, window)
    if long > LONG:
        _, turned = axis(differences(model, scene.rotated(number, TURN)), window)
        off = turned - angle - TURN
        seen["turned"].append(abs((off + 90) % 180 - 90))
    left = differences(model, scene.without(number))
    seen["left"].append(((left * window).sum() / (before * window).sum()).item())


def alone(model: torch.nn.Module, scene: Scene) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
    """Objects that stand alone with room to move: the number, the window [H, W] of all its edits,
    and those of the others, which it does not touch."""
    side = model.side
    windows = [_window(box, side, MARGIN) for box in scene.boxes]
    for number, box in enumerate(scene.boxes):
        swept = _window(box, side, MARGIN, MOVE)
        reach = box[2:4].norm().item()  # turned, it stays within a circle
        inside = box[:2].abs().max() + reach + MARGIN <= 0.5 and box[0] + MOVE + reach <= 0.5
        swept = torch.maximum(swept, _window(torch.tensor([*box[:2], reach, reach]), side, 0.0))
        others = [each for i, each in enumerate(windows) if i != number]
        if inside and not any((swept * each).any() for each in others):
            yield number, swept, others


def _window(box: Tensor, side: int, margin: float, right: float = 0.0) -> Tensor:
    """1 in [side, side] within a margin of a box, and of where it comes when it is moved."""
    places = (torch.arange(side) + 0.5) / side - 0.5
    x, y, width, height = box[:4].tolist()
    across = (places >= x - width - margin) & (places <= x + width + right + margin)
    down = (places >= y - height - margin) & (places <= y + height + margin)
    return (down[:, None] & across[None]).float()


def picture_of(model: torch.nn.Module, scene: Scene) -> Tensor:
    """The picture [3, H, W] of a scene."""
    return draw(model, [scene])[0][0].cpu()


def differences(model: torch.nn.Module, scene: Scene) -> Tensor:
    """How far each pixel [H, W] of the scene's picture is from that of its background."""
    empty = scene.without(*range(len(scene)))
    return (picture_of(model, scene) - picture_of(model, empty)).abs().sum(0)


def barycentre(mass: Tensor, window: Tensor) -> Tensor:
    """x and y of the mass [H, W] in a window, in fractions of the side from the middle."""
    places = (torch.arange(len(mass)) + 0.5) / len(mass) - 0.5
    mass = mass * window
    return torch.stack([(mass.sum(0) * places).sum(), (mass.sum(1) * places).sum()]) / mass.sum()


def axis(mass: Tensor, window: Tensor) -> tuple[float, float]:
    """Ratio of the longer to the shorter axis of the mass [H, W] in a window, and the longer one's
    angle in degrees, counter-clockwise."""
    places = (torch.arange(len(mass)) + 0.5) / len(mass) - 0.5
    x, y = barycentre(mass, window).tolist()
    mass = (mass * window) / (mass * window).sum()
    dx, dy = places - x, y - places
    xx, yy = (mass.sum(0) * dx**2).sum(), (mass.sum(1) * dy**2).sum()
    xy = (mass * dy[:, None] * dx[None]).sum()
    spread = torch.linalg.eigvalsh(torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])]))
    angle = torch.rad2deg(0.5 * torch.atan2(2 * xy, xx - yy)).item()
    return (spread[1] / spread[0].clamp_min(1e-9)).sqrt().item(), angle


if __name__ == "__main__":
    main()
