#!/usr/bin/env bash
# Builds the wheel, installs it where nothing else is, runs its tests: vmm-capi/python/test.sh [LIBRARIES]
# VMM_LONG=1 makes thousands of machines instead of hundreds. VMM_GUESTS, what tests/lab/run --guests prints, has a Linux
# guest booted from a disk in Python.
set -euo pipefail

[ "${1:-}" != --help ] || { sed -n 's/^# //p' "$0"; exit; }
libraries=${1:-}
[ -z "$libraries" ] || libraries=$(realpath "$libraries")
cd "$(dirname "$0")"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

if ! "${PYTHON:-python3}" -m venv "$place/venv"; then
    echo "skipped: the Python package: no virtual environment (Debian: apt-get install python3-venv)"
    exit 0
fi
if ! "$place/venv/bin/pip" install --quiet --upgrade --disable-pip-version-check cffi pytest setuptools; then
    echo "skipped: the Python package: its tools cannot be had here (pip install cffi pytest setuptools)"
    exit 0
fi
VMM_TESTING=1 PIP_NO_BUILD_ISOLATION=0 PYTHON="$place/venv/bin/python" ./build.sh "$place" $libraries
"$place/venv/bin/pip" install --quiet --upgrade --disable-pip-version-check "$place"/vmm-*.whl
# Away from the sources: what is tested is what was installed.
cp -r tests "$place/tests"
cd "$place"
root=$(realpath "$OLDPWD/../..")
export VMM_ROOT="$root" VMM_GUEST_INCLUDE="$root/vmm-sandbox/guest/include" VMM_TEST_GUESTS="$root/vmm-capi/tests/guests"
limit=1200
[ "${VMM_LONG:-}" != 1 ] || limit=7200
timeout "$limit" venv/bin/python -m pytest -q -rs tests
timeout 600 venv/bin/python -m pytest -q --doctest-modules --pyargs vmm
if venv/bin/pip install --quiet --disable-pip-version-check mypy; then
    venv/bin/python -m mypy --config-file "$OLDPWD/pyproject.toml" --package vmm
else
    echo "skipped: the types of the Python package: mypy cannot be had here (pip install mypy)"
fi
