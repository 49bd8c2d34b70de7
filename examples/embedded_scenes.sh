#!/usr/bin/env bash
# Remakes the embedded scene model: examples/embedded_scenes.sh [FOLDER]
# Three quarters of an hour on one core.
set -euo pipefail
out=$(realpath -m "${1:-steer/embedded/scenes}")
export OMP_NUM_THREADS=1
figures=$(realpath "$(dirname "$0")")/figures

steer decompose --train scenes -o "$out" --seed 0 --resume \
    --grid 8 --boxes 1 --batch 16 --bf16 --steps 10000 --every 500

measures=$(mktemp -d)
python "$figures/scenes.py" "$out" -n 1000 -o "$measures"
cp "$measures/scenes.json" "$out/measures.json"
cat >> "$out/README.md" <<'CARD'

Made by `examples/embedded_scenes.sh`; what it finds in 1,000 held-out pictures, by
`examples/figures/scenes.py -n 1000`, is in `measures.json`.
CARD
