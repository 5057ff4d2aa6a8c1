#!/bin/sh
# Check the model in tests/model with spin: in each world below all states are visited, and no
# assertion, end state or cycle may be wrong; then each defect, planted, must be found. At last,
# each row of src/core/transitions.h must have been taken, or be in tests/model/outside.txt.
#
#   scripts/model.sh DIRECTORY [worlds|mutants|table]
#
# Without a choice: worlds, then mutants. table: the rows of transitions.h as the model has them.
# JOBS worlds are checked at the same time.
set -eu
export LC_ALL=C

dir=$1
optimize=-O2
choice=${2:-all}
here=$(dirname "$0")/..
rows=$here/src/core/transitions.h
model="$here/tests/model/protocol.pml $here/tests/model/faults.pml $here/tests/model/workers.pml"
outside=$here/tests/model/outside.txt
mkdir -p "$dir"

# NAME|KIND|DEFINITIONS|WHAT. safety: assertions and end states. live: and no cycle, with weak
# fairness, in which some fault is never served.
worlds='
faults|safety|-DTHREADS=2 -DFAULTS=2 -DMORE=1 -DDISCARDS=0 -DNO_REFILLER|two threads on the same pages
refusals|safety|-DTHREADS=2 -DFAULTS=1 -DMORE=1 -DDISCARDS=0 -DREFUSALS=1|the system has no page once
discards|safety|-DTHREADS=1 -DFAULTS=2 -DDISCARDS=2 -DNO_REFILLER|a thread against decommit
all|safety|-DTHREADS=2 -DFAULTS=1 -DMORE=1 -DDISCARDS=1 -DNO_REFILLER|two threads against decommit
depth|safety|-DTHREADS=1 -DFAULTS=3 -DDISCARDS=0 -DBUFFERS=2 -DDEPTH=2 -DSLOTS=3|two batches, two buffers
slots|safety|-DTHREADS=1 -DFAULTS=4 -DDISCARDS=0 -DSLOTS=1 -DWRITE_ERRORS=1|slots run out, a write fails
fine|safety|-DTHREADS=1 -DFAULTS=2 -DDISCARDS=0 -DNO_REFILLER -DFINE|every step alone
kicks|live|-DTHREADS=2 -DFAULTS=1 -DMORE=1 -DDISCARDS=0 -DNO_REFILLER -DKICKS|two threads are served
refiller|live|-DTHREADS=1 -DFAULTS=2 -DDISCARDS=0 -DKICKS|a thread is served, with a refiller
'

# NAME|DEFINITIONS|WHAT
mutants='
RELEASE_BEFORE_UNMAP|-DTHREADS=2 -DFAULTS=2 -DDISCARDS=0|a trim releases the page, then unmaps it
NO_RECHECK|-DTHREADS=2 -DFAULTS=2 -DDISCARDS=0|the writer does not look whether it still has the page
WAKE_LOST|-DTHREADS=2 -DFAULTS=2 -DDISCARDS=0|a release does not wake
SLOT_EARLY|-DTHREADS=2 -DFAULTS=3 -DDISCARDS=0 -DSLOTS=2|a rescue releases the slot that is being written
RESERVE_LATE|-DTHREADS=2 -DFAULTS=2 -DMORE=1 -DDISCARDS=0 -DNO_REFILLER -DKICKS|a right is waited for with the page BUSY
REFILL_WITHOUT_BUSY|-DTHREADS=2 -DFAULTS=2 -DDISCARDS=0|the refiller does not ask who is busy
NO_SLICE|-DTHREADS=2 -DFAULTS=1 -DDISCARDS=0 -DKICKS|who waits for a frame does not look again in time
NO_PROTECTION|-DTHREADS=2 -DFAULTS=2 -DDISCARDS=0|a page may be written between copy and drop
'

# build NAME KIND DEFINITIONS: $dir/NAME/pan
build() {
    mkdir -p "$dir/$1"
    (
        # shellcheck disable=SC2086
        cat "$dir/transitions.pml" $model >"$dir/$1/model.pml"
        cd "$dir/$1"
        flags="-DSAFETY"
        defines=$3
        if [ "$2" = live ]; then
            flags="-DNFAIR=3"
            defines="$3 -DLIVE"
        fi
        # shellcheck disable=SC2086 # lists of words
        spin $defines -a model.pml >spin.log 2>&1 || { cat spin.log; exit 1; }
        # shellcheck disable=SC2086
        ${CC:-gcc} $optimize -w $flags -DCOLLAPSE -DMEMLIM=4000 -o pan pan.c
    )
}

states() {
    awk '/ states, stored/ { printf "%d states", $1 } /elapsed time/ { printf ", %s s", $4 }' "$1"
}

check_world() {
    build "$1" "$2" "$3"
    live=
    options="-m4000000 -w22"
    [ "$2" != live ] || live=-DLIVE
    [ "$2" != live ] || options="$options -a -f -N served_at_last"
    # shellcheck disable=SC2086
    (cd "$dir/$1" && ./pan $options >out 2>&1) || true
    if grep -q 'errors: 0' "$dir/$1/out" && ! grep -q 'not completed\|max search depth' "$dir/$1/out"; then
        printf 'ok      %-9s %s: %s\n' "$1" "$4" "$(states "$dir/$1/out")"
        return 0
    fi
    printf 'FAILED  %-9s %s: %s\n' "$1" "$4" "$(grep -m1 'pan:\|error' "$dir/$1/out" || echo 'no result')"
    echo "        the steps: cd $dir/$1 && spin -t -p $3 $live model.pml"
    return 1
}

check_mutant() {
    optimize=-O0
    build "$1" safety "$2 -DMUTANT_$1"
    (cd "$dir/$1" && ./pan -m4000000 -w22 >out 2>&1) || true
    if grep -q 'errors: 1' "$dir/$1/out"; then
        printf 'found   %-20s %s: %s\n' "$1" "$3" \
            "$(sed -n 's/^pan:1: //p' "$dir/$1/out" | cut -c1-60)"
        return 0
    fi
    printf 'MISSED  %-20s %s\n' "$1" "$3"
    return 1
}

# Each row is taken in some world, or has a reason; none is both.
check_rows() {
    cat "$dir"/*/out | sed -n 's/^row: //p' | sort -u >"$dir/taken"
    sed '/^#/d' "$outside" | awk '{ print $1, $2 }' | sort >"$dir/outside"
    "$here/scripts/make-transitions.sh" --rows "$rows" | awk '{ print $1, $2 }' | sort >"$dir/rows"
    wrong=$(
        sort "$dir/taken" "$dir/outside" | uniq -d | sed 's/$/ is taken, and has a reason not to be/'
        sort -u "$dir/taken" "$dir/outside" | comm -3 - "$dir/rows" | sed 's/^[[:space:]]*//; s/$/ is not taken, or no row/'
    )
    if [ -n "$wrong" ]; then
        echo "$wrong" | sed 's/^/FAILED  row /'
        return 1
    fi
    echo "ok      rows      $(wc -l <"$dir/taken") taken, $(wc -l <"$dir/outside") outside with a reason"
}

# pte_format and frame_state change by the rows only.
check_text() {
    # shellcheck disable=SC2086
    if grep -nE '(pte_format|frame_state)\[[^]]*\] *=[^=]' $model | grep -v ':byte '; then
        echo "FAILED  the model changes a format or a state other than by a row"
        return 1
    fi
}

table() {
    echo "| row | from | to | in the model |"
    echo "|---|---|---|---|"
    "$here/scripts/make-transitions.sh" --rows "$rows" | while read -r what name from to; do
        reason=$(sed -n "s/^$what $name  *//p" "$outside")
        kind=page
        [ "$what" = PTE ] || kind=frame
        echo "| $kind $name | $from | $to | ${reason:-yes} |"
    done
}

# each LINES FUNCTION: in JOBS processes.
each() {
    printf '%s\n' "$1" | sed '/^$/d' |
        xargs -d '\n' -P "${JOBS:-1}" -I @ "$0" "$dir" one "$2" @
}

case $choice in
one)
    text=$4
    old=$IFS
    IFS='|'
    # shellcheck disable=SC2086 # split at the bars
    set -- "$3" $text
    IFS=$old
    "$@"
    exit
    ;;
table)
    table
    exit
    ;;
esac

"$here/scripts/make-transitions.sh" "$rows" >"$dir/transitions.pml"
status=0
check_text || status=1
case $choice in
all | worlds)
    each "$worlds" check_world || status=1
    [ $status -ne 0 ] || check_rows || status=1
    ;;
esac
case $choice in
all | mutants)
    each "$mutants" check_mutant || status=1
    ;;
esac
exit $status
