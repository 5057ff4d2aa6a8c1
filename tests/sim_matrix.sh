#!/bin/bash
# Every stage, mapper and trap under `vmsm sim`: no wrong page, balanced books, memory within its allowance.
#
#   tests/sim_matrix.sh        runs of SECONDS_EACH (default 1) seconds
set -u
cd "$(dirname "$0")/.."
vmsm=${VMSM:-${VMSM_BUILD:-build}/vmsm}
seconds=${SECONDS_EACH:-1}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
. tests/tap_shell
tap_evidence=$out

# run OPTION…: one check
run()
{
    timeout --kill-after=5 $((seconds * 3 + 40)) "$vmsm" sim --quiet --seconds "$seconds" "$@" \
        >"$out" 2>&1 && grep -q 'right, books balanced' "$out" && grep -q ': within' "$out"
    ok $? "sim $*"
}

usable=""
for pair in copy:thread copy:sigbus move:thread move:sigbus; do
    if "$vmsm" sim --quiet --virtual 1M --memory 512K --accesses 10 --threads 1 \
        --mapper "${pair%:*}" --trap "${pair#*:}" >"$out" 2>&1; then
        usable="$usable $pair"
    else
        skip "$pair cannot be used here: $(head -1 "$out")"
    fi
done

for pair in $usable soft:none; do
    common="--mapper ${pair%:*} --trap ${pair#*:} --virtual 32M"
    for stage in single basic full; do
        run $common --stage $stage --memory 8M --threads 8
        run $common --stage $stage --memory 1640K --threads 16 --run-max 1 --write 100
        run $common --stage $stage --memory 32M --threads 1 --run-max 64 --write 0
    done
    [ "${pair#*:}" != sigbus ] || continue # the features do not depend on the trap
    for feature in batching deferred fine_locks shared_locks preserve more_workers; do
        run $common --memory 8M --set $feature=off
    done
    run $common --memory 8M --write 0
    run $common --memory 8M --write 100 --run-max 64
done
for pair in $usable; do
    common="--mapper ${pair%:*} --trap ${pair#*:}"
    run $common --preset small
    run $common --preset harsh-disk,small
    run $common --preset spinning-locks,small
    run $common --preset small,harsh-disk,spinning-locks
    [ "${pair%:*}" = move ] || run $common --virtual 32M --memory 8M --dirty protect
done
run --mapper soft --virtual 32M --memory 8M --dirty protect
run --mapper soft --preset small,harsh-disk,spinning-locks

finish
