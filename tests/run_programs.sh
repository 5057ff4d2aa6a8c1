#!/bin/bash
# Debian's programs in `vmsm run`, with a quarter of the memory that they use at their peak: the same
# output as without. TAP.
#
#   tests/run_programs.sh [PROGRAM…]    those only
#
# SCALE (1) multiplies what they work on; `make check-large` sets it.

root=$(cd "$(dirname "$0")/.." && pwd)
build=${VMSM_BUILD:-$root/build}
vmsm=$build/vmsm
scale=${SCALE:-1}
chosen="$*"
export LC_ALL=C
unset VMSM_CONF

dir=$(mktemp -d "${TMPDIR:-/var/tmp}/vmsm-programs.XXXXXX") || exit 1
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
. "$root/tests/tap_shell"
tap_evidence="$dir/err"

if [ ! -e "$build/libvmsm-preload.so" ]; then
    echo "1..0 # SKIP this build has no library to preload"
    exit 0
fi
if ! "$vmsm" run -- true 2>"$dir/err"; then
    echo "1..0 # SKIP $(tail -1 "$dir/err")"
    exit 0
fi

# has PROGRAM…: is the first one wanted, and are all there? If not, a check is skipped.
has() {
    case " ${chosen:-$1} " in
    *" $1 "*) ;;
    *) return 1 ;;
    esac
    for program in "$@"; do
        command -v "$program" >/dev/null && continue
        skip "$program is missing: run scripts/install-deps.sh check"
        return 1
    done
}

# same NAME MEBIBYTES COMMAND…: plain, and managed with so much memory (times scale).
same() {
    name=$1
    memory=$(($2 * scale))M
    shift 2
    timeout 200 "$@" >"$dir/plain" 2>"$dir/plain.err"
    expected=$?
    timeout 280 "$vmsm" run --memory $memory --report "$dir/report" -- "$@" >"$dir/managed" \
        2>"$dir/err"
    status=$?
    [ $status -eq $expected ] && cmp -s "$dir/plain" "$dir/managed" &&
        cmp -s "$dir/plain.err" "$dir/err"
    ok $? "$name: the same output with $memory"
    # What is resident is the memory, and what is not managed: code, stacks, files.
    pages=$(sed -n 's/.*"pages_read": \([0-9]*\).*/\1/p' "$dir/report" | sort -n | tail -1)
    [ "${pages:-0}" -gt 0 ]
    ok $? "$name: it used its pagefile"
}

cd "$dir" || exit 1

if has sort perl; then
    perl -e 'my $x = 1; for (1 .. $ARGV[0]) { $x = ($x * 1103515245 + 12345) % 2147483648;
        printf "%010d%030d\n", $x, $_ }' $((120000 * scale)) >lines
    same sort 6 sort --buffer-size=$((32 * scale))M --parallel=2 lines
fi

if has sqlite3; then
    cat >script.sql <<SQL
create table t(a integer primary key, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < $((60000 * scale)))
insert into t select x, hex(x * 7919 % 1000003) || hex(zeroblob(40)) from c;
create index i on t(b);
select count(*), sum(length(b)), max(b), min(b) from t;
select a from t order by b limit 20 offset 5000;
delete from t where a % 3 = 0;
pragma integrity_check;
SQL
    same sqlite3 4 sqlite3 :memory: ".read script.sql"
fi

if ! /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    skip "numpy is missing: run scripts/install-deps.sh check"
elif has python3; then
    cat >arrays.py <<'PYTHON'
import hashlib, multiprocessing, sys
import numpy as np

def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()

def row(i):
    return digest(a[i::7])

scale = int(sys.argv[1])
a = np.random.default_rng(5).random(1_000_000 * scale)
print(digest(np.sort(a)))
m = a[:160_000].reshape(400, 400)
print(digest(np.rint((m @ m) * 1e6)))
print(digest(np.rint(np.fft.fft(a[: 1 << 18]).real * 1e6)))
twice = np.concatenate([a, a])
twice += 1
print(digest(twice))
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(row, range(7)))
PYTHON
    same "python3 and numpy, with two processes by fork()" 16 /usr/bin/python3 arrays.py $scale
fi

if has gcc; then
    for i in $(seq $((400 * scale))); do
        echo "int f$i(int *a, int n) { int s = 0; for (int i = 0; i < n; i++) s += a[i] * $i ^ (s >> 3);" \
            "switch (s % 7) { case 0: return s + $i; case 1: return a[s % n]; default: return s; } }"
    done >large.c
    same gcc 9 gcc -O2 -S -o - large.c
fi

# Each byte of theirs is a look at a random place, so they are given few.
if has xz perl; then
    perl -e 'print join(",", map { $_ * 7919 % 1000003 } 1 .. $ARGV[0]), "\n"' $((5000 * scale)) >text
    same "xz -9" 4 xz --lzma2=preset=9,dict=1536KiB --threads=1 --stdout text
fi
if has zstd perl; then
    perl -e 'print join(",", map { $_ * 7919 % 1000003 } 1 .. $ARGV[0]), "\n"' $((5000 * scale)) >text
    same "zstd --ultra" 4 zstd --ultra -20 --zstd=wlog=21,hlog=20,clog=20 --single-thread --stdout \
        --quiet text
fi

if has stress-ng; then
    "$vmsm" run --memory 6M --report report -- stress-ng --vm 2 --vm-bytes $((24 * scale))M \
        --vm-ops 300 --vm-method all --verify --temp-path "$dir" >err 2>&1
    status=$?
    [ $status -eq 0 ] && ! grep -qi 'fail\|vmsm:' err
    ok $? "stress-ng --vm --verify with 6M finds nothing wrong"
    "$vmsm" run --memory 6M -- stress-ng --mremap 1 --mremap-ops 20 --mremap-bytes 8M \
        --mmap 1 --mmap-ops 20 --mmap-bytes 8M --mmap-mprotect --brk 1 --brk-ops 1000 \
        --bigheap 1 --bigheap-ops 100 --bigheap-growth 64K --verify --temp-path "$dir" >err 2>&1
    status=$?
    [ $status -eq 0 ] && ! grep -qi 'fail\|vmsm:' err
    ok $? "nor do its tests of mmap(), mremap(), mprotect() and brk()"
fi

# fio makes files, reads them by each means and verifies what it has read.
if has fio; then
    for engine in psync pvsync2 mmap; do
        "$vmsm" run --memory 8M -- fio --name=x --filename="$dir/data" --direct=1 --rw=randrw \
            --bs=32k --size=16M --ioengine=$engine --verify=crc32c --iodepth=1 --thread=1 \
            --iomem=malloc --randseed=1 --output=out >err 2>&1
        status=$?
        [ $status -eq 0 ] && [ ! -s err ]
        ok $? "fio by direct I/O, $engine: what it reads is what it wrote"
    done
    for engine in io_uring libaio; do
        "$vmsm" run --memory 8M -- fio --name=x --filename="$dir/data" --direct=1 --rw=read \
            --bs=32k --size=1M --ioengine=$engine --thread=1 --output=out >err 2>&1
        status=$?
        [ $status -ne 0 ] && grep -qi "support\|not implemented" err out
        ok $? "fio by $engine is refused, as by a kernel without it"
    done
fi

# answers COMMAND…: wait until a server does.
answers() {
    for _ in $(seq 100); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    return 1
}

redis() {
    redis-cli -s "$dir/redis.sock" "$@"
}

# start_redis: managed, with its file in the directory.
start_redis() {
    "$vmsm" run --memory $((8 * scale))M --report report -- redis-server --port 0 --save '' \
        --unixsocket "$dir/redis.sock" --dir "$dir" --dbfilename dump.rdb --daemonize no \
        --ignore-warnings ARM64-COW-BUG >log 2>err &
    server=$!
    answers redis ping
}

values="local s = 0
for i = 1, tonumber(ARGV[1]) do
    if redis.call('get', 'key:' .. i) == string.rep(tostring(i), 40) then s = s + 1 end
end
return s"

if has redis-server redis-cli redis-benchmark; then
    keys=$((60000 * scale))
    start_redis
    ok $? "redis-server starts"
    redis eval "for i = 1, tonumber(ARGV[1]) do redis.call('set', 'key:' .. i,
        string.rep(tostring(i), 40)) end" 0 $keys >/dev/null
    redis-benchmark -s "$dir/redis.sock" -n $((20000 * scale)) -r 10000 -d 200 -t set,get,lpush -q \
        >/dev/null 2>&1
    [ "$(redis eval "$values" 0 $keys)" = $keys ]
    ok $? "redis-server has what it was given"
    [ "$(redis bgsave)" = "Background saving started" ]
    ok $? "it forks to save in the background"
    redis eval "for i = 1, 1000 do redis.call('set', 'key:' .. i, 'changed') end" 0 >/dev/null
    answers eval 'redis info persistence | grep -q rdb_bgsave_in_progress:0'
    redis info persistence | grep -q rdb_last_bgsave_status:ok
    ok $? "and saves"
    redis shutdown nosave 2>/dev/null
    wait "$server"
    server=
    start_redis
    [ "$(redis eval "$values" 0 $keys)" = $keys ]
    ok $? "a restart loads what there was at the fork"
    redis save >/dev/null && redis shutdown nosave 2>/dev/null
    wait "$server"
    server=
    start_redis
    [ "$(redis eval "$values" 0 $keys)" = $keys ]
    ok $? "and again what it saved in the foreground"
    redis shutdown nosave 2>/dev/null
    wait "$server"
    ok $? "it ends well"
    server=
fi

if has memcached perl; then
    "$vmsm" run --memory $((8 * scale))M -- memcached -u root -m $((64 * scale)) -s "$dir/mc.sock" \
        >log 2>err &
    server=$!
    answers test -S "$dir/mc.sock"
    timeout 100 perl -e '
        use IO::Socket::UNIX;
        my ($path, $keys) = @ARGV;
        my $s = IO::Socket::UNIX->new(Peer => $path) or die "no connection: $!";
        for my $i (1 .. $keys) {
            my $v = ($i . "-") x 120; $v = substr($v, 0, 500);
            print $s "set k$i 0 0 500 noreply\r\n$v\r\n";
        }
        my $right = 0;
        for my $i (1 .. $keys) {
            print $s "get k$i\r\n"; $s->flush;
            my $head = <$s>; next if $head =~ /^END/;
            my $v = <$s>; <$s>;
            my $want = ($i . "-") x 120; $want = substr($want, 0, 500);
            $right++ if $v eq "$want\r\n";
        }
        exit($right == $keys ? 0 : 1);' "$dir/mc.sock" $((50000 * scale)) >>log 2>&1
    ok $? "memcached has what it was given"
    kill "$server"
    wait "$server"
    server=
fi

finish
