/*
 * The options of sim.
 */
#include "cli/sim_options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/error.h"

#define VIRTUAL_MAX (16 * TUNABLE_TIB) /* what a pagefile can hold */
#define THREADS_MAX 256
#define RUN_MAX_LIMIT (UINT64_C(1) << 30)
#define SECONDS_DEFAULT 10
#define SECONDS_MAX (UINT64_C(365) * 24 * 3600)

static int apply_virtual(void *context, const char *value)
{
    struct sim_settings *s = context;
    uint64_t bytes;
    int result = parse_size("virtual", value, &bytes);

    if (result != 0)
        return result;
    if (bytes == 0)
        return error_set(-ERANGE, "virtual: a region of 0 bytes has no page; give at least 4K");
    if (bytes > VIRTUAL_MAX)
        return error_set(
            -ERANGE, "virtual: " SHOWN " is larger than can be mapped; give at most 16T", value);
    s->virtual_bytes = (bytes + VMSM_PAGE_SIZE - 1) & ~(uint64_t)(VMSM_PAGE_SIZE - 1);
    return 0;
}

static int apply_threads(void *context, const char *value)
{
    struct sim_settings *s = context;
    uint64_t threads;
    int result = option_number("threads", value, 1, THREADS_MAX, &threads);

    if (result == 0)
        s->threads = (unsigned)threads;
    return result;
}

/* Seconds, with or without a fraction, or a time with a unit. */
static int apply_seconds(void *context, const char *value)
{
    struct sim_settings *s = context;
    size_t length = strlen(value);
    double seconds;
    uint64_t ns;
    char *end;

    if (length > 0 && strspn(value, "0123456789.") == length) {
        seconds = strtod(value, &end);
        if (*end != '\0')
            return error_set(-EINVAL, "seconds: \"" SHOWN "\" is not a number", value);
        ns = seconds <= (double)SECONDS_MAX ? (uint64_t)(seconds * 1e9) : UINT64_MAX;
    } else {
        int result = parse_time("seconds", value, &ns);

        if (result != 0)
            return result;
    }
    if (ns == 0)
        return error_set(-ERANGE,
                         "seconds: a run of " SHOWN " has no time for anything; give more than 0",
                         value);
    if (ns > SECONDS_MAX * TUNABLE_SECOND)
        return error_set(-ERANGE, "seconds: " SHOWN " is over a year; give less", value);
    s->time_ns = ns;
    return 0;
}

static int apply_accesses(void *context, const char *value)
{
    struct sim_settings *s = context;

    return option_number("accesses", value, 1, INT64_MAX, &s->accesses);
}

static int apply_run_max(void *context, const char *value)
{
    struct sim_settings *s = context;

    return option_number("run-max", value, 1, RUN_MAX_LIMIT, &s->run_max);
}

static int apply_write(void *context, const char *value)
{
    struct sim_settings *s = context;
    uint64_t percent;
    int result = option_number("write", value, 0, 100, &percent);

    if (result == 0)
        s->write_percent = (unsigned)percent;
    return result;
}

static int apply_seed(void *context, const char *value)
{
    struct sim_settings *s = context;
    int result = option_number("seed", value, 0, INT64_MAX, &s->seed);

    s->seed_given = result == 0;
    return result;
}

static int preset_apply(struct sim_settings *s, const char *word)
{
    static const char *const words[] = {"small", "harsh-disk", "spinning-locks", NULL};
    const char *near;

    if (strcmp(word, words[0]) == 0) {
        s->virtual_bytes = 8 * TUNABLE_MIB;
        s->tunables.memory = SIM_MEMORY_THIRD;
        return 0;
    }
    if (strcmp(word, words[1]) == 0)
        return tunables_set(&s->tunables, "store_delay", "5ms");
    if (strcmp(word, words[2]) == 0)
        return tunables_set(&s->tunables, "spinning_locks", "on");
    if (word[0] == '\0')
        return error_set(-EINVAL, "preset: a name is missing before or after a comma; there are "
                                  "small, harsh-disk, spinning-locks");
    near = nearest_word(word, words);
    return error_set(-EINVAL, "preset: there is no " SHOWN "%s%s%s", word,
                     near != NULL ? "; did you mean "
                                  : "; there are small, harsh-disk, spinning-locks",
                     near != NULL ? near : "", near != NULL ? "?" : "");
}

static int apply_preset(void *context, const char *value)
{
    char words[128], *rest = words, *word;
    int result = 0;

    if (value[0] == '\0' || strlen(value) >= sizeof(words))
        return error_set(-EINVAL,
                         "preset: \"" SHOWN "\" is not a list of small, harsh-disk, spinning-locks",
                         value);
    snprintf(words, sizeof(words), "%s", value);
    while (result == 0 && (word = strsep(&rest, ",")) != NULL)
        result = preset_apply(context, word);
    return result;
}

static int apply_json(void *context, const char *value)
{
    struct sim_settings *s = context;

    s->json = value;
    return 0;
}

static int apply_quiet(void *context, const char *value)
{
    struct sim_settings *s = context;

    (void)value;
    s->quiet = true;
    return 0;
}

static int apply_show(void *context, const char *value)
{
    struct sim_settings *s = context;

    (void)value;
    s->show = true;
    return 0;
}

const struct option_info sim_options[] = {
    {"virtual", "SIZE", "1G",
     "size of the region that is accessed; memory is a third of it if --memory is not given",
     apply_virtual},
    {"threads", "N", "8", "user threads, 1 to 256", apply_threads},
    {"seconds", "TIME", "10", "how long to run (then comes the sweep)", apply_seconds},
    {"accesses", "N", NULL,
     "how many page accesses to make in all, instead of --seconds (with both: what ends first)",
     apply_accesses},
    {"run-max", "PAGES", "64", "longest run of pages accessed one after another", apply_run_max},
    {"write", "PERCENT", "10", "share of accesses that write", apply_write},
    {"seed", "N", "drawn", "repeats a run's accesses: same seed, same threads, same accesses",
     apply_seed},
    {"preset", "LIST", NULL,
     "small (8M virtual, a third of it memory), harsh-disk (store_delay=5ms), spinning-locks; "
     "several with commas",
     apply_preset},
    {"json", "FILE", NULL, "write the report as JSON too; -: to standard output", apply_json},
    {"quiet", NULL, NULL, "no progress", apply_quiet},
    {"show-settings", NULL, NULL, "print the settings in force and end", apply_show},
    {0},
};

static uint64_t third_of(uint64_t bytes)
{
    uint64_t third = bytes / 3 & ~(uint64_t)(VMSM_PAGE_SIZE - 1);

    return third > TUNABLE_MEMORY_MIN ? third : TUNABLE_MEMORY_MIN;
}

void sim_settings_init(struct sim_settings *s)
{
    *s = (struct sim_settings){
        .virtual_bytes = 1024 * TUNABLE_MIB, .threads = 8, .run_max = 64, .write_percent = 10};
    tunables_init(&s->tunables);
    s->tunables.memory = SIM_MEMORY_THIRD;
}

int sim_settings_finish(struct sim_settings *s)
{
    if (s->tunables.memory == SIM_MEMORY_THIRD)
        s->tunables.memory = third_of(s->virtual_bytes);
    if (s->time_ns == 0 && s->accesses == 0)
        s->time_ns = SECONDS_DEFAULT * TUNABLE_SECOND;
    if (!s->seed_given) {
        uint32_t drawn;

        if (getrandom(&drawn, sizeof(drawn), 0) != (ssize_t)sizeof(drawn))
            return error_set(-EIO, "the kernel gave no random seed; give --seed");
        s->seed = drawn;
    }
    if (s->tunables.trap == TRAP_NONE && s->tunables.mapper != MAPPER_SOFT)
        return error_set(-EINVAL, "trap: sim needs faults to be served; give --trap thread or "
                                  "--trap sigbus, or --mapper soft");
    return 0;
}

static void show_line(FILE *out, const char *name, const char *help, const char *format, ...)
{
    char value[64];
    va_list args;

    va_start(args, format);
    vsnprintf(value, sizeof(value), format, args);
    va_end(args);
    fprintf(out, "%-20s  %-12s  %s\n", name, value, help);
}

void sim_settings_show(const struct sim_settings *s, FILE *out)
{
    show_line(out, "virtual", "size of the region", "%" PRIu64 "K", s->virtual_bytes / TUNABLE_KIB);
    show_line(out, "threads", "user threads", "%u", s->threads);
    show_line(out, "seconds", "how long; 0: as long as accesses", "%g", (double)s->time_ns / 1e9);
    show_line(out, "accesses", "how many; 0: as long as seconds", "%" PRIu64, s->accesses);
    show_line(out, "run-max", "longest run, pages", "%" PRIu64, s->run_max);
    show_line(out, "write", "percent of accesses that write", "%u", s->write_percent);
    show_line(out, "seed", "of the accesses", "%" PRIu64, s->seed);
    fputs("\nSettings of the manager:\n", out);
    tunables_show(&s->tunables, out);
}
