#!/bin/bash
# `vmsm run` where faults of system calls are not served: an ordinary user, and the trap sigbus. TAP.

. "$(dirname "$0")/run_shell" guarded
if ! "$vmsm" run --kernel-faults off -- true 2>"$dir/err"; then
    echo "1..0 # SKIP $(tail -1 "$dir/err")"
    exit 0
fi

# Its user may not be able to read the build.
mkdir "$dir/bin" && cp "$vmsm" "$build/libvmsm-preload.so" "$build"/tests/managed/[a-z]* "$dir/bin"
user=()
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
    user=(setpriv --reuid 65534 --regid 65534 --clear-groups)
    chmod 755 "$dir"
fi
run=("${user[@]}" env TMPDIR=/var/tmp "$dir/bin/vmsm" run --kernel-faults off)
cd "$dir" || exit 1

# check NAME PROGRAM SETTING…: every line of its output is ok, and its status 0.
check() {
    name=$1
    program=$2
    shift 2
    timeout 100 "${run[@]}" "$@" -- "$dir/bin/$program" >"$dir/out" 2>"$dir/err"
    status=$?
    drop_advice "$dir/err"
    [ $status -eq 0 ] && grep -q '^ok' "$dir/out" && ! grep '^not ok' "$dir/out" && [ ! -s "$dir/err" ]
    ok $? "$name"
}

"$dir/bin/calls" >"$dir/out" 2>"$dir/err"
ok $? "calls, plain"
for program in calls memory heap forks process; do
    for trap in thread sigbus; do
        check "$program, $trap, with 6 MiB" $program --memory 6M --trap $trap
    done
done
for trap in thread sigbus; do
    check "borrow, $trap, with 128 MiB" borrow --memory 128M --trap $trap
    check "calls, $trap, with 6 MiB and delays" calls --memory 6M --trap $trap --yield-delay 20us \
        --fault-threads 1
done
check "calls, with more memory than it needs" calls --memory 256M
check "calls, with 5 MiB and something" calls --memory 5121K

# says WAY NAME SETTING…: what a program run with these settings has.
says() {
    way=$1
    name=$2
    shift 2
    caught_way "${run[@]}" "$@"
    [ "$caught" = "$way" ]
    ok $? "$name"
}
says sigbus "where calls are guarded, faults come by SIGBUS"
says guarded "unless another trap is asked for" --trap thread

# Faults on stacks in managed memory, and a handler of SIGBUS that gets its own.
cat >stacks.c <<'END'
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
static ucontext_t home, others[20];
static char *crowd;
static sigjmp_buf back;
static int sum;
static void coroutine(int number)
{
    char on_stack[30000];
    memset(on_stack, number, sizeof(on_stack));
    for (int i = 0; i < 3; i++) {
        swapcontext(&others[number], &home);
        for (int at = 0; at < 30000; at += 3000)
            sum += on_stack[at] == number;
    }
}
static void on_bus(int number) { siglongjmp(back, number); }
int main(void)
{
    char name[] = "stacks.XXXXXX", *file;
    int fd, buses = 0;
    crowd = malloc(24 << 20);
    for (int i = 0; i < 20; i++) {
        getcontext(&others[i]);
        others[i].uc_stack.ss_sp = malloc(65536);
        others[i].uc_stack.ss_size = 65536;
        others[i].uc_link = &home;
        makecontext(&others[i], (void (*)(void))coroutine, 1, i);
    }
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 24 << 20; i += 4096)
            crowd[i]++;
        for (int i = 0; i < 20; i++)
            swapcontext(&home, &others[i]);
    }
    signal(SIGBUS, on_bus);
    fd = open("/var/tmp", O_TMPFILE | O_RDWR, 0600);
    file = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    for (int i = 0; i < 10; i++) {
        if (sigsetjmp(back, 1) == 0)
            buses += file[0];
        else
            buses++;
        for (int at = 0; at < 24 << 20; at += 4096)
            crowd[at]++;
    }
    printf("%d %d\n", sum, buses);
    return 0;
}
END
if gcc -w -O1 -o stacks stacks.c 2>"$dir/err"; then
    "${run[@]}" --memory 6M --trap sigbus -- "$dir/stacks" >"$dir/out" 2>"$dir/err"
    [ $? -eq 0 ] && [ "$(cat "$dir/out")" = "600 10" ]
    ok $? "sigbus: coroutines on managed stacks, and the program's own SIGBUS"
else
    skip "there is no compiler"
fi

# same NAME MEMORY COMMAND…: plain, and managed.
same() {
    name=$1
    memory=$2
    shift 2
    timeout 100 "${user[@]}" "$@" >plain 2>plain.err
    for trap in thread sigbus; do
        cp plain.err "$dir/err"
        timeout 100 "${run[@]}" --memory "$memory" --trap $trap -- "$@" >managed 2>>"$dir/err"
        status=$?
        drop_advice "$dir/err"
        [ $status -eq 0 ] && cmp plain managed >>"$dir/err" 2>&1 && [ ! -s "$dir/err" ]
        ok $? "$name, $trap: the same output"
    done
}

perl -e 'my $x = 1; for (1 .. 30000) { $x = ($x * 1103515245 + 12345) % 2147483648;
    printf "%010d%030d\n", $x, $_ }' >lines
same sort 2M sort --buffer-size=16M --parallel=2 lines
same "dd, with blocks of more than its memory" 4M dd if=lines bs=16M count=1 iflag=fullblock status=none
same "a shell and what it starts" 4M sh -c 'cat lines | tail -5; ls /; for i in 1 2 3; do echo $i; done'
same perl 3M perl -e 'open my $f, "<", "lines"; my @a = <$f>; print reverse @a; print `echo a child`'
if command -v sqlite3 >/dev/null; then
    same sqlite3 4M sqlite3 :memory: "create table t(a, b); with recursive c(x) as (select 1 union all
        select x + 1 from c where x < 20000) insert into t select x, hex(x * 7919) from c;
        create index i on t(b); select count(*), max(b) from t; pragma integrity_check;"
else
    skip "sqlite3 is missing"
fi
if [ -x /usr/bin/python3 ]; then # not what else may come first in PATH
    same python3 8M /usr/bin/python3 -c "
import subprocess, threading, os
a = [str(i) * 20 for i in range(100000)]
t = [threading.Thread(target=lambda: a.sort()) for _ in range(2)]
[x.start() for x in t]; [x.join() for x in t]
print(subprocess.run(['cat'], input='\n'.join(a), capture_output=True, text=True).stdout[-100:])
child = os.fork()
if child == 0:
    os._exit(len(a) != 100000 or a[5] != a[5])
print(os.waitpid(child, 0)[1])"
else
    skip "python3 is missing"
fi

finish
