#!/bin/sh
# Install the Debian packages that are missing, and do nothing if none is.
#
#   scripts/install-deps.sh [build|bench|check|presubmit]
#
# build: to build and run; bench: and to measure; check: to build and to run the
# tests; presubmit: and for every other check. Without root it prints the command to run, and fails.
set -eu

packages="gcc libc6-dev make pkg-config liburing-dev libsodium-dev libxxhash-dev libjansson-dev \
    libjemalloc-dev binutils"
bench="fio kmod"
check="perl e2fsprogs strace util-linux mount spin sqlite3 python3 python3-numpy xz-utils zstd \
    redis-server redis-tools memcached stress-ng g++ nodejs"
presubmit="clang libclang-rt-14-dev clang-format-14 clang-tidy-14 valgrind libc6-dbg"

case ${1:-build} in
build) ;;
bench) packages="$packages $bench" ;;
check) packages="$packages $bench $check" ;;
presubmit) packages="$packages $bench $check $presubmit" ;;
*)
    echo "install-deps.sh: \"$1\" is unknown; choose build, bench, check or presubmit" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null; then
    echo "This is not a Debian system. What Debian calls $packages must be there." >&2
    exit 0
fi

missing=
for package in $packages; do
    case $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true) in
    installed*) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "Packages are missing. As root, run:" >&2
    echo "  apt-get update && apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi

echo "Installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086 # a list of words
apt-get install -y -q --no-install-recommends $missing
