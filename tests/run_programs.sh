#!/bin/bash
# Debian's programs in `vmsm run`, with a quarter of the memory that they use at their peak: the same
# output as without. TAP.
#
#   tests/run_programs.sh [PROGRAM…]    those only; java and postgres only if they are named
#
# SCALE (1) multiplies what they work on; `make check-large` sets it. With REPEATS each is run so
# often, by turns with delays at random points of the manager, of the pagefile, and of both. SETTINGS
# are options of `vmsm run` for all of them, such as "--kernel-faults off".

. "$(dirname "$0")/run_shell" programs
tap_evidence="$dir/err $dir/difference"
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null; rm -rf "$dir"' EXIT
scale=${SCALE:-1}
repeats=${REPEATS:-1}
patience=${PATIENCE:-$((100 * scale))} # seconds that a run may take
chosen="$*"
known= # those of them that there is a test of

# has PROGRAM…: is the first one wanted, and are all there? If not, a check is skipped.
has() {
    case " ${chosen:-$1} " in
    *" ${1##*/} "*) known="$known ${1##*/} " ;;
    *) [ -z "$chosen" ] || return 1 ;;
    esac
    for program in "$@"; do
        command -v "$program" >/dev/null && continue
        skip "$program is missing: run scripts/install-deps.sh check"
        return 1
    done
}

# vary N: settings of the Nth run.
vary() {
    case $(($1 % 4)) in
    0) unset VMSM_CONF ;;
    1) export VMSM_CONF=yield_delay:20us ;;
    2) export VMSM_CONF=store_jitter:100us ;;
    3) export VMSM_CONF=store_jitter:50us,yield_delay:10us,fault_threads:2 ;;
    esac
}

# quarter: of the peak that was written to the file `peak`, as an option.
quarter() {
    echo "$(($(cat peak) / 4))K"
}

# paged: did the last run use its pagefile?
paged() {
    pages=$(sed -n 's/.*"pages_read": \([0-9]*\).*/\1/p' report | sort -n | tail -1)
    [ "${pages:-0}" -gt 0 ]
}

# same NAME COMMAND…: plain, and managed.
same() {
    name=$1
    shift
    timeout "$patience" "$build/tests/managed/peak" peak "$@" >plain 2>plain.err
    expected=$?
    memory=$(quarter)
    for i in $(seq 0 $((repeats - 1))); do
        vary "$i"
        rm -f report
        timeout "$patience" "$vmsm" run $SETTINGS --memory "$memory" --report report -- "$@" >managed 2>err
        status=$?
        drop_advice err
        cmp plain managed >difference 2>&1 && cmp plain.err err >>difference 2>&1 &&
            [ $status -eq $expected ]
        ok $? "$name: the same output with $memory${VMSM_CONF:+, $VMSM_CONF}"
        paged
        ok $? "$name: it used its pagefile"
    done
    unset VMSM_CONF
}

cd "$dir" || exit 1

if has sort perl; then
    perl -e 'my $x = 1; for (1 .. $ARGV[0]) { $x = ($x * 1103515245 + 12345) % 2147483648;
        printf "%010d%030d\n", $x, $_ }' $((100000 * scale)) >lines
    same sort sort --buffer-size=$((64 * scale))M --parallel=2 lines
fi

if has sqlite3; then
    cat >script.sql <<SQL
create table t(a integer primary key, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < $((30000 * scale)))
insert into t select x, hex(x * 7919 % 1000003) || hex(zeroblob(40)) from c;
create index i on t(b);
select count(*), sum(length(b)), max(b), min(b) from t;
select a from t order by b limit 20 offset 5000;
delete from t where a % 3 = 0;
pragma integrity_check;
SQL
    same sqlite3 sqlite3 :memory: ".read script.sql"
fi

if has /usr/bin/python3; then # Debian's, which has numpy, and not what else may come first in PATH
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
    if /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
        same "python3 and numpy, with two processes by fork()" /usr/bin/python3 arrays.py "$scale"
    else
        skip "numpy is missing: run scripts/install-deps.sh check"
    fi
fi

if has gcc; then
    for i in $(seq $((400 * scale))); do
        echo "int f$i(int *a, int n) { int s = 0; for (int i = 0; i < n; i++) s += a[i] * $i ^ (s >> 3);" \
            "switch (s % 7) { case 0: return s + $i; case 1: return a[s % n]; default: return s; } }"
    done >large.c
    same gcc gcc -O2 -S -o - large.c
fi

if has g++; then
    {
        echo '#include <map>'
        echo '#include <string>'
        echo '#include <vector>'
        for i in $(seq $((6 * scale))); do
            echo "struct s$i { int a[$i]; bool operator<(const s$i &o) const { return a[0] < o.a[0]; } };" \
                "std::map<s$i, std::vector<std::string>> m$i;" \
                "void f$i(const s$i &k, const std::string &v) { m$i[k].push_back(v + \"$i\"); }"
        done
    } >large.cc
    same g++ g++ -O1 -S -o - large.cc
fi

if has node; then
    cat >heap.js <<'JS'
const crypto = require("crypto");
const count = 60000 * Number(process.argv[2]);
const map = new Map();
for (let i = 0; i < count; i++)
    map.set("key" + (i * 7919) % 1000003, { n: i, list: [i, i + 1, i + 2], text: "v".repeat(i % 64) + i });
const hash = crypto.createHash("sha256");
for (const key of [...map.keys()].sort())
    hash.update(key + JSON.stringify(map.get(key)));
for (let i = 0; i < count; i += 2)
    map.delete("key" + (i * 7919) % 1000003);
const buffers = [];
for (let i = 0; i < 40; i++)
    buffers.push(Buffer.alloc(65536 * Number(process.argv[2]), i));
for (const b of buffers)
    hash.update(b);
console.log(map.size, hash.digest("hex"));
JS
    same node node --max-old-space-size=$((1024 * scale)) heap.js "$scale"
fi

# What a compressor looks for lies anywhere in its window and its tables: they are given little.
if has xz perl; then
    perl -e 'print join(",", map { $_ * 7919 % 1000003 } 1 .. $ARGV[0]), "\n"' $((6000 * scale)) >text
    same "xz -9" xz -9 --threads=1 --stdout text
fi
if has zstd perl; then
    perl -e 'print join(",", map { $_ * 7919 % 1000003 } 1 .. $ARGV[0]), "\n"' $((6000 * scale)) >text
    same "zstd --ultra -22 --long" zstd --ultra -22 --long=27 --single-thread --stdout --quiet text
fi

if [ -n "$chosen" ] && has java; then
    cat >Heap.java <<'JAVA'
import java.util.*;
public class Heap {
    public static void main(String[] arguments) {
        int count = 60000 * Integer.parseInt(arguments[0]);
        Map<String, int[]> map = new HashMap<>();
        for (int round = 0; round < 4; round++)
            for (int i = 0; i < count; i++)
                map.put("key" + (i * 7919L) % 1000003, new int[] {i, round, i ^ round});
        long sum = 0;
        for (String key : new TreeSet<>(map.keySet()))
            sum = sum * 31 + key.hashCode() + map.get(key)[2];
        System.out.println(map.size() + " " + sum);
    }
}
JAVA
    same java java -Xmx$((256 * scale))m Heap.java "$scale"
fi

# quiet NAME COMMAND…: it checks itself.
quiet() {
    name=$1
    shift
    for i in $(seq 0 $((repeats - 1))); do
        vary "$i"
        rm -f report
        timeout "$patience" "$vmsm" run $SETTINGS --memory 6M --report report -- "$@" >err 2>&1
        status=$?
        drop_advice err
        [ $status -eq 0 ] && ! grep -qi 'fail\|vmsm:' err
        ok $? "$name: nothing is wrong${VMSM_CONF:+, $VMSM_CONF}"
        paged
        ok $? "$name: it used its pagefile"
    done
    unset VMSM_CONF
}

if has stress-ng; then
    quiet "stress-ng --vm --verify with 6M" stress-ng --vm 2 --vm-bytes $((24 * scale))M \
        --vm-ops 300 --vm-method all --verify --temp-path "$dir"
    quiet "stress-ng's tests of mmap(), mremap(), mprotect() and brk()" stress-ng --mremap 1 \
        --mremap-ops 20 --mremap-bytes 8M --mmap 1 --mmap-ops 20 --mmap-bytes 8M --mmap-mprotect \
        --brk 1 --brk-ops 100 --bigheap 1 --bigheap-ops 100 --bigheap-growth 64K --verify \
        --temp-path "$dir"
fi

# fio makes files, reads them by each means and verifies what it has read.
fio_engines() {
    with=${VMSM_CONF:+, $VMSM_CONF}
    for engine in psync pvsync2 mmap; do
        "$vmsm" run $SETTINGS --memory 8M -- fio --name=x --filename="$dir/data" --direct=1 --rw=randrw \
            --bs=32k --size=16M --ioengine=$engine --verify=crc32c --iodepth=1 --thread=1 \
            --iomem=malloc --randseed=1 --output=out >err 2>&1
        status=$?
        drop_advice err
        [ $status -eq 0 ] && [ ! -s err ]
        ok $? "fio by direct I/O, $engine: what it reads is what it wrote$with"
    done
    for engine in io_uring libaio; do
        "$vmsm" run $SETTINGS --memory 8M -- fio --name=x --filename="$dir/data" --direct=1 --rw=read \
            --bs=32k --size=1M --ioengine=$engine --thread=1 --output=out >err 2>&1
        status=$?
        [ $status -ne 0 ] && grep -qi "support\|not implemented" err out
        ok $? "fio by $engine is refused, as by a kernel without it$with"
    done
    "$vmsm" run $SETTINGS --memory 8M -- fio --name=x --filename="$dir/data" --direct=1 --rw=read --bs=32k \
        --size=1M --ioengine=posixaio --thread=1 --iomem=mmap --output=out >err 2>&1
    status=$?
    [ $status -ne 0 ] && grep -qi "not implemented" err out
    ok $? "so are direct reads by fio's posixaio$with"
}

if has fio; then
    for i in $(seq 0 $((repeats - 1))); do
        vary "$i"
        fio_engines
    done
    unset VMSM_CONF
fi

# answers COMMAND…: wait until a server does.
answers() {
    for _ in $(seq $((100 * scale))); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    return 1
}

# cycle FUNCTION NAME: a server, plain to find its peak, and managed.
cycle() {
    "$1" "$2, plain" "$build/tests/managed/peak" peak
    memory=$(quarter)
    for i in $(seq 0 $((repeats - 1))); do
        vary "$i"
        "$1" "$2 with $memory${VMSM_CONF:+, $VMSM_CONF}" "$vmsm" run $SETTINGS --memory "$memory" \
            --report report --
    done
    unset VMSM_CONF
}

# ended NAME: the server does, with status 0.
ended() {
    timeout "$patience" tail --pid="$server" -s 0.05 -f /dev/null || kill -9 "$server"
    wait "$server"
    ok $? "$1"
    server=
}

redis() {
    redis-cli -s "$dir/redis.sock" "$@"
}

redis_start() {
    "$@" redis-server --port 0 --save '' --unixsocket "$dir/redis.sock" --dir "$dir" \
        --dbfilename dump.rdb --daemonize no --ignore-warnings ARM64-COW-BUG >log 2>err &
    server=$!
    answers eval 'redis ping | grep -qx PONG' # while it loads it answers, too
}

redis_check() {
    [ "$(redis eval "local s = 0
        for i = 1, tonumber(ARGV[1]) do
            if redis.call('get', 'key:' .. i) == string.rep(tostring(i), 40) then s = s + 1 end
        end
        return s" 0 $keys)" = $keys ]
}

# redis_server NAME PREFIX…
redis_server() {
    name=$1
    shift
    redis_start "$@"
    ok $? "$name: it starts"
    redis eval "for i = 1, tonumber(ARGV[1]) do redis.call('set', 'key:' .. i,
        string.rep(tostring(i), 40)) end" 0 $keys >/dev/null
    redis-benchmark -s "$dir/redis.sock" -n $((5000 * scale)) -r 5000 -d 200 -t set,get,lpush -q \
        >/dev/null 2>&1
    redis_check
    ok $? "$name: it has what it was given"
    [ "$(redis bgsave)" = "Background saving started" ]
    ok $? "$name: it forks to save in the background"
    redis eval "for i = 1, 1000 do redis.call('set', 'key:' .. i, 'changed') end" 0 >/dev/null
    answers eval 'redis info persistence | grep -q rdb_bgsave_in_progress:0'
    redis info persistence | grep -q rdb_last_bgsave_status:ok
    ok $? "$name: and saves"
    redis shutdown nosave 2>/dev/null
    ended "$name: it ends"
    redis_start "$@"
    redis_check
    ok $? "$name: a restart loads what there was at the fork"
    [ "$(redis save)" = OK ] && redis shutdown nosave 2>/dev/null
    ended "$name: it saves in the foreground, and ends"
    redis_start "$@"
    redis_check
    ok $? "$name: a restart loads that"
    redis shutdown nosave 2>/dev/null
    ended "$name: it ends well"
}

if has redis-server redis-cli redis-benchmark; then
    keys=$((25000 * scale))
    cycle redis_server redis-server
fi

memcached_server() {
    name=$1
    shift
    "$@" memcached -A -u root -m $((64 * scale)) -s "$dir/mc.sock" >log 2>err &
    server=$!
    answers test -S "$dir/mc.sock"
    timeout "$patience" perl -e '
        use IO::Socket::UNIX;
        my ($path, $keys) = @ARGV;
        my $s = IO::Socket::UNIX->new(Peer => $path) or die "no connection: $!";
        for my $i (1 .. $keys) {
            my $v = substr(($i . "-") x 250, 0, 500);
            print $s "set k$i 0 0 500 noreply\r\n$v\r\n";
        }
        my $right = 0;
        for my $i (1 .. $keys) {
            print $s "get k$i\r\n"; $s->flush;
            my $head = <$s>; next if $head =~ /^END/;
            my $v = <$s>; <$s>;
            $right++ if $v eq substr(($i . "-") x 250, 0, 500) . "\r\n";
        }
        print $s "shutdown\r\n"; $s->flush;
        exit($right == $keys ? 0 : 1);' "$dir/mc.sock" $((50000 * scale)) >>log 2>&1
    ok $? "$name: it has what it was given"
    ended "$name: it ends"
    rm -f mc.sock
}

if has memcached perl; then
    cycle memcached_server memcached
fi

# Root may not run it, and its own user has no userfaultfd for faults in system calls; CAP_SYS_PTRACE
# is the right to that.
as_postgres() {
    setpriv --reuid=postgres --regid=postgres --clear-groups --inh-caps=-all,+sys_ptrace \
        --ambient-caps=-all,+sys_ptrace -- "$@"
}

postgres_start() {
    as_postgres "$vmsm" run $SETTINGS --memory $((16 * scale))M --report base/report -- postgres -D base/data \
        -k "$dir/base" -h '' -c shared_buffers=16MB -c work_mem=200MB \
        -c max_parallel_workers_per_gather=0 >log 2>err &
    server=$!
    answers as_postgres pg_isready -q -h "$dir/base"
}

query() {
    as_postgres psql -h "$dir/base" -d postgres -At -c "$1"
}

PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
if [ -n "$chosen" ] && has postgres initdb pgbench psql setpriv; then
    chmod 755 .
    mkdir base && chown postgres base
    as_postgres "$vmsm" run $SETTINGS --memory 4M -- initdb -D base/data >err 2>&1
    ok $? "postgres: initdb with 4M"
    postgres_start
    ok $? "postgres: it starts"
    as_postgres pgbench -h "$dir/base" -i -s $((2 * scale)) postgres >err 2>&1 &&
        as_postgres pgbench -h "$dir/base" -c 4 -j 2 -t $((250 * scale)) postgres >err 2>&1
    ok $? "postgres: pgbench"
    [ "$(query 'select (select sum(abalance) from pgbench_accounts) =
        (select sum(delta) from pgbench_history)')" = t ]
    ok $? "postgres: the books of the bank balance"
    sorted=$(query "select md5(string_agg(x::text, ',' order by md5(x::text)))
        from generate_series(1, 60000) x")
    [ "$sorted" = "$(seq 60000 | perl -MDigest::MD5=md5_hex -e 'chomp(my @x = <STDIN>);
        print md5_hex(join ",", map { $_->[1] } sort { $a->[0] cmp $b->[0] } map { [md5_hex($_), $_] } @x)')" ]
    ok $? "postgres: it sorts in memory"
    kill -INT "$(head -n 1 base/data/postmaster.pid)" # the server is a child of what was started
    ended "postgres: it ends well"
fi

for program in $chosen; do
    case "$known" in
    *" $program "*) ;;
    *) ok 1 "there is a test of $program" ;;
    esac
done
finish
