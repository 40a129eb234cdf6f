#!/usr/bin/env bash
# What a Jetson installs, resolved here: wheels alone, for aarch64 and the Python of JetPack 6 (3.10) and 7 (3.12).
# Takes a network and uv (pip install uv); downloads no package.
set -euo pipefail
cd "$(dirname "$0")/.."
UV=${UV:-uv}
command -v "$UV" > /dev/null || { echo "check_jetson: uv is not installed; pip install uv, or set UV" >&2; exit 1; }
for python in 3.10 3.12; do
  for extras in jetson jetson,serve,video,parquet; do
    chosen=(); for extra in ${extras//,/ }; do chosen+=(--extra "$extra"); done
    found=$("$UV" pip compile --quiet --no-header --no-annotate --python-platform aarch64-manylinux_2_28 \
      --python-version "$python" --only-binary :all: "${chosen[@]}" pyproject.toml)
    if [ "$python" = 3.10 ] && ! grep -q '^numpy==1\.' <<< "$found"; then
      echo "check_jetson: JetPack 6 would get $(grep '^numpy==' <<< "$found"), beside TensorRT 10.3 it needs NumPy 1" >&2; exit 1
    fi
    if grep -qE '^(tensorrt|pycuda|onnxruntime-gpu|nvidia-|torch)' <<< "$found"; then
      echo "check_jetson: [$extras] brings what is JetPack's: $(grep -E '^(tensorrt|pycuda|onnxruntime-gpu|nvidia-|torch)' <<< "$found" | tr '\n' ' ')" >&2; exit 1
    fi
    echo "Python $python [$extras]: $(wc -l <<< "$found") packages, $(grep '^onnxruntime==' <<< "$found"), $(grep '^numpy==' <<< "$found")"
  done
done
