#!/usr/bin/env bash
# Installs the C library: vmm-capi/install.sh PREFIX [LIBRARIES]
set -euo pipefail

if [ $# -lt 1 ] || [ "$1" = --help ]; then
    cat <<'TEXT'
Usage: vmm-capi/install.sh PREFIX [LIBRARIES]

Builds libvmm.so and libvmm.a (optimized as a whole, which takes some minutes) and installs them with vmm.h and vmm.pc
below PREFIX. With LIBRARIES, a directory that has them, nothing is built.

  vmm-capi/install.sh /usr/local
  cc -std=c99 examples/hello.c $(pkg-config --cflags --libs vmm) -o hello
TEXT
    [ $# -ge 1 ] && exit 0 || exit 2
fi

mkdir -p "$1"
prefix=$(realpath "$1")
libraries=${2:-}
[ -z "$libraries" ] || libraries=$(realpath "$libraries")
cd "$(dirname "$0")/.."
if [ -z "$libraries" ]; then
    cargo rustc --profile dist --quiet -p vmm-capi --lib --crate-type cdylib,staticlib
    libraries=${CARGO_TARGET_DIR:-target}/dist
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

install -D -m 644 include/vmm.h "$prefix/include/vmm.h"
install -D -m 644 "$libraries/libvmm.a" "$prefix/lib/libvmm.a"
install -D -m 755 "$libraries/libvmm.so" "$prefix/lib/libvmm.so.$version"
ln -sf "libvmm.so.$version" "$prefix/lib/libvmm.so.0"
ln -sf libvmm.so.0 "$prefix/lib/libvmm.so"
mkdir -p "$prefix/lib/pkgconfig"
sed -e "s|@PREFIX@|$prefix|" -e "s|@VERSION@|$version|" vmm-capi/vmm.pc.in > "$prefix/lib/pkgconfig/vmm.pc"
echo "installed vmm $version below $prefix"
