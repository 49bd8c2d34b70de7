"""A picture as objects that can be moved: the scene, its file, and edits of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from steer.disk import plain, read_stdin, read_whole
from steer.errors import InputError
from steer.scenes.boxes import HEIGHT, WIDTH
from steer.scenes.finding import Found, Objects

FORMAT = 1  # raised when old readers would err
#: Numbers of an object in a scene's file, in their order.
PLACES = ("x", "y", "half_width", "half_height", "angle")
MOST_BYTES = 1 << 24
#: Objects, and the sides of a box in pictures: more is no scene.
MOST_OBJECTS, LARGEST = 1000, 10.0
#: No number of a scene is as large; depths stay within this of 0.
MOST, DEEPEST = 1e6, 50.0


class Drawing(Protocol):
    """What scenes are found and drawn with: `dims` are how many numbers tell a background, and what
    an object looks like."""

    dims: tuple[int, int]

    def draw(self, background: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, H, W], and the objects' shares [M, H, W] of their pixels."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""
        ...


@dataclass(frozen=True)
class Scene:
    """Background codes [d] and objects, the numbers of a model's own; boxes are as in
    `steer.scenes.boxes`: fractions of the picture's sides from its middle, and degrees.

    `model` says what it was found by, and the checksum of its weights; `made` how.
    """

    model: Mapping[str, Any]
    background: Tensor
    boxes: Tensor
    depths: Tensor
    presences: Tensor
    what: Tensor
    made: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, found: Found, picture: int, model: Mapping[str, Any], made: Mapping[str, Any]
    ) -> Scene:
        """That of one picture of several."""
        its = found.of(picture)
        objects = found.objects
        return cls(
            model, found.background[picture], objects.boxes[its], objects.depths[its],
            objects.presences[its], objects.what[its], made,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.boxes)

    def objects(self, number: int, dim: int) -> Objects:
        """What a model of `dim` numbers a look composes, as those of picture `number`."""
        which = torch.full((len(self),), number)
        what = self.what.reshape(len(self), dim)
        return Objects(which, self.boxes, self.depths, self.presences, what)

    def require_of(self, model: Drawing) -> None:
        """InputError where the numbers are not as many as a model's."""
        behind, what = model.dims
        if self.background.shape != (behind,) or (len(self) and self.what.shape[1] != what):
            raise InputError(
                f"expected a scene of {behind} numbers behind and {what} of each object, got "
                f"{list(self.background.shape)} and {list(self.what.shape)}: of another model."
            )

    # --- edits: each gives another scene ---

    def moved(self, number: int, x: float, y: float) -> Scene:
        """With one object moved by fractions of the width, to the right, and of the height, down.

        InputError where there is no such object, as for all edits.
        """
        return self._changed(number, lambda box: box + torch.tensor([x, y, 0, 0, 0]))

    def scaled(self, number: int, factor: float) -> Scene:
        """With one object `factor` times as wide and as high."""
        if not factor > 0:
            raise InputError(
                f"expected a factor above 0 to scale object {number} by, got {factor:g}."
            )
        return self._changed(number, lambda box: box * torch.tensor([1, 1, factor, factor, 1]))

    def rotated(self, number: int, degrees: float) -> Scene:
        """With one object turned counter-clockwise about the middle of its box."""
        return self._changed(number, lambda box: box + torch.tensor([0, 0, 0, 0, degrees]))

    def deepened(self, number: int, by: float) -> Scene:
        """With one object nearer by a number in the model's units of depth; farther below 0."""
        self._require(number)
        depths = self.depths.clone()
        depths[number] += by
        if not abs(depths[number]) <= DEEPEST:
            raise InputError(
                f"expected depths from {-DEEPEST:g} to {DEEPEST:g}, object {number} would get "
                f"{depths[number]:g}."
            )
        return replace(self, depths=depths)

    def without(self, *numbers: int) -> Scene:
        """Without some objects; those after them move up."""
        for number in numbers:
            self._require(number)
        return self._of([i for i in range(len(self)) if i not in numbers])

    def copied(self, number: int, x: float, y: float) -> Scene:
        """With one object once more, at the end, as far from itself as `moved` takes it."""
        self._require(number)
        return self._of([*range(len(self)), number]).moved(len(self), x, y)

    def _changed(self, number: int, change: Any) -> Scene:
        self._require(number)
        boxes = self.boxes.clone()
        boxes[number] = change(boxes[number])
        if (
            not (boxes[number].abs() < MOST).all()
            or boxes[number, WIDTH : HEIGHT + 1].max() > LARGEST
        ):
            raise InputError(
                f"expected a box of up to {LARGEST:g} pictures' sides, that of object {number} "
                f"would be {[round(value, 4) for value in boxes[number].tolist()]}."
            )
        return replace(self, boxes=boxes)

    def _of(self, kept: list[int]) -> Scene:
        names = ("boxes", "depths", "presences", "what")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def _require(self, number: int) -> None:
        if not 0 <= number < len(self):
            there = f"0 to {len(self) - 1}" if len(self) else "none"
            raise InputError(f"expected an object of the scene ({there}), got {number}.")

    # --- the file ---

    def to_json(self) -> bytes:
        """The scene's file."""
        objects = [
            {
                **dict(zip(PLACES, box, strict=True)),
                "depth": depth,
                "presence": presence,
                "what": what,
            }
            for box, depth, presence, what in zip(
                *(part.tolist() for part in (self.boxes, self.depths, self.presences, self.what)),
                strict=True,
            )
        ]
        told = {
            "steer_scene": FORMAT, "model": self.model, "made": self.made, "objects": objects,
            "background": self.background.tolist(),
        }  # fmt: skip
        return (json.dumps(plain(told), indent=1) + "\n").encode()


def load_scene(path: str) -> Scene:
    """The scene in a file, or `-` for standard input; raises what `parse_scene` raises."""
    if path == "-":
        return parse_scene(read_stdin(), "standard input")
    return parse_scene(read_whole(Path(path)), path)


def parse_scene(data: bytes, where: str) -> Scene:
    """The scene in a file's bytes; `where` names it in errors.

    Raises InputError where it is none, is damaged, or holds a number that is not finite.
    """
    try:
        if len(data) > MOST_BYTES:
            raise ValueError
        told = json.loads(data)
        version, objects = told["steer_scene"], told["objects"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise InputError(f"expected a scene of steer decompose, {where} is none.") from error
    if version != FORMAT:
        raise InputError(f"expected a scene of format {FORMAT}, {where} is of {version!r:.20}.")
    if not isinstance(objects, list) or len(objects) > MOST_OBJECTS:
        raise InputError(f"expected a list of up to {MOST_OBJECTS} objects in {where}.")
    what = [_numbers(each, "what", where, i) for i, each in enumerate(objects)]
    if len({len(each) for each in what}) > 1:
        raise InputError(f"expected as many numbers in what of each object in {where}.")
    boxes = torch.tensor([[_number(each, name, where, i) for name in PLACES]
                          for i, each in enumerate(objects)]).reshape(-1, 5)  # fmt: skip
    halves = boxes[:, WIDTH : HEIGHT + 1]
    if ((halves <= 0) | (halves > LARGEST)).any():
        raise InputError(
            f"expected half_width and half_height above 0 and up to {LARGEST:g} in {where}."
        )
    depths, presences = (
        torch.tensor([_number(each, name, where, i) for i, each in enumerate(objects)])
        for name in ("depth", "presence")
    )
    if (depths.abs() > DEEPEST).any():
        raise InputError(f"expected depths from {-DEEPEST:g} to {DEEPEST:g} in {where}.")
    model, made = told.get("model"), told.get("made")
    if not isinstance(model, dict) or not isinstance(made, dict):
        raise InputError(f"expected the model that {where} was found by, got {model!r:.40}.")
    background = torch.tensor(_numbers(told, "background", where, None))
    scene = Scene(model, background, boxes, depths, presences.clamp(0, 1),
                  torch.tensor(what) if what else torch.empty(0, 0), made)  # fmt: skip
    return scene


def _number(given: Any, name: str, where: str, i: int) -> float:
    value = given.get(name) if isinstance(given, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
        raise InputError(f"expected a number {name} of object {i} in {where}, got {value!r:.20}.")
    return float(value)


def _numbers(given: Any, name: str, where: str, i: int | None) -> list[float]:
    values = given.get(name) if isinstance(given, dict) else None
    whose = "" if i is None else f" of object {i}"
    if not isinstance(values, list) or not 0 < len(values) < 10_000:
        raise InputError(f"expected a list of numbers {name}{whose} in {where}.")
    return [_number({name: value}, name, where, i or 0) for value in values]


def draw(model: Drawing, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, H, W] of scenes, and the shares [M, H, W] of their objects, one after the
    other.

    Raises InputError for scenes of another model.
    """
    for scene in scenes:
        scene.require_of(model)
    device = next(model.parameters()).device
    parts = [scene.objects(i, model.dims[1]) for i, scene in enumerate(scenes)]
    objects = Objects(*(torch.cat(each) for each in zip(*parts, strict=True))).to(device)
    return model.draw(torch.stack([scene.background for scene in scenes]).to(device), objects)
