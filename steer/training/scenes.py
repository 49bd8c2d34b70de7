"""Training of scene models, in stages (section 5.5.3 of the thesis)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steer.errors import SteerError
from steer.scenes.gaussians import standard
from steer.scenes.joining import SIGMA
from steer.scenes.losses import alignment, log_likelihood, mixture, object_prior
from steer.scenes.model import Inferred, SceneModel
from steer.scenes.sampling import calibrate
from steer.sheets import side_by_side
from steer.training.learner import Learner
from steer.training.team import Noise

#: Shares of all steps after which each part begins to learn.
BEGIN = {"background": 0.0, "objects": 0.05, "boxes": 0.1}
#: While it learns alone, the background has this share of each pixel; the rest is of any colour, so
#: that it leaves out what it cannot draw rather than to draw all objects badly.
CLEAR = 0.8
#: From this share of all steps on, every so many steps, the foreground must cover some of the
#: pictures and not nearly all: otherwise the background has swallowed everything, or nothing.
JUDGED, JUDGED_EVERY, FOREGROUND = 0.3, 100, (0.002, 0.8)
#: Pictures of the data whose objects are counted at the end.
COUNTED = 128


class Swallowed(SteerError):
    """A run that found no objects, as some seeds do (Lin et al. 2020): another one may."""


class Scenes(Learner[SceneModel]):
    """The negative evidence lower bound of equations 5.1 to 5.5, the object-prior loss and the
    rotation loss.

    The background is trained alone first, then the object VAE alone, in boxes that stay where they
    begin, then everything. To a prior that is learned, boxes that show nothing are
    free; so that there are none, each object costs `cost` nats besides. Each part's learning rate
    falls to nothing along a cosine.
    """

    def __init__(
        self,
        model: SceneModel,
        *,
        steps: int,
        sigma: float = SIGMA,
        beta_box: float = 1.0,
        beta_what: float = 1.0,
        beta_presence: float = 1.0,
        cost: float = 5.0,
        object_prior: float = 10.0,
        rotation: float = 1.0,
        rate: float = 1e-3,
    ):
        self.model, self.steps, self.sigma, self.rate = model.train(), steps, sigma, rate
        self.betas = {"box": beta_box, "what": beta_what, "presence": beta_presence}
        self.cost = cost
        self.object_prior, self.rotation = object_prior, rotation if model.decoder.turns else 0.0
        networks: dict[str, list[nn.Module]] = {
            "background": [model.background],
            "objects": [model.objects],
            "boxes": [model.cells, model.decoder, model.prior],
        }
        self.optimisers = {
            name: torch.optim.Adam([w for part in parts for w in part.parameters()], lr=rate)
            for name, parts in networks.items()
        }

    def step(self, pictures: Tensor, step: int, noise: Noise) -> dict[str, float]:
        """One update; logs nats per picture, NaN once training has diverged."""
        learning = [name for name, begin in BEGIN.items() if step >= begin * self.steps]
        if learning == ["background", "objects"]:
            learning.remove("background")
        drawn = [noise.normal(len(pictures), *shape) for shape in self.model.noise_shapes()]
        if "objects" in learning:
            first, last = (BEGIN[name] * self.steps for name in ("objects", "boxes"))
            grown = min(1.0, (step - first) / max(last - first, 1))
            losses, told = self.whole(pictures, drawn, "boxes" in learning)
            losses["what"] = grown * losses["what"]
        else:
            losses, told = self.behind(pictures, drawn[0])
        for name in learning:
            for group in self.optimisers[name].param_groups:
                group["lr"] = self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            self.optimisers[name].zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        for name in learning:
            self.optimisers[name].step()
        return {name: value.item() for name, value in {**losses, **told}.items()}

    def judge(self, step: int, stats: dict[str, float]) -> None:
        """Raises Swallowed where the numbers of a step, counted from 1, tell of a failed run."""
        if step >= JUDGED * self.steps and step % JUDGED_EVERY == 0:
            share = stats["foreground share"]
            if not FOREGROUND[0] <= share <= FOREGROUND[1]:
                raise Swallowed(
                    f"no objects were found: the foreground has {share:.2%} of the pictures at "
                    f"step {step}."
                )

    def behind(
        self, pictures: Tensor, noise: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of the background alone."""
        posterior = self.model.background.posterior(pictures)
        shares, colours = self.model.background(posterior.sample(noise))
        any_colour = torch.zeros_like(pictures[:, :1])
        nll = mixture(pictures, shares, colours, any_colour + CLEAR, any_colour, self.sigma)
        away = posterior.divergence(standard(posterior.mean))
        return {"reconstruction": nll.mean(), "background": away.mean()}, {}

    def whole(
        self, pictures: Tensor, noise: list[Tensor], boxes: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of everything, and what else to log; boxes stay unless `boxes`."""
        seen = self.model(pictures, noise)
        composed = self.model.compose(seen.objects, seen.colours, seen.alphas, len(pictures))
        shares, colours = self.model.background(seen.background)
        before = log_likelihood(pictures, composed.foreground, self.sigma)
        nll = mixture(pictures, shares, colours, composed.clear, before, self.sigma)
        losses = {
            "reconstruction": nll.mean(),
            "background": seen.q_background.divergence(standard(seen.background)).mean(),
            **self.divergences(seen, len(pictures)),
        }
        if boxes:
            there = seen.objects.presences.detach()
            centred = (there * object_prior(seen.alphas, seen.objects.boxes)).sum() / len(pictures)
            losses["object prior"] = self.object_prior * centred
            if self.rotation:
                along = (there * alignment(seen.alphas, seen.objects.boxes)).sum() / len(pictures)
                losses["rotation"] = self.rotation * along
        told = {
            "foreground share": 1 - composed.clear.mean(),
            "objects": seen.presences.sum() / len(pictures),
            "looked at": seen.looked_at.sum() / len(pictures),
        }
        return losses, told

    def divergences(self, seen: Inferred, count: int) -> dict[str, Tensor]:
        """Those of equation 5.4, in nats a picture."""
        p_presence, p_box, p_what = self.model.priors(seen)
        what = seen.q_what.divergence(p_what.at(seen.looked_at))
        box = seen.q_box.divergence(p_box)
        presence = seen.q_presence.divergence(p_presence)
        found = {
            "what": (seen.objects.presences * what).sum(),
            "box": (seen.presences * box).sum(),
            "presence": presence.sum(),
        }
        weighted = {name: self.betas[name] * value / count for name, value in found.items()}
        return {**weighted, "count": self.cost * seen.presences.sum() / count}

    def export(self, folder: Path, options: dict[str, Any], pictures: Callable[[], Tensor]) -> None:
        """Writes the model's folder, with what backgrounds are like, and how many objects."""
        shown = pictures()
        with torch.no_grad():
            codes = [self.model.background.posterior(some).mean for some in shown.split(256)]
        self.model.usual.fit(torch.cat(codes))
        calibrate(self.model.eval(), shown[:COUNTED])
        super().export(folder, options, pictures)

    @torch.no_grad()
    def preview(self, pictures: Tensor) -> Tensor:
        """Pictures over what the model makes of them."""
        seen = self.model(pictures)
        composed = self.model.compose(seen.objects, seen.colours, seen.alphas, len(pictures))
        return side_by_side(pictures, self.model.picture(seen.background, composed))
