/* The kernel's swap, measured as `bench` does it, by the same modules. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bound.h"
#include "child.h"
#include "peer.h"
#include "plan.h"

static struct options options; /* of bench */
static struct peer *peer;

int bound_swap_open(struct bound *b)
{
    char region[32], seconds[32], share[16];
    char *arguments[] = {(char[]){"bench"},
                         (char[]){"--kinds"},
                         (char[]){"swap"},
                         (char[]){"--region"},
                         region,
                         (char[]){"--seconds"},
                         seconds,
                         (char[]){"--memory-share"},
                         share,
                         (char[]){"--dir"},
                         (char *)(uintptr_t)b->options.dir,
                         NULL};
    const char *missing[MEMORY_KINDS] = {0};
    const struct peer_options peers = {.dir = b->options.dir, .length = b->options.region};

    snprintf(region, sizeof(region), "%lluK", (unsigned long long)b->options.region >> 10);
    snprintf(seconds, sizeof(seconds), "%g", b->options.seconds);
    snprintf(share, sizeof(share), "%u", b->options.share);
    options_parse(&options, sizeof(arguments) / sizeof(arguments[0]) - 1, arguments);
    if (peer_open(&peer, &peers, missing) < 0)
        return -ENOMEM;
    if (missing[SWAP] == NULL)
        return 0;
    fprintf(stderr, "bound: swap is left out: %s\n", missing[SWAP]);
    return -ENOTSUP;
}

void bound_swap_close(void)
{
    peer_close(peer);
    peer = NULL;
}

static int cell_measure(struct bound *b, struct child *child, const char *name, unsigned threads,
                        struct bound_speed *speed)
{
    const struct workload *workload = workload_find(name);
    struct command command = {.workload = workload,
                              .threads = threads,
                              .seconds = plan_seconds(&options, workload, b->options.share),
                              .touches = plan_touches(&options, workload, b->options.share),
                              .warm_touches = plan_warm_up(&options, workload, b->options.share),
                              .warm_seconds = options.warm_up,
                              .seed = b->round};
    struct answer answer;
    const struct usage *u = &answer.usage;
    int error = child_ask(child, &command, &answer);

    if (error == 0)
        error = answer.status;
    if (error < 0)
        return error;
    b->wrong = b->wrong || answer.result.wrong > 0;
    speed->rate.rounds[b->round] = (double)answer.result.touches / answer.result.seconds;
    speed->p99.rounds[b->round] = answer.result.p99;
    speed->p999.rounds[b->round] = answer.result.p999;
    speed->cpu.rounds[b->round] =
        u->pages_in != USAGE_NONE && u->pages_out != USAGE_NONE && u->pages_in + u->pages_out > 0
            ? (double)u->cpu_ns / 1e9 / (double)(u->pages_in + u->pages_out)
            : NAN;
    if (u->faults <= answer.result.touches)
        speed->hits.rounds[b->round] = 1 - (double)u->faults / (double)answer.result.touches;
    return 0;
}

int bound_swap(struct bound *b)
{
    const struct child_setup setup = {.options = &options,
                                      .kind = SWAP,
                                      .share = b->options.share,
                                      .peer = peer,
                                      .interrupted = &bound_interrupted};
    const struct command finish = {0};
    uint64_t limit = plan_budget(&options, b->options.share) + peer_allowance(options.region);
    struct answer answer;
    struct child child;
    int error = peer_prepare(peer, SWAP, limit);

    if (error == 0)
        error = child_start(&child, &setup);
    if (error < 0)
        return error;
    /* In bench's order: those that write come last. */
    for (unsigned c = 0; c < CELL_run32w10 && error == 0; c++)
        error = cell_measure(b, &child, bound_cell_names[c], BOUND_CELL_THREADS, &b->swap[c]);
    for (unsigned c = 0; c < BOUND_CROWDS && error == 0; c++)
        error = cell_measure(b, &child, "rand", bound_threads[c], &b->swap_rand[c]);
    for (unsigned c = CELL_run32w10; c < BOUND_CELL_COUNT && error == 0; c++)
        error = cell_measure(b, &child, bound_cell_names[c], BOUND_CELL_THREADS, &b->swap[c]);
    if (error == 0)
        error = child_ask(&child, &finish, &answer);
    return child_end(&child) != STATUS_OK && error == 0 ? -EIO : error;
}
