#!/bin/sh
# Installs the Debian packages that the slow tests and the benchmarks use, where they are missing and this user may.
# Without them (no root, no apt) the tests that need one say so by name and are skipped, except in CI.
packages="
binutils-riscv64-linux-gnu
cpio
cryptsetup-bin
device-tree-compiler
e2fsprogs
fish
gcc-riscv64-unknown-elf
gdb-multiarch
iperf3
iproute2
libslirp0
nbdkit
opensbi
passt
qemu-system-misc
qemu-utils
tshark
u-boot-qemu
zsh
"
missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, their tests will be skipped:$missing"
    exit 0
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing >/dev/null
