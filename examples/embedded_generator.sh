#!/usr/bin/env bash
# Remakes the embedded generator: examples/embedded_generator.sh [FOLDER]
# About an hour on one core. With the same torch on the same kind of machine, one thread gives the
# same weights bit for bit.
set -euo pipefail
out=${1:-steer/embedded/sprites}
export OMP_NUM_THREADS=1

steer train-vae sprites -o "$out" --seed 0 --resume \
    --likelihood gaussian --beta 20 --warm-up 1000 --rate 1e-3 --batch 64 --steps 16000 \
    --widths 16,32,64,64 --broadcast 16 --every 500

mkdir -p "$out/directions"
for transform in translate-x translate-y zoom rotate brightness hue; do
    steer fit-direction --model "$out" --transform "$transform" --starts 128 --samples 512 \
        -o "$out/directions/$transform.safetensors"
done

measures=$(mktemp -d)
steer evaluate --model "$out" -n 128 -o "$measures" --json > /dev/null
cp "$measures/evaluation.json" "$out/measures.json"
cat >> "$out/README.md" <<'CARD'

Made by `examples/embedded_generator.sh`, which also fitted `directions/`; what they measure, by
`steer evaluate -n 128`, is in `measures.json`.
CARD
