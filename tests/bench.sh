#!/bin/bash
# The benchmark: every workload runs on managed memory and finds what it wrote, what was changed
# behind its back is noticed, and wrong usage is refused in words; and the program that measures
# what the calls below cost. TAP. No figure is judged.
set -u
cd "$(dirname "$0")/.."

bench=${VMSM_BUILD:-$PWD/build}/bench/bench
LC_ALL=C
export LC_ALL
unset VMSM_CONF

if [ ! -x "$bench" ]; then
    echo "Bail out! $bench is missing: run make first"
    exit 1
fi
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/vmsm-bench-test.XXXXXX") || exit 1
chmod 777 "$dir"
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

. tests/tap_shell
tap_evidence="$dir/out $dir/err"

tiny=(--only managed --region 16M --rounds 1 --seconds 0.1 --warm-up 1 --settle 0
    --disk-seconds 0 --dir "$dir")

# call ARGUMENT…: run it small; leaves its exit status in $status.
call() {
    timeout 60 "$bench" "${tiny[@]}" "$@" >"$dir/out" 2>"$dir/err"
    status=$?
}

# refused PATTERN ARGUMENT…: status 2, one line that matches on standard error, nothing done.
refused() {
    local pattern=$1
    shift
    call "$@"
    [ "$status" -eq 2 ] && [ "$(wc -l <"$dir/err")" -eq 1 ] && grep -q -e "$pattern" "$dir/err" &&
        [ ! -s "$dir/out" ]
    ok $? "bench $*: refused, \"$pattern\""
}

# json_has FILTER: a word in the file, as the JSON library has laid it out.
json_has() {
    grep -q -e "$1" "$dir/bench.json"
}

call --cells all --memory-share 25,150 --json "$dir/bench.json" --markdown "$dir/bench.md" \
    --plots "$dir/plots/deep" --targets
[ "$status" -eq 0 ]
ok $? "all workloads, managed memory: every read right, the books balance"
missing=0
for name in $("$bench" --help | sed -n '/^Cells:/,/^Status/p' | awk '/^  /{print $1}'); do
    grep -q "^$name  *[0-9]" "$dir/out" || missing=1
done
[ "$missing" -eq 0 ]
ok $? "each workload has its line"
json_has '"workload": "prefault"' && json_has '"counters": {' && json_has '"interrupted": false' &&
    [ "$(head -c 1 "$dir/bench.json")" = "{" ] && perl -MJSON::PP -e \
    'local $/; my $r = decode_json(<STDIN>); exit(@{$r->{cells}} > 20 ? 0 : 1)' <"$dir/bench.json"
ok $? "the JSON parses and has all cells"
grep -q '^| rand | 2 | 25 % | [0-9]' "$dir/bench.md" &&
    grep -q '^| rand, 2 thread' "$dir/bench.md" &&
    [ "$(grep '^| rand\b.* % |' "$dir/bench.md" | tr -cd '|\n' | sort -u)" = '|||||||||||||||||' ]
ok $? "the Markdown has a row for each cell, of as many columns as the heading"
grep -q '</svg>' "$dir/plots/deep/share-fill.svg"
ok $? "a plot is drawn, its directory made"
grep -q '^Short form' "$dir/out" && grep -q 'short form: .*--full' "$dir/err"
ok $? "the short form says that it is"
[ -z "$(find "$dir" -name 'vmsm-bench-*.pages')" ]
ok $? "the pagefile is removed"

call --cells moving --warm-up 0.001 --json "$dir/bench.json" --markdown "$dir/bench.md"
[ "$status" -eq 0 ] && grep -q '^moving  *2  *25% managed .* \*$' "$dir/out" &&
    grep -q '^\* warming up took' "$dir/out" && grep -q '"cut": true' "$dir/bench.json" &&
    grep -q '^| moving\\\* | 2 |' "$dir/bench.md"
ok $? "warming up that is cut short is told of"

call --cells chase,rmw,flood --threads 1,5 --plan cross --set mapper=copy --memory-share 10
[ "$status" -eq 0 ] && grep -q '^rmw  *5  *10%' "$dir/out" && grep -q '^chase  *1  *10%' "$dir/out"
ok $? "narrowed to cells, threads and a memory share"

call --kinds managed,sigbus --cells fill,rand --memory-share 10,25 --side-share 25
[ "$status" -eq 0 ] && grep -q '^rand  *2  *10% managed' "$dir/out" &&
    grep -q '^rand  *2  *25% sigbus' "$dir/out" && ! grep -q '^rand  *2  *10% sigbus' "$dir/out"
ok $? "faults resolved in the thread that has them, where the plan wants it"

call --cells scan --corrupt-page 0
[ "$status" -eq 1 ] && grep -q 'WRONG DATA in page 0,' "$dir/err"
ok $? "a word that changed is noticed: status 1"
ASAN_OPTIONS=handle_sigbus=0 TSAN_OPTIONS=handle_sigbus=0 VMSM_CONF=store_corrupt:1 \
    call --cells scan
[ "$status" -eq 1 ] && grep -q 'could not be read back' "$dir/err"
ok $? "pages that cannot be read back are noticed: status 1"

# A signal ends it: what there is gets reported, nothing stays. The cell would go on for a minute.
"$bench" "${tiny[@]}" --cells fill,scan --seconds 60 --json "$dir/cut.json" \
    >"$dir/out" 2>"$dir/err" &
pid=$!
for _ in $(seq 100); do
    grep -q 'fill, 2 threads' "$dir/err" && break
    sleep 0.1
done
kill -INT $pid
wait $pid
status=$?
[ "$status" -eq 130 ] && grep -q 'INTERRUPTED' "$dir/out" && grep -q '^fill ' "$dir/out" &&
    grep -q '"interrupted": true' "$dir/cut.json" &&
    [ -z "$(find "$dir" -name 'vmsm-bench-*.pages')" ]
ok $? "interrupted: what was measured is reported, nothing is left, status 130"

# The same while fio runs: nothing was measured yet.
if command -v fio >/dev/null; then
    "$bench" "${tiny[@]}" --cells fill --disk-seconds 60 >"$dir/out" 2>"$dir/err" &
    pid=$!
    for _ in $(seq 100); do
        for child in $(cat /proc/$pid/task/$pid/children 2>/dev/null); do
            [ "$(cat /proc/$child/comm 2>/dev/null)" = fio ] && break 2
        done
        sleep 0.1
    done
    kill -INT $pid
    wait $pid
    status=$?
    [ "$status" -eq 130 ] && grep -q 'INTERRUPTED' "$dir/out" &&
        grep -q '^No cell was measured' "$dir/out" && ! grep -q 'fio' "$dir/err"
    ok $? "interrupted in the disk's part: no failure of fio is reported, status 130"
else
    skip "interrupted in the disk's part: fio is not installed"
fi

if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
    cp "$bench" "$dir/bench"
    setpriv --reuid 65534 --regid 65534 --clear-groups timeout 60 "$dir/bench" "${tiny[@]}" \
        --set trap=sigbus --cells fill,run32w50 >"$dir/out" 2>"$dir/err"
    ok $? "any user can run it"
    setpriv --reuid 65534 --regid 65534 --clear-groups timeout 60 "$dir/bench" "${tiny[@]}" \
        --set trap=sigbus --kinds managed,swap --cells fill >"$dir/out" 2>"$dir/err"
    [ $? -eq 0 ] && grep -q '^bench: swap is left out: ' "$dir/err" &&
        grep -q '^swap is left out: ' "$dir/out"
    ok $? "without root the kernel's swap is left out, and it says why"
else
    skip "any user can run it: needs root to become another"
    skip "without root swap is left out: needs root to become another"
fi

refused 'did you mean --rounds' --round 3
refused 'not an option' sideways
refused 'did you mean "scan"' --cells scam
refused 'one of fill, scan, ' --cells nothing-like-it
refused 'one of managed, sigbus, swap, zram, mapped' --kinds paper
refused 'whole number from 1 to 256' --threads 0
refused 'whole number from 1 to 256' --threads 2,many
refused 'whole number from 1 to 400' --memory-share 0
refused 'whole number from 1 to 64' --rounds 1.5
refused 'a number from 0.01' --seconds -1
refused 'a size from 4M' --region 1K
refused 'star, cross' --plan spiral
refused 'fault_poll' --set fault_pole=1
refused 'works through pointers' --set mapper=soft
refused 'a page of the region' --corrupt-page 99999999
refused 'fill and hits' --cells rand --memory-share 150
refused 'without a value' --full=yes
refused 'needs a value: LIST' --cells
refused 'given as --set trap=VALUE' --trap sigbus
refused 'a directory that is there' --dir "$dir/nothing"
call --cells fill --markdown "$dir/nothing/bench.md"
[ "$status" -eq 3 ] && grep -q 'cannot write' "$dir/err" && [ ! -s "$dir/out" ]
ok $? "nor where the Markdown cannot be written"
call --cells fill --json "$dir/nothing/bench.json"
[ "$status" -eq 3 ] && grep -q 'cannot write' "$dir/err" && [ ! -s "$dir/out" ]
ok $? "where the JSON cannot be written nothing is measured: status 3"

# Lower bounds, without a manager.
bound=${bench%/*}/bound
timeout 60 "$bound" --quick --rounds 2 --region 32M --seconds 0.02 --dir "$dir" \
    --json "$dir/bound.json" >"$dir/out" 2>"$dir/err"
status=$?
if grep -q 'no userfaultfd' "$dir/err"; then
    skip "bound: userfaultfd is not permitted here"
elif grep -q 'io_uring cannot be used' "$dir/err"; then
    skip "bound: io_uring is not permitted here"
else
    [ "$status" -eq 0 ] && grep -q '^an empty system call .* us ' "$dir/out" &&
        grep -q '^SIGBUS, 16 threads .* touches/s' "$dir/out" &&
        grep -q '^run32w50, handler thread, 2 threads .* touches/s .* p99.9 ' "$dir/out" &&
        grep -q '^fill, SIGBUS, 2 threads .* touches/s' "$dir/out" &&
        grep -q '^prefault, registered .* reads/s' "$dir/out" &&
        grep -q '^run32, pager by SIGBUS .* at least 4 ' "$dir/out" &&
        grep -q '^run32w10, 16 + 16, 2 threads .* touches/s' "$dir/out" &&
        grep -q '^run32w10, length not known .* at least 3.5 ' "$dir/out" &&
        grep -q '^moving, SIGBUS, 2 threads .* touches/s .* hits ' "$dir/out" &&
        grep -q '^moving, groups of 16, 2 threads .* touches/s' "$dir/out" &&
        grep -q '^moving, by groups .* at least 1.5 ' "$dir/out" &&
        grep -q '^zipf0.9 .* 1.5 ' "$dir/out" &&
        grep -q '^fill, to swap .* at least 6 ' "$dir/out" && ! grep -qw nan "$dir/out"
    ok $? "bound: calls, pagers, eviction and aims have their lines; each page read was right"
    perl -MJSON::PP -e 'local $/; my $r = decode_json(<STDIN>); exit(@{$r->{aims}} > 10 &&
        $r->{figures}{COPY_64}{median} > 0 && $r->{pagers}{thread}{2}{touches_a_second}{median} > 0
        && $r->{pager_cells}{sigbus}{run32w50}{touches_a_second}{median} > 0
        && $r->{pager_cells}{thread}{fill}{p999}{median} > 0
        && $r->{pager_windows}{"16+16"}{run32}{touches_a_second}{median} > 0
        && $r->{pager_windows}{"16+16"}{moving}{hits}{median}
           > $r->{pager_cells}{sigbus}{moving}{hits}{median}
        && $r->{prefault}{plain}{reads_a_second}{median} > 0
        && $r->{eviction}{hot}{min} > $r->{eviction}{hot}{lru} ? 0 : 1)' <"$dir/bound.json"
    ok $? "bound: the JSON parses and has figures"
fi
[ -z "$(find "$dir" -name 'vmsm-bound-*')" ]
ok $? "bound: its file is removed"
timeout 60 "$bound" --region 1K >"$dir/out" 2>"$dir/err"
[ $? -eq 2 ] && grep -q 'a size from 32M' "$dir/err" && [ ! -s "$dir/out" ]
ok $? "bound: wrong usage is refused in words"

finish
