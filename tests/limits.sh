#!/bin/bash
# What the system denies is said in words, and a pagefile survives its user's death.
set -u
cd "$(dirname "$0")/.."
vmsm=${VMSM:-${VMSM_BUILD:-build}/vmsm}
dir=$(mktemp -d /var/tmp/vmsm-limits.XXXXXX)
victim=
trap '[ -z "$victim" ] || kill -9 "$victim" 2>/dev/null; rm -rf "$dir"' EXIT
. tests/tap_shell
tap_evidence=$dir/out

small=(--virtual 8M --memory 2M --threads 2 --accesses 5000 --quiet)

"$vmsm" sim "${small[@]}" >"$dir/out" 2>&1
usable=$?

# Descriptors
(ulimit -n 8 && exec "$vmsm" sim "${small[@]}") >"$dir/out" 2>&1
status=$?
[ $status -eq 3 ] && grep -q 'ulimit -n' "$dir/out"
ok $? "too few descriptors: status 3, and which limit to raise"

# Address space
(ulimit -v 300000 && exec "$vmsm" sim "${small[@]}" --virtual 1G) >"$dir/out" 2>&1
status=$?
[ $status -eq 3 ] && grep -q 'ulimit -v\|address space' "$dir/out"
ok $? "too little address space: status 3, in words"

(ulimit -n 8 && exec "$vmsm" doctor) >"$dir/out" 2>&1
status=$?
[ $status -eq 3 ] && grep -q -- '-> ulimit -n 1024' "$dir/out" && ! grep -q 'yes: vmsm' "$dir/out"
ok $? "too few descriptors: the doctor says so, and the command that mends it"
(ulimit -v 200000 && exec "$vmsm" doctor) >"$dir/out" 2>&1
status=$?
[ $status -eq 3 ] && grep -q -- '-> ulimit -v unlimited' "$dir/out" && ! grep -q 'yes: vmsm' "$dir/out"
ok $? "too little address space: the doctor says so, and the command that mends it"
[ "$(ulimit -v)" != unlimited ] || ! "$vmsm" doctor 2>&1 | grep -q 'ulimit -v'
ok $? "without a limit it says nothing of that"
for kib in 40000 50000 60000 70000; do
    (ulimit -v $kib && exec "$vmsm" sim "${small[@]}" --mapper soft) >"$dir/out" 2>&1
    grep -q 'thread .* of' "$dir/out" && break
done
! grep -q 'thread .* of' "$dir/out" || grep -q 'ulimit -v' "$dir/out"
ok $? "a thread that address space is lacking for: the message names it"

# Memory under the minimum
"$vmsm" sim --memory 100K >"$dir/out" 2>&1
[ $? -eq 2 ] && grep -q '256K' "$dir/out"
ok $? "memory under the minimum: status 2, and what the minimum is"

# Permission
knob=/proc/sys/vm/unprivileged_userfaultfd
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null && [ "$(cat $knob 2>/dev/null)" = 0 ]; then
    chmod 755 "$dir"
    cp "$vmsm" "$dir/vmsm"
    nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups env TMPDIR=/var/tmp "$dir/vmsm")
    "${nobody[@]}" sim "${small[@]}" >"$dir/out" 2>&1
    status=$?
    [ $status -eq 3 ] && grep -q 'unprivileged_userfaultfd=1' "$dir/out" && grep -q soft "$dir/out"
    ok $? "no permission: status 3, what root can do, and what works without"
    "${nobody[@]}" sim "${small[@]}" --mapper soft >"$dir/out" 2>&1
    ok $? "no permission: the mapper soft works"
    "${nobody[@]}" sim "${small[@]}" --trap sigbus >"$dir/out" 2>&1
    ok $? "no permission: the trap sigbus works"
    "${nobody[@]}" doctor >"$dir/out" 2>&1
    [ $? -eq 3 ] && grep -q 'sysctl' "$dir/out"
    ok $? "no permission: the doctor says so, and the command that mends it"
else
    skip "not root, or everybody may use userfaultfd"
fi

# A full disk, and regions too large to be gone through
if [ $usable -eq 0 ]; then
    timeout -k 5 120 "$vmsm" sim --preset small --seconds 1 --quiet --write 100 --store-full-after 500 \
        --patience 200ms >"$dir/out" 2>&1
    status=$?
    [ $status -eq 4 ] && grep -q '^INCOMPLETE: not all pages could be checked: .* and right' "$dir/out"
    ok $? "a full disk: the run ends, status 4, and says that not all pages could be checked"
    [ "$(grep -c 'no frame can be had' "$dir/out")" -le 30 ] && grep -q 'line 20 of its kind' "$dir/out"
    ok $? "a full disk: what is said again and again is cut short"
    timeout -k 5 120 "$vmsm" sim --virtual 256G --memory 4M --accesses 5000 --overcommit --quiet >"$dir/out" 2>&1
    ok $? "256 GiB, nearly none of it touched: the sweep ends"
    grep -q '^ *(all near any that was accessed, and [1-9][0-9,]* samples' "$dir/out"
    ok $? "and the report says what was not checked"
else
    skip "a full disk: this kernel or user cannot run the simulation"
fi

# The signals that end a run, the sweep after it, and that
"$vmsm" sim --mapper soft --preset small --store-delay 300ms --seconds 600 --quiet >"$dir/out" 2>"$dir/err" &
victim=$!
await()
{
    for _ in $(seq 600); do
        grep -q "$1" "$2" && return 0
        kill -TERM "$victim" 2>/dev/null || return 1
        sleep 0.1
        [ "$3" = once ] || continue
        for _ in $(seq 300); do
            grep -q "$1" "$2" && return 0
            sleep 0.1
        done
        return 1
    done
    return 1
}
sleep 0.5
await 'ending early' "$dir/err" once && await 'without checking the remaining pages' "$dir/err" once
ok $? "the first signal ends the run, the second the check of its pages"
wait "$victim"
status=$?
victim=
[ $status -eq 4 ] && grep -q '^INCOMPLETE: .*a signal ended the sweep; books balanced' "$dir/out"
ok $? "which is said, with a status of its own"

# A pagefile whose user is killed
if [ $usable -ne 0 ]; then
    skip "this kernel or user cannot run the simulation"
else
    "$vmsm" sim --virtual 8M --memory 2M --seconds 60 --quiet --pagefile "$dir/pages" >/dev/null 2>&1 &
    victim=$!
    for _ in $(seq 100); do
        [ -s "$dir/pages" ] && break
        sleep 0.1
    done
    "$vmsm" sim "${small[@]}" --pagefile "$dir/pages" >"$dir/out" 2>&1
    status=$?
    [ $status -eq 3 ] && grep -qi 'in use\|used by' "$dir/out"
    ok $? "a pagefile in use: status 3, in words"
    kill -9 "$victim"
    wait "$victim" 2>/dev/null
    victim=
    [ -s "$dir/pages" ] && [ "$(stat -c %a "$dir/pages")" = 600 ]
    ok $? "it stays when its user is killed, for its owner only"
    "$vmsm" sim "${small[@]}" --pagefile "$dir/pages" >"$dir/out" 2>&1 &&
        grep -q 'right, books balanced' "$dir/out"
    ok $? "and serves the next run, with nothing stale"
fi

finish
