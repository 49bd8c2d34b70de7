#!/usr/bin/env bash
# Remakes the generator `textured`, an AVAE: examples/embedded_avae.sh [FOLDER]
# About an hour on one core. With the same torch on the same kind of machine, one thread gives the
# same weights bit for bit.
set -euo pipefail
out=$(realpath -m "${1:-steer/embedded/textured}")
export OMP_NUM_THREADS=1
cd "$(mktemp -d)"

# the weight of the divergence falls, so that latents open one after the other, each for a factor:
# with all of them from the start, position spreads over four
steer train-avae sprites-textured -o vae-1 --objective vae --seed 0 \
    --beta 5 --rate 2e-3 --latent 7 --width 24 --batch 32 --steps 2000
steer train-avae sprites-textured -o vae-2 --objective vae --seed 1 --from vae-1 \
    --beta 2.5 --rate 1.5e-3 --latent 7 --width 24 --batch 32 --steps 1200
steer train-avae sprites-textured -o vae-3 --objective vae --seed 2 --from vae-2 \
    --beta 1.2 --rate 1e-3 --latent 7 --width 24 --batch 32 --steps 1200
steer train-avae sprites-textured -o vae-4 --objective vae --seed 3 --from vae-3 \
    --beta 0.6 --rate 7e-4 --latent 7 --width 24 --batch 32 --steps 1500
steer train-avae sprites-textured -o "$out" --seed 0 --resume --vae vae-4 \
    --latent 7 --xi 16 --width 24 --batch 32 --rate 4e-4 --steps 10000 --every 250

mkdir -p "$out/directions"
for transform in translate-x translate-y zoom rotate brightness hue; do
    steer fit-direction --model "$out" --transform "$transform" --starts 64 --samples 512 \
        -o "$out/directions/$transform.safetensors"
done

steer evaluate --model "$out" -n 128 -o . --json > /dev/null
cp evaluation.json "$out/measures.json"
cat >> "$out/README.md" <<'CARD'

Made by `examples/embedded_avae.sh`, which also fitted `directions/`; what they measure, by
`steer evaluate -n 128`, is in `measures.json`.
CARD
