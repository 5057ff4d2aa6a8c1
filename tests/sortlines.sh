#!/bin/sh
# examples/sortlines against LC_ALL=C sort, byte by byte. TAP.
#
#   tests/sortlines.sh           edge cases, errors, 64 MiB in 16 MiB of memory
#   tests/sortlines.sh --large   1 GiB in 256 MiB of memory (needs 5 GiB of disk, a minute or two)
#
# SORTLINES names the program, VMSM_BUILD the build directory, TMPDIR where the files go.

root=$(cd "$(dirname "$0")/.." && pwd)
sortlines=${SORTLINES:-${VMSM_BUILD:-$root/build}/examples/sortlines}
LC_ALL=C
export LC_ALL

if [ ! -x "$sortlines" ]; then
    echo "Bail out! $sortlines is missing: run make first"
    exit 1
fi
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/vmsm-sortlines.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cd "$dir" || exit 1

. "$root/tests/tap_shell"
tap_evidence=messages

# Lines of random content and random length (0 to 150), in all BYTES long: random_lines SEED BYTES
random_lines() {
    perl -e '
        my ($seed, $bytes) = @ARGV;
        srand($seed);
        my $pool = join("", map { chr(32 + int(rand(95))) } 1 .. 1 << 20);
        while ($bytes > 0) {
            my $line = substr($pool, int(rand(1 << 20)), int(rand(151)));
            $line = sprintf("%08d %s", int(rand(100000)), $line) if rand() < 0.3;
            $line = substr($line, 0, $bytes - 1) . "\n";
            $bytes -= length($line);
            print $line;
        }' "$1" "$2"
}

# same NAME FILE OPTION...: sortlines with these options gives what sort gives.
same() {
    name=$1
    file=$2
    shift 2
    sort -T . "$file" >expected
    rm -f got
    "$sortlines" "$@" "$file" got >messages 2>&1 && cmp expected got >>messages 2>&1
    ok $? "$name ($(wc -c <"$file") bytes; $*)"
    rm -f expected got
}

# fails NAME WORDS COMMAND...: status 2, and the message contains the words.
fails() {
    name=$1
    words=$2
    shift 2
    "$@" >messages 2>&1
    [ $? -eq 2 ] && grep -q -- "$words" messages
    ok $? "$name: status 2, \"$words\""
}

# End sortlines by a signal as soon as it has made the file beside its output: signalled SIGNAL
signalled() {
    # Its input is large enough that it is not done by then; env undoes the ignoring of SIGINT.
    random_lines 8 60000000 >slow
    env --default-signal=INT "$sortlines" --plain --memory 1M slow out >messages 2>&1 &
    pid=$!
    tries=0
    while [ "$(ls out*)" = out ] && [ $tries -lt 1000 ] && kill -0 $pid 2>/dev/null; do
        tries=$((tries + 1))
        sleep 0.01
    done
    kill -s "$1" $pid 2>/dev/null
    wait $pid 2>/dev/null
    rm -f slow
}

# What the engine says when the kernel or the user may not: then only --plain can be tested.
cannot() {
    grep "cannot manage memory" messages |
        grep -E "Function not implemented|Operation not permitted" | head -n 1
}

large() {
    random_lines 7 1073741824 >big
    echo "# $(wc -l <big) lines"
    same "1 GiB in 256 MiB" big --memory 256M
}

edge_files() {
    : >empty
    printf '\n' >newline
    printf 'one line without a newline' >unended
    printf 'b\na\nc' >unended3
    printf '\n\n\nx\n\n' >empty-lines
    printf 'a\0b\na\0\na\0a\n\0\n\0\0\na\n\0' >nul
    perl -e 'srand(1); for (1 .. 3000) {
        print(join("", map { chr(int(rand(2)) * 98) } 1 .. int(rand(24))), "\n") }' >nul-many
    perl -e 'print(chr(255 - $_) x 3, "\n") for grep { $_ != 245 } 0 .. 255' >high
    perl -e 'print("x" x (400 - $_), "\n") for 0 .. 400' >prefixes
    perl -e 'srand(2); print("common prefix " x 30, int(rand(500)), "\n") for 1 .. 5000' >common
    perl -e 'print("same line\n" x 40000)' >duplicates
    perl -e 'print("\n" x 300000)' >newlines
    perl -e 'srand(3); print(chr(97 + int(rand(26))), "\n") for 1 .. 200000' >letters
    perl -e 'print("long" x 800000, "b\n", "long" x 800000, "a\n", "short\n", "m" x 5000000)' >long
    perl -e 'srand(4); for (1 .. 100000) { printf("%d\r\n", $_ * 7919 % 100003) }' >crlf
    perl -e 'printf("%08d\n", $_) for 1 .. 100000' >sorted
    perl -e 'printf("%08d\n", 100000 - $_) for 1 .. 100000' >reversed
    head -c 3000000 /dev/urandom >noise
    edges="empty newline unended unended3 empty-lines nul nul-many high prefixes common"
    edges="$edges duplicates newlines letters long crlf sorted reversed noise"
}

errors() {
    printf 'b\na\n' >small
    fails "no arguments" "usage" "$sortlines"
    fails "one argument" "needs INPUT and OUTPUT" "$sortlines" small
    fails "three arguments" "no place for c" "$sortlines" a b c
    fails "an unknown option" "the options are" "$sortlines" --nonsense small out
    fails "memory under what can be managed" "at least 256K" "$sortlines" --memory 64K small out
    fails "memory of 0" "must be a size" "$sortlines" --memory 0 small out
    fails "memory not a number" "must be a size" "$sortlines" --memory lots small out
    fails "a setting without a value" "name=value" "$sortlines" --set pagefile small out
    fails "input missing" "cannot read nowhere: No such file" "$sortlines" --plain nowhere out
    fails "input a directory" "not a regular file" "$sortlines" --plain . out
    fails "output in no directory" "cannot write no/out: No such" "$sortlines" --plain small no/out
    fails "output is the input" "it is the input" "$sortlines" --plain small small
    [ ! -e out ] && [ "$(cat small)" = "b
a" ]
    ok $? "a refused run leaves no output, and the input alone"
    fails "disk full" "No space left" "$sortlines" --plain small /dev/full
    # A limit on the size of files fails in the middle of the output, as a full disk does.
    (
        trap '' XFSZ
        ulimit -f 256
        fails "output cut short" "cannot write out: File too large" \
            "$sortlines" --plain noise out
        [ "$tap_failed" -eq 0 ]
    )
    status=$?
    tap_run=$((tap_run + 1))
    tap_failed=$((tap_failed + (status != 0)))
    [ ! -e out ]
    ok $? "output cut short: nothing is left"
    printf 'z\n' >out && chmod 640 out && ln -s out way
    "$sortlines" --plain small way >messages 2>&1 && [ -L way ] && [ "$(cat out)" = "a
b" ] && [ "$(stat -c %a out)" = 640 ]
    ok $? "an existing file, by a symbolic link, gets the new content and keeps its mode"
    for signal in INT TERM HUP; do
        printf 'precious\n' >out
        signalled "$signal"
        [ "$(cat out)" = precious ] && [ "$(ls out*)" = out ]
        ok $? "SIG$signal: the output is as it was, and nothing is left beside it"
    done
    rm -f out way
}

managed() {
    for file in $edges; do
        same "$file, managed" "$file" --memory 1M
    done
    fails "an unknown setting" "cannot manage memory" "$sortlines" --set nonsense=1 noise out
    random_lines 5 8388608 >big
    "$sortlines" --memory 512K big got >messages 2>&1 && grep -q 'with --memory [0-9]*M it is quick' messages
    ok $? "memory that makes the merge slow: a warning says how much is enough"
    "$sortlines" --memory 8M big got >messages 2>&1 && drop_advice messages && [ ! -s messages ]
    ok $? "and with enough there is none"
    random_lines 5 67108864 >big
    same "64 MiB in 16 MiB" big --memory 16M
    rm -f big
    random_lines 6 16777216 >big
    if "$sortlines" --set mapper=move --memory 4M noise got >messages 2>&1 || [ -z "$(cannot)" ]; then
        same "16 MiB in 4 MiB, mapper move" big --memory 4M --set mapper=move
    else
        skip "mapper move: $(cannot)"
    fi
    rm -f big got
}

printf 'x\n' >probe
"$sortlines" --memory 1M probe got >messages 2>&1
why=$(cannot)
rm -f got

if [ "$1" = --large ]; then
    if [ -n "$why" ]; then
        skip "$why"
    else
        large
    fi
    finish
fi
edge_files
errors
for file in $edges; do
    same "$file, plain" "$file" --plain --memory 64K
done
if [ -n "$why" ]; then
    skip "managed memory: $why"
else
    managed
fi
finish
