#!/bin/sh
# The command line of vmsm: messages and exit statuses of wrong and right usage. TAP.
#
# VMSM names the program; otherwise it is looked for in VMSM_BUILD or build.

root=$(cd "$(dirname "$0")/.." && pwd)
vmsm=${VMSM:-${VMSM_BUILD:-$root/build}/vmsm}
LC_ALL=C
export LC_ALL
unset VMSM_CONF

if [ ! -x "$vmsm" ]; then
    echo "Bail out! $vmsm is missing: run make first"
    exit 1
fi
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/vmsm-cli.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

. "$root/tests/tap_shell"
tap_evidence="$dir/out $dir/err"

# call ARGUMENT…: run it; leaves its exit status in $status.
call() {
    "$vmsm" "$@" >"$dir/out" 2>"$dir/err"
    status=$?
    drop_advice "$dir/err"
}

# refused STATUS PATTERN ARGUMENT…: ends with STATUS, with one line that matches on standard error.
refused() {
    expected=$1
    pattern=$2
    shift 2
    call "$@"
    [ "$status" -eq "$expected" ] && [ "$(wc -l <"$dir/err")" -eq 1 ] &&
        grep -q -e "$pattern" "$dir/err" && [ ! -s "$dir/out" ]
    ok $? "vmsm $*: $expected, \"$pattern\""
}

# prints PATTERN ARGUMENT…: ends with 0 and prints a line that matches on standard output.
prints() {
    pattern=$1
    shift
    call "$@"
    [ "$status" -eq 0 ] && grep -q -e "$pattern" "$dir/out" && [ ! -s "$dir/err" ]
    ok $? "vmsm $*: prints \"$pattern\""
}

# A run small enough to be over at once, on the mapper that needs nothing of the kernel.
small="--mapper soft --preset small --accesses 20000 --quiet"

prints 'vmsm [0-9]' --version
prints '^  sim ' --help
prints '^  --run-max ' sim --help
prints '^  --pagefile-size ' sim --help
prints '^  --json ' doctor --help
prints '^memory ' --show-settings
prints '^run-max  *7 ' sim --run-max 7 --show-settings
prints '^memory  *2728K ' sim --preset small --show-settings
prints '^memory  *1M ' sim --preset small --memory=1M --show-settings
prints '^store_delay  *5ms ' sim --preset small,harsh-disk --show-settings
prints '^spinning_locks  *on ' sim --preset small --preset spinning-locks --show-settings
prints '^spinning_locks  *on ' sim --spinning-locks --show-settings
prints '^preallocate  *off ' sim --preallocate off --show-settings
prints '^preallocate  *off ' sim --set preallocate=off --show-settings
prints '^workers  *off ' sim --stage single --show-settings
prints '^batching  *on ' sim --stage single --batching --show-settings
prints '^.TH VMSM 1' --man

call --man
for word in 'SH COMMANDS' 'B "\-\-pagefile\-size SIZE"' 'faults_first_touch' 'SH "EXIT STATUS"' \
    'VMSM_CONF' 'SH EXAMPLES'; do
    grep -q -F -e "$word" "$dir/out"
    ok $? "the manual page has $word"
done

call
[ "$status" -eq 2 ] && grep -q '^Usage:' "$dir/err"
ok $? "vmsm alone: 2, usage on standard error"
refused 2 'no command doctr; did you mean doctor?' doctr
refused 2 'no command xyzzy' xyzzy
refused 2 'no option --versio; did you mean --version?' --versio
refused 2 'a command comes first' --help sim

prints '^  sim ' help
prints '^  --run-max ' help sim
refused 2 'no command smi; did you mean sim?' help smi
prints '^  --memory SIZE .*\[a third of --virtual\]' sim --help
prints 'anyway \[auto\]' run --help
prints '^trap  *auto ' sim --trap auto --show-settings
prints '^hash_seed  *7 ' sim --set hash-seed=7 --show-settings
refused 2 'did you mean hash_seed?' sim --set hash_sed=1
refused 2 '--help takes no value' sim --help=1
refused 2 '--help takes no value' --help=1
refused 2 'preset: a name is missing' sim --preset small,
refused 2 'no option --memry; did you mean --memory?' sim --memry 1M
refused 2 'no option --run-mx; did you mean --run-max?' sim --run-mx=3
refused 2 'no option --jsn; did you mean --json?' doctor --jsn x
refused 2 'no option --memory' doctor --memory 1M
refused 2 '"extra" is not an option' sim extra
refused 2 'threads needs a value' sim --threads
refused 2 'quiet takes no value' sim --quiet=yes
refused 2 'did you mean memory?' sim --set memori=1M
refused 2 'not name=value' sim --set memory
refused 2 'did you mean soft?' sim --mapper sof
refused 2 'did you mean small?' sim --preset smal
refused 2 'neither on nor off' sim --direct=maybe

refused 2 'virtual: .*0 bytes' sim --virtual 0
refused 2 'virtual: .*negative' sim --virtual -1M
refused 2 'virtual: .*not a size' sim --virtual plenty
refused 2 'virtual: .*larger than can be' sim --virtual 65T
refused 2 'virtual: .*larger than can be' sim --virtual 99999999999999999T
refused 2 'memory: .*minimum of 256K' sim --memory 0
refused 2 'memory: .*minimum of 256K' sim --memory 100K
refused 2 'memory: .*negative' sim --memory=-1
refused 2 'memory: .*maximum' sim --memory 65T
refused 2 'memory: .*not a size' sim --memory much
refused 2 'threads: .*1 to 256' sim --threads 0
refused 2 'threads: .*1 to 256' sim --threads 257
refused 2 'threads: .*negative' sim --threads -1
refused 2 'write: .*0 to 100' sim --write 101
refused 2 'run-max: .*out of range' sim --run-max 0
refused 2 'accesses: .*out of range' sim --accesses 0
refused 2 'seconds: .*give more' sim --seconds 0
refused 2 'seconds: .*negative' sim --seconds -1
refused 2 'seconds: .*not a time' sim --seconds soon
refused 2 'seconds: .*not a time' sim --seconds ' -5'
refused 2 'seconds: .*ends in "x10"' sim --seconds 0x10
refused 2 '"1?2" ends in' sim --memory "$(printf '1\t2')"
refused 2 'give 1 to 256' sim --threads "$(printf '%0600d' 300)"
refused 2 'trap: sim needs faults' sim --trap none

VMSM_CONF=memry:1M
export VMSM_CONF
refused 2 'VMSM_CONF.*did you mean memory?' sim
VMSM_CONF=memory:3M,write_batch:8
prints '^memory  *3M ' sim --show-settings
prints '^write_batch  *8 ' --show-settings
prints '^memory  *4M ' sim --memory 4M --show-settings
unset VMSM_CONF

refused 3 'nowhere/report: No such' sim --json "$dir/nowhere/report"
refused 3 'is a directory' sim --json "$dir"
refused 3 'does not exist' sim $small --pagefile "$dir/nowhere/pagefile"
refused 3 'directory' sim $small --pagefile "$dir"
tmpdir=${TMPDIR-}
TMPDIR=/nope
export TMPDIR
refused 3 '/nope/.*TMPDIR names the directory' sim $small
TMPDIR=$tmpdir
refused 3 'a quarter of the .* is kept free' sim $small --pagefile-size 1M

(umask 077 && echo 'my thesis' >"$dir/thesis.txt")
refused 3 'holds text (10 bytes).*pagefile_force=on' sim $small --pagefile "$dir/thesis.txt"
[ "$(cat "$dir/thesis.txt")" = 'my thesis' ]
ok $? "a file that is no pagefile is left as it was"
call sim $small --pagefile "$dir/thesis.txt" --pagefile-force
[ "$status" -eq 0 ] && [ -s "$dir/thesis.txt" ]
ok $? "--pagefile-force overwrites it, and it stays"
call sim $small --pagefile "$dir/thesis.txt"
[ "$status" -eq 0 ]
ok $? "from then on it is a pagefile"
call sim $small --pagefile "$dir/pages"
[ "$status" -eq 0 ] && [ ! -e "$dir/pages" ]
ok $? "a pagefile that was made for a run is gone at its end"

call sim $small --seed 7 --json "$dir/report"
ok "$status" "a run on the soft mapper ends with 0"
grep -q '^all 20,000 accesses and 2,048 swept pages right, books balanced' "$dir/out"
ok $? "and says so in its first line"
[ "$(wc -l <"$dir/out")" -le 40 ] && [ "$(wc -L <"$dir/out")" -le 100 ]
ok $? "its report is one screen"
[ ! -s "$dir/err" ]
ok $? "and with --quiet nothing else is said"
for word in '"wrong_pages": 0' '"books_balanced": true' '"seed": 7' '"accesses": 20000' \
    '"within": true' '"p99.9_ns"' '"contended"' '"frames_total"'; do
    grep -q -F -e "$word" "$dir/report"
    ok $? "the JSON report has $word"
done
set -- "$dir"/report*
[ $# -eq 1 ]
ok $? "no other file is left beside it"

odd=$(printf 'odd\377')
call sim $small --pagefile "$dir/$odd" --json "$dir/odd.json"
[ "$status" -eq 0 ] && grep -q "\"pagefile\": \".*/odd$(printf '\357\277\275')\"" "$dir/odd.json"
ok $? "a path that is not UTF-8 does not cost the JSON report"

grep '"writes":' "$dir/report" >"$dir/first"
call sim $small --seed 7 --json "$dir/report"
grep '"writes":' "$dir/report" | cmp -s - "$dir/first"
ok $? "the same seed makes the same writes"

"$vmsm" sim $small --json - >"$dir/out" 2>"$dir/err"
[ $? -eq 0 ] && [ "$(head -c 1 "$dir/out")" = '{' ] && grep -q '^all 20,000' "$dir/err"
ok $? "--json -: JSON on standard output, the report on standard error"

call sim --mapper soft --preset small --seconds 1.5
[ "$status" -eq 0 ] && grep -q 'accesses/s .*hard .*active .*pagefile' "$dir/err"
ok $? "progress is shown in plain lines where there is no terminal"

call sim --mapper soft --preset small --seconds 1 --quiet --store-corrupt 50
[ "$status" -eq 0 ] && grep -q '^errors  *hashes that differed [1-9].*reads repeated' "$dir/out"
ok $? "errors that were recovered from are in the report"
call sim $small --seed 3
awk '/^faults of the run/ { faults = 1 }
    faults && / hard \(read\)/ { gsub(",", ""); hard = $3 }
    /^mapped ahead/ { gsub(",", ""); ahead = $3; read = $5; rescued = $7; touched = $9 }
    /^  of them/ { gsub("[%,]", ""); shares = $4 + $7 + $10 }
    /^  read  *[0-9,]* pages/ { gsub(",", ""); pages = $2 }
    END { exit !(ahead > 0 && read + rescued + touched == ahead && hard + read == pages &&
        shares > 99.8 && shares < 100.2) }' "$dir/out"
ok $? "what was mapped ahead, read and faulted for adds up"
! grep -q '^errors' "$dir/out"
ok $? "without errors nothing is said of them"

if command -v script >/dev/null; then
    for columns in 60 80 120; do
        script -qc "stty cols $columns && $vmsm sim --mapper soft --preset small --seconds 1.5" /dev/null \
            </dev/null >"$dir/err" 2>&1
        tr -d '\r' <"$dir/err" | grep -a -o ' *[0-9]* s  .*\|active .*' >"$dir/out"
        [ -s "$dir/out" ] && [ "$(wc -L <"$dir/out")" -lt $columns ] &&
            ! grep -q -v '[a-z/] *[0-9.,]*[KM]\?$\|%)$' "$dir/out"
        ok $? "progress in $columns columns: whole fields"
        tr -d '\r' <"$dir/err" | sed -n '/^faults of/,/threads waited/p; /^batches/,/^memory/p' |
            grep -v '^memory\|threads waited' >"$dir/out"
        [ -s "$dir/out" ] && [ "$(wc -L <"$dir/out")" -le $((columns > 66 ? columns : 66)) ]
        ok $? "and the tables of the report fit"
    done
    script -qc "NO_COLOR=1 $vmsm doctor" /dev/null </dev/null >"$dir/out" 2>&1
    grep -q '^Mapper and trap' "$dir/out" && ! grep -q "$(printf '\033')" "$dir/out"
    ok $? "NO_COLOR: the doctor uses no colour"
else
    skip "script is missing: there is no terminal to be had"
fi

call sim $small --virtual 1M --memory 256K --store-corrupt 1
[ "$status" -eq 3 ] && grep -q '^FAILED:' "$dir/out"
ok $? "a page that cannot be read: 3, and the report says so"
call sim $small --store-corrupt 1
[ "$status" -eq 4 ] && grep -q '^INCOMPLETE: .* (ended early: too many failures)' "$dir/out"
ok $? "hundreds that cannot be read: 4, for not all pages could be checked"

if command -v timeout >/dev/null; then
    # In the foreground: else timeout signals the program twice, and the second one ends it at once.
    timeout --foreground -s INT 1 "$vmsm" sim --mapper soft --preset small --seconds 60 --quiet >"$dir/out" 2>"$dir/err"
    [ $? -eq 124 ] && grep -q '2,048 swept pages right, books balanced (ended early)' "$dir/out"
    ok $? "an interrupt ends a run early, with the sweep and the report"
else
    skip "timeout is missing"
fi

if [ -w /dev/full ]; then
    "$vmsm" --help >/dev/full 2>"$dir/err"
    [ $? -eq 3 ] && grep -q 'No space left' "$dir/err"
    ok $? "standard output that is full is noticed"
else
    skip "there is no /dev/full"
fi

call doctor --json "$dir/findings"
{ [ "$status" -eq 0 ] || [ "$status" -eq 3 ]; } && grep -q '^Mapper and trap:' "$dir/out" &&
    grep -q '"default_works":' "$dir/findings"
ok $? "vmsm doctor: findings and ways, and the same as JSON"

finish
