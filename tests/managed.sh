#!/bin/bash
# Programs of tests/managed, which know nothing of vmsm: plain, then in `vmsm run` with a quarter of
# the memory that they use and less, with delays at random points, and with a slow pagefile. TAP.

. "$(dirname "$0")/run_shell" managed

# check NAME PROGRAM COMMAND…: every line of its output is ok, and its status 0.
check() {
    name=$1
    path=$build/tests/managed/$2
    shift 2
    timeout 100 "$@" "$path" >"$dir/out" 2>"$dir/err"
    status=$?
    drop_advice "$dir/err"
    [ $status -eq 0 ] && grep -q '^ok' "$dir/out" && ! grep '^not ok' "$dir/out" && [ ! -s "$dir/err" ]
    ok $? "$name"
}

for program in memory heap forks process calls; do
    check "$program, plain" $program
    check "$program, with 6 MiB" $program "$vmsm" run --memory 6M --
    check "$program, with 6 MiB and delays" $program "$vmsm" run --memory 6M --yield-delay 20us \
        --fault-threads 1 --
    check "$program, with 8 MiB and a slow pagefile" $program "$vmsm" run --memory 8M \
        --store-delay 200us --
    check "$program, with more memory than it needs" $program "$vmsm" run --memory 256M --
done

check "borrow, plain" borrow
check "borrow, with 128 MiB" borrow "$vmsm" run --memory 128M --

check "late, plain" late
check "late, with 128 MiB" late "$vmsm" run --memory 128M --
check "late, with 128 MiB, guarded" late "$vmsm" run --memory 128M --kernel-faults off --

finish
