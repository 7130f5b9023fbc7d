#!/bin/sh
# The study on a lent GPU machine, in one call, from a bare checkout to results:
#   CONFIG (h100, shipped_gpu, quick), LIMIT (seconds of the call), OUT (folder of what comes back),
#   WORK (scratch folder), BACKEND. Carried along: .whl (packages that the machine lacks), .study/data, and
#   .study/target where it is trained already.
# What is worth keeping is packed into OUT every 15 seconds and at the end, so that a kill loses little:
#   study.tar.gz (figures of every seed, texts, report), gains.png, curves.png, log.txt, and the target in
#   parts: cat target.tar.* | tar x
set -eu
began=$(date +%s)
CONFIG=${CONFIG:-h100} LIMIT=${LIMIT:-480} OUT=${OUT:-.study/out} WORK=${WORK:-/tmp/study} PYTHON=${PYTHON:-python3}
TARGET=${TARGET:-.study/target}
mkdir -p "$OUT" "$WORK"
if ls .whl/*.whl > /dev/null 2>&1; then
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
fi
export PYTHONPATH=/tmp/site:. PYTHONUNBUFFERED=1 TQDM_DISABLE=1

pack() {
    tar czf "$WORK.tar.gz" --exclude=examples.npz -C "$WORK" . && mv "$WORK.tar.gz" "$OUT/study.tar.gz"
    for name in gains.png curves.png; do
        if [ -f "$WORK/$name" ]; then cp "$WORK/$name" "$OUT/$name"; fi
    done
    # Once, and only a target that was trained here: four parts of at most 15 MiB.
    if [ ! -f "$OUT/target.tar.aa" ] && [ ! -f "$WORK/had_target" ] && [ -f "$TARGET/training.json" ]; then
        tar cf - -C "$(dirname "$TARGET")" "$(basename "$TARGET")" | split -b 15728640 - "$OUT/target.tar."
    fi
}

if [ -f "$TARGET/training.json" ]; then touch "$WORK/had_target"; fi
# Its output goes nowhere: a sleep that outlives it must not hold the caller's.
(while sleep 15; do pack || true; done) > /dev/null 2>&1 &
packer=$!
trap 'kill $packer 2> /dev/null || true; pack' EXIT

# 25 s are kept for the report, the pictures and the packing.
left=$((LIMIT - ($(date +%s) - began) - 25))
"$PYTHON" examples/objective_study.py "benchmarks/study/$CONFIG.toml" --output "$WORK" \
    --deadline "$left" ${FIT:---fit} ${BACKEND:+--backend "$BACKEND"} > "$OUT/log.txt" 2>&1 \
    || { tail -c 4000 "$OUT/log.txt"; exit 1; }
cat "$OUT/log.txt"
