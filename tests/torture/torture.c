/*
 * The torture program: which cases, in which order, and what came of them.
 *
 * Started by tests/torture/run, which makes the disks and control groups that it needs.
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "torture.h"

#define CASE_MIN_NS (1200 * MILLISECOND)
#define CASE_MAX_NS (20 * SECOND)
#define HANG_SECONDS 120

static const struct phase phases[] = {
    {"mix", "all calls at random", 0},
    {"delay", "sleeps at yield points", PHASE_DELAY},
    {"stop", "SIGSTOP and SIGCONT, threads moved between processors", DISTURB_STOP | DISTURB_CPU},
    {"limit", "a control group's limit of the allowance", PHASE_LIMIT},
    {"dips", "the limit goes down to what is used, again and again",
     PHASE_LIMIT | DISTURB_DIP | PHASE_REAL},
    {"squeeze", "a limit below the allowance", PHASE_SQUEEZE},
    {"full", "the disk fills and is freed again", PHASE_DISK | DISTURB_FILL},
    {"store", "errors of the store", PHASE_STORE | PHASE_ERRORS},
    {"device", "a device that runs out of blocks, and has them again",
     PHASE_DEVICE | DISTURB_FILL | PHASE_ERRORS},
    {"cut", "a device whose reads fail, and that forgets",
     PHASE_DEVICE | DISTURB_CUT | PHASE_ERRORS},
    {"corrupt", "another process writes over the pagefile", DISTURB_CORRUPT | PHASE_ERRORS},
    {"kill", "SIGKILL, and again on the same pagefile", PHASE_KILL},
};
#define PHASES (sizeof(phases) / sizeof(phases[0]))

static const struct pair {
    const char *mapper, *trap;
    enum tunable_mapper mapper_id;
    enum tunable_trap trap_id;
} pairs[] = {
    {"copy", "thread", MAPPER_COPY, TRAP_THREAD}, {"copy", "sigbus", MAPPER_COPY, TRAP_SIGBUS},
    {"move", "thread", MAPPER_MOVE, TRAP_THREAD}, {"move", "sigbus", MAPPER_MOVE, TRAP_SIGBUS},
    {"soft", "none", MAPPER_SOFT, TRAP_NONE},
};
#define PAIRS (sizeof(pairs) / sizeof(pairs[0]))

struct options {
    struct places places;
    const char *phase, *mapper, *trap; /* NULL: all */
    const char *missing[3];            /* why there is no small disk, thin device, control group */
    uint64_t seed;
    uint64_t total_ns; /* of the whole; every case is run at least once */
    uint64_t case_ns;  /* 0: from the total */
    uint64_t hang_ns;
};

enum { MISSING_SMALL, MISSING_THIN, MISSING_CGROUP };

/* What came of a phase. */
struct tally {
    unsigned cases, wrong, killed, skipped;
    struct verdict sum;
    const char *why; /* skipped as a whole */
    char skip_words[WORDS_MAX];
};

volatile sig_atomic_t torture_interrupted;

static void on_interrupt(int number)
{
    (void)number;
    torture_interrupted = 1;
}

/* ---- the command line ---- */

static void usage(FILE *out)
{
    fprintf(out, "usage: torture --work FOLDER [--seconds N] [--seed N] [--phase NAME] "
                 "[--mapper NAME] [--trap NAME]\n"
                 "  [--case SECONDS] [--hang SECONDS] [--small FOLDER] [--thin DEVICE] "
                 "[--thin-disk FOLDER] [--cgroup FOLDER]\n"
                 "  [--no-small WHY] [--no-thin WHY] [--no-cgroup WHY]\n\nphases\n");
    for (size_t i = 0; i < PHASES; i++)
        fprintf(out, "  %-8s %s\n", phases[i].name, phases[i].what);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    if (*text != '\0' && *end == '\0')
        return value;
    fprintf(stderr, "torture: \"%s\" is not a number\n", text);
    exit(STATUS_SETUP);
}

static void parse_one(struct options *o, int option)
{
    switch (option) {
    case 'w':
        o->places.work = optarg;
        break;
    case 't':
        o->total_ns = number(optarg) * SECOND;
        break;
    case 's':
        o->seed = number(optarg);
        break;
    case 'p':
        o->phase = optarg;
        break;
    case 'm':
        o->mapper = optarg;
        break;
    case 'r':
        o->trap = optarg;
        break;
    case 'c':
        o->case_ns = number(optarg) * SECOND;
        break;
    case 'h':
        o->hang_ns = number(optarg) * SECOND;
        break;
    case 'S':
        o->places.small = optarg;
        break;
    case 'T':
        o->places.thin = optarg;
        break;
    case 'D':
        o->places.thin_disk = optarg;
        break;
    case 'G':
        o->places.cgroup = optarg;
        break;
    case '1':
        o->missing[MISSING_SMALL] = optarg;
        break;
    case '2':
        o->missing[MISSING_THIN] = optarg;
        break;
    case '3':
        o->missing[MISSING_CGROUP] = optarg;
        break;
    case '?':
        usage(stdout);
        exit(0);
    default:
        usage(stderr);
        exit(STATUS_SETUP);
    }
}

static void parse(struct options *o, int argc, char **argv)
{
    static const struct option table[] = {
        {"work", 1, NULL, 'w'},     {"seconds", 1, NULL, 't'},   {"seed", 1, NULL, 's'},
        {"phase", 1, NULL, 'p'},    {"mapper", 1, NULL, 'm'},    {"trap", 1, NULL, 'r'},
        {"case", 1, NULL, 'c'},     {"hang", 1, NULL, 'h'},      {"small", 1, NULL, 'S'},
        {"thin", 1, NULL, 'T'},     {"thin-disk", 1, NULL, 'D'}, {"cgroup", 1, NULL, 'G'},
        {"no-small", 1, NULL, '1'}, {"no-thin", 1, NULL, '2'},   {"no-cgroup", 1, NULL, '3'},
        {"help", 0, NULL, '?'},     {NULL, 0, NULL, 0},
    };
    int option;

    opterr = 1;
    while ((option = getopt_long(argc, argv, "", table, NULL)) != -1)
        parse_one(o, option == '?' && optopt != 0 ? 'x' : option);
    if (optind < argc || o->places.work == NULL) {
        usage(stderr);
        exit(STATUS_SETUP);
    }
}

/* ---- cases ---- */

static bool known(const char *what, const char *name, bool found)
{
    if (name == NULL || found)
        return true;
    fprintf(stderr, "torture: there is no %s \"%s\"\n", what, name);
    return false;
}

static bool options_good(const struct options *o)
{
    bool phase = false, mapper = false, trap = false;

    for (size_t i = 0; i < PHASES && o->phase != NULL; i++)
        phase |= strcmp(o->phase, phases[i].name) == 0;
    for (size_t i = 0; i < PAIRS; i++) {
        mapper |= o->mapper != NULL && strcmp(o->mapper, pairs[i].mapper) == 0;
        trap |= o->trap != NULL && strcmp(o->trap, pairs[i].trap) == 0;
    }
    return known("phase", o->phase, phase) && known("mapper", o->mapper, mapper) &&
           known("trap", o->trap, trap);
}

static bool wanted(const struct options *o, const struct phase *phase, const struct pair *pair)
{
    if (pair->mapper_id == MAPPER_SOFT && (phase->flags & PHASE_REAL))
        return false;
    return (o->phase == NULL || strcmp(o->phase, phase->name) == 0) &&
           (o->mapper == NULL || strcmp(o->mapper, pair->mapper) == 0) &&
           (o->trap == NULL || strcmp(o->trap, pair->trap) == 0);
}

/* Why a phase cannot be run here; NULL: it can. */
static const char *missing(const struct options *o, const struct phase *phase)
{
    static const char *const unsaid = "its place was not given (see --help)";
    unsigned which;

    if ((phase->flags & PHASE_DISK) && o->places.small == NULL)
        which = MISSING_SMALL;
    else if ((phase->flags & PHASE_DEVICE) &&
             (o->places.thin == NULL || o->places.thin_disk == NULL))
        which = MISSING_THIN;
    else if ((phase->flags & (PHASE_LIMIT | PHASE_SQUEEZE)) && o->places.cgroup == NULL)
        which = MISSING_CGROUP;
    else
        return NULL;
    return o->missing[which] != NULL ? o->missing[which] : unsaid;
}

static void disturbed(const struct verdict *v, char *text, size_t size)
{
    const struct {
        uint64_t count;
        const char *name;
    } all[] = {{v->stops, "stops"},
               {v->moves, "thread moves"},
               {v->dips, "limit dips"},
               {v->limit_hits, "limit hits"},
               {v->fills, "disk fills"},
               {v->slots, "slots overwritten"},
               {v->cuts, "device cuts"},
               {v->kills, "kills"},
               {v->store_errors, "store errors"}};
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]) && used < size; i++) {
        if (all[i].count > 0)
            used += (size_t)snprintf(text + used, size - used, "%s%" PRIu64 " %s",
                                     used > 0 ? ", " : "", all[i].count, all[i].name);
    }
}

static void show_case(const struct phase *phase, const struct pair *pair, uint64_t seed,
                      const struct verdict *v, uint64_t took)
{
    const char *result = v->wrong ? "WRONG" : v->skipped ? "skipped" : v->killed ? "killed" : "ok";
    char text[256];

    disturbed(v, text, sizeof(text));
    printf("%-8s %-4s %-6s %9" PRIu64 " accesses %8" PRIu64 " faults %6" PRIu64
           " failed  %5.1f s  seed %-10" PRIu64 " %-7s %s\n",
           phase->name, pair->mapper, pair->trap, v->accesses, v->faults, v->failed,
           (double)took / (double)SECOND, seed, result, v->skipped ? v->words : text);
    fflush(stdout);
}

static void add_up(struct tally *t, const struct verdict *v)
{
    t->cases++;
    t->wrong += v->wrong;
    t->killed += v->killed;
    t->skipped += v->skipped;
    t->sum.accesses += v->accesses;
    t->sum.faults += v->faults;
    t->sum.failed += v->failed;
    t->sum.stops += v->stops;
    t->sum.moves += v->moves;
    t->sum.dips += v->dips;
    t->sum.limit_hits += v->limit_hits;
    t->sum.fills += v->fills;
    t->sum.slots += v->slots;
    t->sum.cuts += v->cuts;
    t->sum.kills += v->kills;
    t->sum.store_errors += v->store_errors;
    if (v->skipped)
        memcpy(t->skip_words, v->words, WORDS_MAX);
}

static void run_case(const struct options *o, const struct phase *phase, const struct pair *pair,
                     uint64_t seed, struct tally *tally)
{
    uint64_t start = torture_now();
    struct verdict verdict;
    struct plan plan;

    plan_make(&plan, phase, pair->mapper_id, pair->trap_id, seed, o->case_ns, &o->places);
    watch_case(&plan, &o->places, o->hang_ns, &verdict);
    if (torture_interrupted)
        return; /* so was the case */
    show_case(phase, pair, seed, &verdict, torture_now() - start);
    add_up(tally, &verdict);
    if (!verdict.wrong)
        return;
    printf("  %s\n  settings: %s\n  repeat with: make torture-case PHASE=%s MAPPER=%s TRAP=%s "
           "SEED=%" PRIu64 " SECONDS=%" PRIu64 "\n",
           verdict.words, plan.conf, phase->name, pair->mapper, pair->trap, seed,
           (plan.run_ns + SECOND - 1) / SECOND);
    fflush(stdout);
}

/* Every phase with every pair once. Returns false when the time is over and all were run once. */
static bool run_cycle(const struct options *o, unsigned cycle, uint64_t end, struct tally *tallies)
{
    for (size_t p = 0; p < PHASES; p++) {
        for (size_t i = 0; i < PAIRS && !torture_interrupted; i++) {
            uint64_t seed = o->seed + cycle * PHASES * PAIRS + p * PAIRS + i;

            if (cycle > 0 && torture_now() >= end)
                return false;
            /* One named case: the seed is the case's own. */
            if (o->phase != NULL && o->mapper != NULL && o->trap != NULL)
                seed = o->seed + cycle;
            if (tallies[p].why == NULL && wanted(o, &phases[p], &pairs[i]))
                run_case(o, &phases[p], &pairs[i], seed, &tallies[p]);
        }
    }
    return torture_now() < end;
}

/* ---- the end ---- */

static int show_summary(const struct options *o, const struct tally *tallies)
{
    unsigned wrong = 0;

    printf("\n%-8s %5s %12s %10s %8s  %-10s %s\n", "phase", "cases", "accesses", "faults", "failed",
           "result", "disturbed by");
    for (size_t p = 0; p < PHASES; p++) {
        const struct tally *t = &tallies[p];
        char text[256];

        if (t->why != NULL)
            printf("%-8s %43s  %-10s %s\n", phases[p].name, "", "skipped", t->why);
        if (t->cases == 0)
            continue;
        disturbed(&t->sum, text, sizeof(text));
        printf("%-8s %5u %12" PRIu64 " %10" PRIu64 " %8" PRIu64 "  %-10s %s%s%s\n", phases[p].name,
               t->cases, t->sum.accesses, t->sum.faults, t->sum.failed,
               t->wrong > 0             ? "WRONG"
               : t->skipped == t->cases ? "skipped"
                                        : "ok",
               text, t->skipped > 0 ? "; some skipped: " : "", t->skip_words);
        if (t->killed > 0)
            printf("%8s %u of them killed by the kernel for want of memory\n", "", t->killed);
        wrong += t->wrong;
    }
    printf("seed %" PRIu64 ": %s\n", o->seed,
           torture_interrupted ? "interrupted"
           : wrong > 0         ? "SOMETHING IS WRONG"
                               : "nothing lost, nothing wrong, all books balanced");
    if (wrong > 0)
        return STATUS_WRONG;
    return torture_interrupted ? STATUS_SETUP : STATUS_RIGHT;
}

static unsigned count_cases(const struct options *o, struct tally *tallies)
{
    unsigned count = 0;

    for (size_t p = 0; p < PHASES; p++) {
        if (o->phase == NULL || strcmp(o->phase, phases[p].name) == 0)
            tallies[p].why = missing(o, &phases[p]);
        for (size_t i = 0; i < PAIRS; i++)
            count += tallies[p].why == NULL && wanted(o, &phases[p], &pairs[i]);
    }
    return count;
}

int main(int argc, char **argv)
{
    static struct tally tallies[PHASES];
    struct sigaction action = {.sa_handler = on_interrupt};
    struct options o = {.total_ns = 180 * SECOND, .hang_ns = HANG_SECONDS * SECOND};
    uint64_t end;
    unsigned count;

    parse(&o, argc, argv);
    if (!options_good(&o))
        return STATUS_SETUP;
    if (o.seed == 0 && getrandom(&o.seed, 4, 0) != 4)
        o.seed = (uint64_t)getpid();
    count = count_cases(&o, tallies);
    if (count > 0 && o.case_ns == 0)
        o.case_ns = o.total_ns / 2 / count; /* making, sweeping and ending take time too */
    if (o.case_ns < CASE_MIN_NS)
        o.case_ns = CASE_MIN_NS;
    if (o.case_ns > CASE_MAX_NS)
        o.case_ns = CASE_MAX_NS;
    unsetenv("VMSM_CONF");
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    printf("seed %" PRIu64 ", %u cases of %.1f s, %.0f s in all\n", o.seed, count,
           (double)o.case_ns / (double)SECOND, (double)o.total_ns / (double)SECOND);
    fflush(stdout);
    end = torture_now() + o.total_ns;
    for (unsigned cycle = 0; !torture_interrupted && count > 0; cycle++) {
        if (!run_cycle(&o, cycle, end, tallies))
            break;
    }
    return show_summary(&o, tallies);
}
