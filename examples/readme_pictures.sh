#!/usr/bin/env bash
# Remakes every picture of the README: examples/readme_pictures.sh [FOLDER] [STARTS]
set -euo pipefail
out=${1:-docs}
starts=${2:-32}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

for name in translate-x hue; do
    steer fit-direction --transform "$name" --starts "$starts" --samples "$((4 * starts))" \
        -o "$work/$name.safetensors"
done

# one object walks through stated positions
steer sample -n 6 | steer render --direction "$work/translate-x.safetensors" \
    --from -0.2 --to 0.2 --steps 9 --exact -o "$out/walk.png" -

# two knobs at once: the position is set, the hue is turned from where it is
steer sample -n 8 --seed 1 | steer render \
    --direction "$work/translate-x.safetensors" --direction "$work/hue.safetensors" \
    --set translate-x=0.15 --shift hue=30 --exact -o "$out/knobs.png" -

# what a direction knows of itself
steer show "$work/translate-x.safetensors" -o "$out/response.png" > "$work/shown"
