#!/bin/bash
# What `vmsm run` asks of a program that asks nothing of it: its start, and processor time while it
# sleeps. TAP.

. "$(dirname "$0")/run_shell" quiet

# short SETTING…: does a start take less than 20 ms? Of many one is enough, for others use the
# processors too; one that always takes more never takes less.
short() {
    shortest=999999999
    for _ in $(seq 400); do
        from=${EPOCHREALTIME/./}
        "$vmsm" run "$@" -- true 2>>"$dir/err" || return 1
        took=$((${EPOCHREALTIME/./} - from))
        [ $took -lt $shortest ] && shortest=$took
        [ $shortest -lt 20000 ] && return
    done
    echo "$* $shortest us" >>"$dir/out"
    return 1
}

for trap in thread sigbus; do
    for memory in 6M 256M; do # with a manager from the start, and with none
        short --trap $trap --memory $memory
        ok $? "$trap, $memory: a start takes less than 20 ms"
    done
done

cat >"$dir/sleeps.c" <<'END'
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
struct use { unsigned long long ns, turns; unsigned threads; };
/* Of all threads but this one. */
static struct use others(void)
{
    struct use use = {0, 0, 0};
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    while ((task = readdir(tasks)) != NULL) {
        unsigned long long ns, waited, turns;
        char path[300];
        FILE *file;
        if (task->d_name[0] == '.' || atoi(task->d_name) == getpid())
            continue;
        snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", task->d_name);
        file = fopen(path, "r");
        if (file != NULL && fscanf(file, "%llu %llu %llu", &ns, &waited, &turns) == 3) {
            use.ns += ns;
            use.turns += turns;
            use.threads++;
        }
        if (file != NULL)
            fclose(file);
    }
    closedir(tasks);
    return use;
}
int main(void)
{
    char *memory = malloc(24 << 20);
    struct use before, after = {0, 0, 0};
    int looks = 0;
    for (int round = 0; round < 3; round++)
        for (int at = 0; at < 24 << 20; at += 4096)
            memory[at] += at >> 12;
    do {
        before = after;
        usleep(100000);
        after = others();
    } while (after.turns != before.turns && ++looks < 300);
    before = others();
    sleep(2);
    after = others();
    for (int at = 0; at < 24 << 20; at += 4096)
        if (memory[at] != (char)((at >> 12) * 3))
            return 2;
    printf("threads %u looks %d turns %llu us %llu\n", after.threads, looks,
           after.turns - before.turns, (after.ns - before.ns) / 1000);
    return after.threads == 0 ? 3 : after.ns - before.ns < 2000000 ? 0 : 4;
}
END
if [ ! -r /proc/self/schedstat ]; then
    skip "the kernel does not count the turns of threads (CONFIG_SCHED_INFO)"
elif gcc -o "$dir/sleeps" "$dir/sleeps.c" 2>"$dir/err"; then
    for trap in thread sigbus; do
        "$vmsm" run --trap $trap --memory 6M -- "$dir/sleeps" >"$dir/out" 2>"$dir/err"
        ok $? "$trap: the manager's threads sleep while the program does"
    done
else
    skip "there is no compiler"
fi

finish
