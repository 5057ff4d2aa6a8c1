#!/bin/bash
# `vmsm run`: what it refuses, exit statuses, signals, environment, reports, limits. TAP.

. "$(dirname "$0")/run_shell" run

# run ARGUMENT…: leaves the exit status in $status.
run() {
    timeout -k 1 60 "$vmsm" run "$@" >"$dir/out" 2>"$dir/err"
    status=$?
    drop_advice "$dir/err"
}

# said STATUS WORDS NAME: the last run ended so, with these words on standard error.
said() {
    [ $status -eq "$1" ] && grep -q -- "$2" "$dir/err"
    ok $? "$3"
}

# eats: a program that uses 24 MiB and checks them.
eats=(perl -e 'my @a; push @a, ("$_-") x 40 for 1 .. 8000; my $n = 0;
    for my $i (0 .. $#a) { $n++ if $a[$i] eq (int($i / 40) + 1) . "-" } print "$n\n"')

run --memory 4M
said 125 'there is no program' "no program: status 125"
run --memory 4M --
said 125 'there is no program' "nothing behind --"
run --memori 4M -- true
said 125 'did you mean --memory' "an unknown option, and the nearest one"
run --memory -- true
said 125 'memory' "an option without its value"
run -- "$dir/nothing"
said 127 'there is no such file' "no such file: status 127"
run -- no-such-program-anywhere
said 127 'no such program in PATH' "no such program"
run -- "$dir"
said 126 'not a program' "a directory: status 126"
echo text >"$dir/text"
run -- "$dir/text"
said 126 'permission denied' "a file that may not be executed"
run --mapper move -- true
said 125 'mapper copy' "the mapper move is refused"
run --trap none -- true
said 125 'trap thread' "so is no trap"
run --pagefile /dev/null -- true
said 125 'neither a file nor a block device' "and a pagefile that cannot be one, before the program starts"
echo 'int main(void) { return 0; }' >"$dir/static.c"
if gcc -static -o "$dir/static" "$dir/static.c" 2>/dev/null; then
    run -- "$dir/static"
    said 125 'statically linked' "a static program"
else
    skip "there is no static C library"
fi
cat >"$dir/go.c" <<'END'
__asm__(".section .note.go.buildid, \"a\", @note\n"
        ".balign 4\n.long 4, 4, 4\n.asciz \"Go\\0\"\n.long 1\n.previous\n");
int main(void) { return 0; }
END
if gcc -o "$dir/go" "$dir/go.c" 2>"$dir/err"; then
    run -- "$dir/go"
    said 125 'Go program' "a program in Go"
    run -- sh -c "$dir/go"
    said 0 'is not managed.*Go program' "one that a managed program starts is left alone"
else
    skip "there is no compiler"
    skip "there is no compiler"
fi
if [ "$(id -u)" -eq 0 ]; then
    cp "$(type -P true)" "$dir/other"
    chown 65534 "$dir/other"
    chmod 4755 "$dir/other"
    run -- "$dir/other"
    said 125 'set-user-ID' "a set-user-ID program of somebody else"
else
    skip "only root can make a set-user-ID program"
fi

if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null &&
    [ "$(cat /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null)" = 0 ]; then
    chmod 755 "$dir"
    cp "$vmsm" "$build/libvmsm-preload.so" "$dir"
    nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups env TMPDIR=/var/tmp "$dir/vmsm")
    "${nobody[@]}" run -- true >"$dir/out" 2>"$dir/err"
    status=$?
    said 0 'system calls are guarded' "faults of user code only: said at the start"
    caught_way "${nobody[@]}" run
    [ "$caught" = sigbus ]
    ok $? "and they come by SIGBUS"
    "${nobody[@]}" run --kernel-faults off -- true >"$dir/out" 2>"$dir/err"
    status=$?
    [ $status -eq 0 ] && [ ! -s "$dir/err" ]
    ok $? "but not to who says that he knows"
    "${nobody[@]}" doctor >"$dir/out" 2>&1
    grep -q 'limited *run: system calls' "$dir/out"
    ok $? "and by the doctor"
    "$dir/vmsm" run --memory 6M -- setpriv --reuid 65534 --regid 65534 --clear-groups true \
        >"$dir/out" 2>"$dir/err"
    status=$?
    said 0 'which are guarded instead' "a program without the right, started by one that has it"
    caught_way "$dir/vmsm" run --memory 6M -- setpriv --reuid 65534 --regid 65534 --clear-groups
    [ "$caught" = sigbus ]
    ok $? "its faults come by SIGBUS"
    caught_way "$dir/vmsm" run
    [ "$caught" = thread ]
    ok $? "and not those of one that has it"
    if type -P python3 >/dev/null && [ -w /dev/userfaultfd ]; then
        run --memory 6M -- python3 -c "
import os
os.setgid(65534); os.setuid(65534)
a = bytearray(b'x' * (20 << 20))
child = os.fork()
if child == 0:
    os._exit(0 if a.count(b'x') == 20 << 20 else 1)
print(os.waitpid(child, 0)[1], a.count(b'x'))"
        [ $status -eq 0 ] && grep -qx '0 20971520' "$dir/out" && [ ! -s "$dir/err" ]
        ok $? "a program gives its rights away before it uses memory, and forks after that"
        mkdir -p "$dir/root"
        run --memory 6M -- python3 -c "
import os
os.chroot('$dir/root'); os.chdir('/')
a = bytearray(b'x' * (20 << 20))
child = os.fork()
if child == 0:
    os._exit(0 if a.count(b'x') == 20 << 20 else 1)
print(os.waitpid(child, 0)[1], a.count(b'x'))"
        [ $status -eq 0 ] && grep -qx '0 20971520' "$dir/out" && [ ! -s "$dir/err" ]
        ok $? "so does one that changes its root directory"
    else
        skip "python3 or /dev/userfaultfd is missing"
    fi
else
    skip "not root, or everybody may use userfaultfd"
fi
if [ "$(id -u)" -eq 0 ] && unshare --mount sh -c 'umount -l /proc' 2>/dev/null; then
    unshare --mount sh -c 'umount -l /proc; exec "$@"' sh "$vmsm" run -- true >"$dir/out" 2>"$dir/err"
    status=$?
    said 125 'is /proc mounted' "without /proc: said at the start"
else
    skip "/proc cannot be unmounted here"
fi
"$vmsm" doctor >"$dir/out" 2>&1
grep -q 'ok *run: library' "$dir/out" && grep -q 'ok *run: seccomp' "$dir/out"
ok $? "the doctor knows what it needs"

run -- sh -c 'exit 42'
[ $status -eq 42 ]
ok $? "the program's exit status comes through"
run -- sh -c 'kill -USR1 $$'
[ $status -eq $((128 + 10)) ]
ok $? "so does death by a signal"
printf '#!/bin/sh\necho "$0 $1"\n' >"$dir/script"
chmod +x "$dir/script"
run -- "$dir/script" one
[ $status -eq 0 ] && [ "$(cat "$dir/out")" = "$dir/script one" ]
ok $? "a script is run by its interpreter"
printf 'echo plain\n' >"$dir/bare"
chmod +x "$dir/bare"
run -- "$dir/bare"
[ $status -eq 0 ] && [ "$(cat "$dir/out")" = plain ]
ok $? "and one that names none by the shell"
echo text | "$vmsm" run -- cat >"$dir/out" 2>"$dir/err"
drop_advice "$dir/err"
[ "$(cat "$dir/out")" = text ] && [ ! -s "$dir/err" ]
ok $? "input and output are the program's, and nothing is added"

for trap in thread sigbus; do
    run --memory 6M --trap $trap --stats --report "$dir/report" -- "${eats[@]}"
    [ $status -eq 0 ] && [ "$(cat "$dir/out")" = 320000 ] &&
        grep -q 'vmsm: run: perl .*peak resident' "$dir/err"
    ok $? "$trap: --stats: a line at the end"
    perl -MJSON::PP -e 'local $/; my $r = decode_json(<STDIN>);
        exit($r->{managed} && $r->{pages_written} > 0 && $r->{memory} == 6 << 20 ? 0 : 1)' <"$dir/report"
    ok $? "$trap: --report: JSON with counters"
    resident=$(sed -n 's/.*"peak_resident": \([0-9]*\).*/\1/p' "$dir/report")
    [ "${resident:-999999999}" -lt $((20 << 20)) ]
    ok $? "$trap: it was never resident with much more than its memory"
done
run --report "$dir/none/report" -- true
said 125 'cannot be written' "a report that cannot be written"

cat >"$dir/grow.c" <<'EOF'
#define _GNU_SOURCE
#include <sys/mman.h>
int main(void) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    char *p = mmap(0, 12 << 20, 3, flags, -1, 0), *q;
    for (int i = 0; i < 12; i++) p[i << 20] = i;
    mmap(p + (12 << 20), 4096, 0, flags | MAP_FIXED_NOREPLACE, -1, 0);
    q = mremap(p, 12 << 20, 18 << 20, MREMAP_MAYMOVE);
    if (q == MAP_FAILED || q == p) return 1;
    for (int i = 0; i < 18; i++) if (q[i << 20] != (i < 12 ? i : 0)) return 2;
    return mmap(0, 12 << 20, 3, flags, -1, 0) == MAP_FAILED ? 0 : 3;
}
EOF
gcc -w -o "$dir/grow" "$dir/grow.c"
run --memory 4M --pagefile-size 28M -- "$dir/grow"
[ $status -eq 0 ]
ok $? "memory that grows elsewhere is promised once"

cat >"$dir/early.c" <<'EOF'
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    int fd = open(argv[0], O_RDONLY), flags = MAP_PRIVATE | MAP_ANONYMOUS;
    char *p = mmap(0, 1 << 20, 3, flags, -1, 0);
    for (int i = 1; i < 40; i++) {
        if (argc > 1) {
            p = mremap(p, i << 20, (i + 1) << 20, MREMAP_MAYMOVE);
            if (p == MAP_FAILED || (i > 1 && p[(i - 1) << 20] != i - 1)) return 1;
            p[i << 20] = i;
        } else {
            memset(mmap(0, 1 << 20, 3, flags, -1, 0), 1, 1 << 20);
            munmap(mmap(0, 4 << 20, PROT_READ, MAP_PRIVATE, fd, 0), 4 << 20);
        }
    }
    return 0;
}
EOF
gcc -w -o "$dir/early" "$dir/early.c"
for way in '' grow; do
    rm -f "$dir/report"
    run --memory 256M --report "$dir/report" -- "$dir/early" $way
    [ $status -eq 0 ] && grep -q '"managed": true' "$dir/report"
    ok $? "memory from before there is a manager is limited${way:+, also where it grows}"
done

cat >"$dir/moved.c" <<'EOF'
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    for (int i = 1; i < 40; i++) {
        char *p = mmap(0, 1 << 20, 3, flags, -1, 0), *to = mmap(0, 1 << 20, 0, flags, -1, 0);
        p[5] = i;
        p = mremap(p, 1 << 20, 1 << 20, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        if (p == MAP_FAILED) return argc == 1; /* to what is managed now */
        if (p != to || p[5] != i) return 1;
        if (argc == 1) munmap(p, 1 << 20);
    }
    return 0;
}
EOF
gcc -w -o "$dir/moved" "$dir/moved.c"
for way in '' keep; do
    rm -f "$dir/report"
    run --memory 256M --report "$dir/report" -- "$dir/moved" $way
    [ $status -eq 0 ] && grep -q "\"managed\": $([ "$way" ] && echo true || echo false)" "$dir/report"
    ok $? "memory that moves before there is a manager counts where it is, until it is ${way:+not }unmapped"
done

cat >"$dir/refused.c" <<'EOF'
#define _GNU_SOURCE
#include <sys/mman.h>
int main(void) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    for (int i = 0; i < 20; i++) {
        char *p = mmap(0, 1 << 20, 3, flags, -1, 0);
        if (mmap(p, 1 << 20, 3, flags | MAP_FIXED_NOREPLACE, -1, 0) != MAP_FAILED) return 1;
        if (munmap(p + 1, 1 << 20) == 0) return 2;
    }
    return 0;
}
EOF
gcc -w -o "$dir/refused" "$dir/refused.c"
rm -f "$dir/report"
run --memory 256M --report "$dir/report" -- "$dir/refused"
[ $status -eq 0 ] && grep -q '"managed": true' "$dir/report"
ok $? "nor does it count for less by calls that fail"

cat >"$dir/break.c" <<'EOF'
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
    char *start = sbrk(0);
    if (mmap(0, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
        return 1;
    for (int i = 0; i < 40; i++)
        if (sbrk(1 << 20) != start || (start[i] = 1) != 1 || sbrk(-(1 << 20)) != start + (1 << 20))
            return 2;
    return sbrk(4096) != start || brk(start) != 0 || sbrk(0) != start ? 3 : 0;
}
EOF
gcc -w -o "$dir/break" "$dir/break.c"
run --memory 16M -- "$dir/break"
[ $status -eq 0 ]
ok $? "the break stays where it was when a program first asked"

LD_PRELOAD='' run --no-children -- sh -c 'echo "[$LD_PRELOAD] [$VMSM_RUN_CONF]"'
grep -qx '\[\] \[\]' "$dir/out"
ok $? "--no-children: programs that it starts find the environment as it was"
run --no-children -- bash -c 'grep -c libvmsm-preload /proc/self/maps; true'
[ "$(cat "$dir/out")" = 0 ]
ok $? "so do those of a shell that keeps an environment of its own"
run -- sh -c 'env | grep -c libvmsm-preload'
[ "$(cat "$dir/out")" = 1 ]
ok $? "without it they are managed"
(ulimit -v 600000; run --memory 32M -- "${eats[@]}"; exit $status)
status=$?
said 125 'cannot be managed' "too few addresses for a manager: status 125"
VMSM_CONF=memory:5M run --report "$dir/report" -- "${eats[@]}"
grep -q '"memory": 5242880' "$dir/report"
ok $? "VMSM_CONF is read"

# A fork that cannot have its memory fails at once, and says why.
forks=(perl -e 'my $a; vec($a, (20 << 20) - 1, 8) = 1; my $child = fork; exit 0 if defined $child && $child == 0;
    print defined $child ? "forked\n" : "refused " . ($! + 0) . "\n"')
run --memory 6M --encrypt on -- "${forks[@]}"
[ $status -eq 0 ] && grep -q 'refused 12' "$dir/out" && grep -q 'cannot fork.*encrypt' "$dir/err"
ok $? "with an encrypted pagefile a fork is refused"

# Libraries of the program are initialized before the preloaded one.
cat >"$dir/early.c" <<'END'
#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static pthread_t thread;
static int pipe_ends[2], refused;
static void *wait_for_main(void *unused)
{
    char byte;
    read(pipe_ends[0], &byte, 1);
    refused = syscall(SYS_io_uring_setup, 0, NULL) < 0 && errno == ENOSYS;
    return unused;
}
__attribute__((constructor)) static void early(void)
{
    int status = 0;
    if (pipe(pipe_ends) != 0 || pthread_create(&thread, NULL, wait_for_main, NULL) != 0)
        _exit(3);
    pid_t child = fork();
    if (child == 0)
        _exit(7);
    if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 7)
        _exit(4);
}
int early_end(void)
{
    write(pipe_ends[1], "x", 1);
    pthread_join(thread, NULL);
    return refused ? 0 : 5;
}
END
cat >"$dir/late.c" <<'END'
#include <stdlib.h>
#include <string.h>
int early_end(void);
int main(void)
{
    char *memory = malloc(24 << 20);
    memset(memory, 1, 24 << 20);
    return early_end();
}
END
if gcc -shared -fPIC -pthread -o "$dir/libearly.so" "$dir/early.c" 2>/dev/null &&
    gcc -o "$dir/late" "$dir/late.c" -L"$dir" -learly -Wl,-rpath,"$dir" 2>"$dir/err"; then
    run --memory 6M -- "$dir/late"
    [ $status -eq 0 ] && [ ! -s "$dir/err" ]
    ok $? "a library that makes a thread and forks before the start; the filter is the thread's as well"
else
    skip "there is no compiler"
fi

# Handlers of pthread_atfork() go with the library that registered them.
cat >"$dir/handler.c" <<'END'
#include <pthread.h>
extern int prepared;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void before(void) { pthread_mutex_lock(&lock); prepared++; }
static void after(void) { pthread_mutex_unlock(&lock); }
__attribute__((constructor)) static void start(void) { pthread_atfork(before, after, after); }
END
cat >"$dir/closes.c" <<'END'
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
int prepared;
static int forks(int expected)
{
    int status = 1;
    pid_t child;
    prepared = 0;
    child = fork();
    if (child == 0)
        _exit(prepared != expected);
    return waitpid(child, &status, 0) == child && status == 0 && prepared == expected;
}
int main(int argc, char **argv)
{
    memset(malloc(24 << 20), 1, 24 << 20);
    for (int i = 0; i < 600; i++) {
        void *library = dlopen(argv[1], RTLD_NOW);
        if (library == NULL || (i % 200 == 100 && !forks(1)))
            return 2;
        dlclose(library);
        if (i % 200 == 150 && !forks(0))
            return 3;
    }
    return forks(0) ? 0 : 4;
}
END
if gcc -shared -fPIC -o "$dir/libhandler.so" "$dir/handler.c" 2>/dev/null &&
    gcc -rdynamic -o "$dir/closes" "$dir/closes.c" -ldl 2>"$dir/err"; then
    run --memory 6M -- "$dir/closes" "$dir/libhandler.so"
    [ $status -eq 0 ] && [ ! -s "$dir/err" ]
    ok $? "handlers of pthread_atfork() of a library that is closed, and opened again"
else
    skip "there is no compiler"
fi

# System calls that are made without the C library are not seen.
cat >"$dir/raw.c" <<'END'
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
static void drop(char *at, size_t length)
{
    long result = SYS_madvise;
    register long advice __asm__("rdx") = MADV_DONTNEED;
    __asm__ volatile("syscall" : "+a"(result) : "D"(at), "S"(length), "r"(advice)
                     : "rcx", "r11", "memory");
}
int main(void)
{
    size_t size = 16 << 20;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 5, size);
    memset(memory, 6, 64 << 10);
    drop(memory, 64 << 10);
    for (size_t at = 0; at < 64 << 10; at++)
        if (memory[at] != 0)
            return 1;
    memset(memory, 7, 512 << 10);
    drop(memory, 512 << 10);
    memset(memory + (1 << 20), 8, size - (1 << 20));
    memset(memory + (1 << 20), 9, size - (1 << 20));
    for (size_t at = 0; at < 512 << 10; at++)
        if (memory[at] != 0 && memory[at] != 7)
            return 2;
    return memory[1 << 20] == 9 ? 0 : 3;
}
END
if gcc -o "$dir/raw" "$dir/raw.c" 2>"$dir/err"; then
    run --memory 6M -- "$dir/raw"
    said 0 'dropped by a system call' "memory that is given back unseen reads as zeroes; said once in a while"
else
    skip "there is no compiler"
fi

# A daemon lets go of a pipe that was its standard error.
cat >"$dir/daemon.sh" <<'END'
perl -e 'exit if fork; open STDIN, "<", "/dev/null"; open STDOUT, ">", "/dev/null";
    open STDERR, ">&", \*STDOUT; sleep 12' &
END
started=$SECONDS
timeout -k 1 30 "$vmsm" run --memory 6M -- sh "$dir/daemon.sh" 2>&1 | cat >"$dir/err"
drop_advice "$dir/err"
[ $((SECONDS - started)) -lt 10 ] && [ ! -s "$dir/err" ]
ok $? "who waits for the end of a pipe does not wait for a daemon that has closed it"

mkdir "$dir/pages"
run --memory 6M --pagefile "$dir/pages" -- "${eats[@]}"
[ $status -eq 0 ] && [ -z "$(ls "$dir/pages")" ]
ok $? "a directory as pagefile: a nameless file in it"
(cd "$dir" && run --memory 6M --pagefile file:pages/named -- "${eats[@]}" && [ $status -eq 0 ] &&
    [ -s pages/named ])
ok $? "a pagefile by file: and a relative path"
rm -f "$dir/pages/named"
run --memory 6M --pagefile "$dir/pages/file" -- sh -c '"$@"; "$@" | cat' sh "${eats[@]}"
[ $status -eq 0 ] && [ "$(sort -u "$dir/out")" = 320000 ]
ok $? "a named pagefile, and children beside it"

run --memory 4M --pagefile-size 24M -- perl -e '
    my @a; for (1 .. 400) { push @a, "x" x (1 << 20) } print "all\n"'
[ $status -ne 0 ] && grep -qi 'out of memory' "$dir/err" && ! grep -q 'SIGBUS\|invariant' "$dir/err"
ok $? "no memory and no pagefile left: the allocation fails"

cat >"$dir/full.c" <<'END'
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static char *map(size_t length, int protection)
{
    return mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
static int all_are(const char *block, char value)
{
    return block[0] == value && memcmp(block, block + 1, (1 << 20) - 1) == 0;
}
static int maps_all(void)
{
    char *blocks[64], *reserved;
    int count = 0;
    errno = 0;
    while (count < 64 && (blocks[count] = map(1 << 20, PROT_READ | PROT_WRITE)) != MAP_FAILED) {
        memset(blocks[count], count + 1, 1 << 20);
        count++;
    }
    if (count < 12 || count == 64 || errno != ENOMEM)
        return 1;
    reserved = map((size_t)64 << 30, PROT_NONE);
    if (reserved == MAP_FAILED || mprotect(reserved, 8 << 20, PROT_READ | PROT_WRITE) == 0 ||
        errno != ENOMEM || munmap(reserved, (size_t)64 << 30) != 0)
        return 2;
    for (int i = 0; i < count; i++)
        if (!all_are(blocks[i], i + 1) || munmap(blocks[i], 1 << 20) != 0)
            return 3;
    return 0;
}
static int allocates_all(void)
{
    char *blocks[64];
    int count = 0;
    errno = 0;
    for (; count < 64 && (blocks[count] = malloc(1 << 20)) != NULL; count++)
        memset(blocks[count], count + 1, 1 << 20);
    if (count < 12 || count == 64 || errno != ENOMEM)
        return 4;
    for (int i = 0; i < count; i++) {
        if (!all_are(blocks[i], i + 1))
            return 5;
        free(blocks[i]);
    }
    return 0;
}
int main(void)
{
    int wrong = 0;
    for (int round = 0; round < 3 && wrong == 0; round++)
        wrong = maps_all();
    for (int round = 0; round < 3 && wrong == 0; round++) /* what it frees stays the heap's */
        wrong = allocates_all();
    return wrong;
}
END
gcc -w -O1 -o "$dir/full" "$dir/full.c"
for trap in thread sigbus; do
    run --memory 4M --pagefile-size 40M --trap $trap -- "$dir/full"
    [ $status -eq 0 ] && [ ! -s "$dir/err" ]
    ok $? "$trap: mmap() and malloc() say ENOMEM, nothing is lost, what is freed can be had again; reservations are free"
done

cat >"$dir/new.cc" <<'END'
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>
struct alignas(256) wide {
    unsigned char bytes[256];
};
static void fill_and_check(unsigned seed, bool *right)
{
    std::map<unsigned, std::string> map;
    std::vector<std::unique_ptr<wide>> vector;
    for (unsigned i = 0; i < 30000; i++) {
        map[i * 7919 % 1000003] = std::string(100 + i % 50, (char)('a' + (i + seed) % 26));
        vector.emplace_back(new wide);
        std::memset(vector.back()->bytes, (int)(i + seed) & 255, 256);
    }
    for (unsigned i = 0; i < 30000; i++) {
        const wide *w = vector[i].get();
        *right &= map[i * 7919 % 1000003] == std::string(100 + i % 50, (char)('a' + (i + seed) % 26));
        *right &= (std::uintptr_t)w % 256 == 0 && w->bytes[0] == ((i + seed) & 255) &&
                  std::memcmp(w->bytes, w->bytes + 1, 255) == 0;
    }
}
int main()
{
    volatile std::size_t much = (std::size_t)1 << 60;
    bool right[2] = {true, true}, thrown = false;
    std::thread other(fill_and_check, 1, &right[1]);
    fill_and_check(0, &right[0]);
    other.join();
    try {
        delete[] new char[much];
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    return right[0] && right[1] && thrown && new (std::nothrow) char[much] == nullptr ? 0 : 1;
}
END
if g++ -std=c++17 -pthread -O1 -w -o "$dir/new" "$dir/new.cc" 2>"$dir/err"; then
    for trap in thread sigbus; do
        run --memory 6M --trap $trap --report "$dir/report" -- "$dir/new"
        [ $status -eq 0 ] && [ ! -s "$dir/err" ] && grep -q '"pages_read": [1-9]' "$dir/report"
        ok $? "$trap: new and delete of C++, aligned, nothrow and thrown"
    done
else
    skip "there is no C++ compiler"
fi

finish
