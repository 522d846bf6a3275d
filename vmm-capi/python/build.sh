#!/usr/bin/env bash
# Builds the Python wheel: vmm-capi/python/build.sh DIRECTORY [LIBRARIES]
set -euo pipefail

if [ $# -lt 1 ] || [ "$1" = --help ]; then
    cat <<'TEXT'
Usage: vmm-capi/python/build.sh DIRECTORY [LIBRARIES]

Builds libvmm.so (optimized as a whole, which takes some minutes) and puts a wheel with it into DIRECTORY. With
LIBRARIES, a directory that has it, nothing is compiled. Needs pip, and what pyproject.toml names: by the network, or
installed and PIP_NO_BUILD_ISOLATION=0 set.

  vmm-capi/python/build.sh dist && pip install dist/vmm-*.whl
TEXT
    [ $# -ge 1 ] && exit 0 || exit 2
fi

mkdir -p "$1"
wheels=$(realpath "$1")
libraries=${2:-}
[ -z "$libraries" ] || libraries=$(realpath "$libraries")
cd "$(dirname "$0")/../.."
if [ -z "$libraries" ]; then
    cargo rustc --profile dist --quiet -p vmm-capi --lib --crate-type cdylib,staticlib
    libraries=$(realpath "${CARGO_TARGET_DIR:-target}/dist")
fi
# What tests inject is for nobody else.
if nm --dynamic "$libraries/libvmm.so" | grep -q ' vmm_testing_' && [ "${VMM_TESTING:-}" != 1 ]; then
    echo "build.sh: $libraries/libvmm.so was built with the feature 'testing'; VMM_TESTING=1 makes a wheel of it" >&2
    exit 1
fi
strip -o vmm-capi/python/vmm/libvmm.so "$libraries/libvmm.so"
cd vmm-capi/python
"${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir "$wheels" .
rm -rf build vmm.egg-info
