"""The whole path in Python: load, invert a picture, fit a direction, set it exactly, look, judge.

Run: python examples/whole_path.py [--model sprites] [--picture photo.png] [-o walk.png]
"""

from argparse import ArgumentParser

import steer
from steer.images import fit

options = ArgumentParser(description=__doc__)
options.add_argument("--model", default="sprites")
options.add_argument("--picture", help="by default one that the generator made")
options.add_argument("--starts", type=int, default=64)
options.add_argument("--samples", type=int, default=256)
options.add_argument("-o", "--out", default="walk.png")
given = options.parse_args()

generator = steer.load(given.model)
if given.picture:
    picture = fit(steer.read_image(given.picture), *generator.picture)[None]
else:
    picture = steer.draw(generator, generator.latent.sample(1, seed=7))
found = steer.invert(generator, picture)
print(f"inverted: {found.loss.item():.2g} left after {found.evaluations.item()} evaluations")

knob = steer.fit_direction(generator, "translate-x", starts=given.starts, samples=given.samples)
print(f"fitted: R^2 {knob.quality['held_out_r2']:.2f} on held-out starts")
wanted = steer.Setting("translate-x", "set", 0.1)
moved = steer.control(generator, found.z, [wanted], {"translate-x": knob}, exact=True)
print(f"asked 0.1, measured {moved.measured.item():.4f}, status {moved.status.item()}")

values = [-0.2, -0.1, 0.0, 0.1, 0.2]
walk = steer.frames(generator, found.z, [], {knob.name: knob}, along=knob.name, values=values)
steer.write_png(given.out, steer.as_grid(walk, "translate-x"))

judged = steer.evaluate(generator, [knob], samples=given.samples, values=values)
for row in judged.table()[0]["accuracy"]:
    print(f"{row['loop']:>6} loop at {row['value']:+.1f}: off by {row['rms']:.4f} RMS")
