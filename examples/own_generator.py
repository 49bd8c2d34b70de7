# Somebody else's network as a generator: here a disc that walks, in pictures from -1 to 1.
import torch

import steer
from steer.generators import generators


@generators.register("disc")  # a package names it under the entry point group "steer.generators"
class Disc(steer.Generator):
    def __init__(self):
        super().__init__(steer.LatentSpace(2), steer.PictureShape(1, 32, 32))

    def forward(self, z):
        x, y = (0.15 * z[:, :, None, None]).unbind(1)
        at = torch.linspace(-0.5, 0.5, 32, device=z.device)
        return (torch.tanh(20 * (0.15 - torch.hypot(at - x, at[:, None] - y)))[:, None] + 1) / 2


print(steer.fit_direction(steer.load("disc"), "translate-x", starts=16).quality)
