#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/tunables.h"
#include "plan.h"

#define MIB UINT64_C(1048576)
#define WORD_MAX 64
#define TEXT_MAX 1024

enum option_type { SIZE, COUNT, NUMBER, STRING, FLAG, COUNTS, CALL };

/* An option: where its value goes, or what takes it. */
struct option_row {
    const char *name, *argument, *help;
    enum option_type type;
    size_t offset; /* in struct options */
    double least, most;
    void (*call)(struct options *o, const struct option_row *row, const char *value);
};

static _Noreturn void usage_fail(const char *option, const char *value, const char *wanted)
{
    fprintf(stderr, "bench: --%s %s: must be %s (--help tells more)\n", option, value, wanted);
    exit(STATUS_USAGE);
}

/* The names that a word could have been, "a, b, c". */
static const char *names_join(const char *const *names, char *text, size_t size)
{
    size_t used = 0;

    text[0] = '\0';
    for (; *names != NULL && used < size; names++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "", *names);
    return text;
}

static _Noreturn void word_fail(const char *option, const char *word, const char *const *names)
{
    const char *near = nearest_word(word, names);
    char list[TEXT_MAX], hint[TEXT_MAX + 2 * WORD_MAX];

    snprintf(hint, sizeof(hint), "one of %s%s%s%s", names_join(names, list, sizeof(list)),
             near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
             near != NULL ? "\"?" : "");
    usage_fail(option, word, hint);
}

static double number_parse(const struct option_row *row, const char *text)
{
    char *end, wanted[WORD_MAX];
    double value = strtod(text, &end);

    snprintf(wanted, sizeof(wanted), "a%s number from %.10g to %.10g",
             row->type == NUMBER ? "" : " whole", row->least, row->most);
    if (end == text || *end != '\0' || !(value >= row->least && value <= row->most) ||
        (row->type != NUMBER && value != floor(value)))
        usage_fail(row->name, text, wanted);
    return value;
}

static uint64_t size_parse(const struct option_row *row, const char *text)
{
    uint64_t bytes;

    if (parse_size(row->name, text, &bytes) < 0 || (double)bytes < row->least ||
        (double)bytes > row->most) {
        char wanted[WORD_MAX];

        snprintf(wanted, sizeof(wanted), "a size from %gM to %gG, such as 512M",
                 row->least / (double)MIB, row->most / (double)MIB / 1024);
        usage_fail(row->name, text, wanted);
    }
    return bytes / VMSM_PAGE_SIZE * VMSM_PAGE_SIZE;
}

/* Call `each` with every word of a list; at least one, and no more than fit. */
static void list_walk(struct options *o, const struct option_row *row, const char *value,
                      void (*each)(struct options *, const struct option_row *, const char *))
{
    char copy[TEXT_MAX], *rest = NULL;
    unsigned words = 0;

    if (strlen(value) >= sizeof(copy))
        usage_fail(row->name, value, "shorter");
    strcpy(copy, value);
    for (char *word = strtok_r(copy, ",", &rest); word != NULL; word = strtok_r(NULL, ",", &rest)) {
        if (++words > LIST_MAX)
            usage_fail(row->name, value, "a list of 32 at most");
        each(o, row, word);
    }
    if (words == 0)
        usage_fail(row->name, value, "a list of one or more, with commas");
}

static void count_add(struct options *o, const struct option_row *row, const char *word)
{
    struct unsigned_list *list = (struct unsigned_list *)(void *)((char *)o + row->offset);
    unsigned value = (unsigned)number_parse(row, word);

    for (size_t i = 0; i < list->count; i++)
        if (list->values[i] == value)
            return;
    list->values[list->count++] = value;
}

static void workload_add(struct options *o, const struct option_row *row, const char *word)
{
    const struct workload *w = workload_find(word);

    if (w == NULL) {
        const char *names[LIST_MAX + 1] = {0};

        for (size_t i = 0; i < workload_count; i++)
            names[i] = workload_table[i].name;
        word_fail(row->name, word, names);
    }
    for (size_t i = 0; i < o->workload_count; i++)
        if (o->workloads[i] == w)
            return;
    o->workloads[o->workload_count++] = w;
}

static void workloads_take(struct options *o, const struct option_row *row, const char *value)
{
    o->workload_count = 0;
    if (strcmp(value, "all") != 0) {
        list_walk(o, row, value, workload_add);
        return;
    }
    for (size_t i = 0; i < workload_count; i++)
        workload_add(o, row, workload_table[i].name);
}

/* The same for all kinds, unless the option for those at the side comes after it. */
static void threads_take(struct options *o, const struct option_row *row, const char *value)
{
    o->threads.count = 0;
    list_walk(o, row, value, count_add);
    o->side_threads = o->threads;
}

static void shares_take(struct options *o, const struct option_row *row, const char *value)
{
    o->shares.count = 0;
    list_walk(o, row, value, count_add);
    o->side_shares = o->shares;
}

static void kind_add(struct options *o, const struct option_row *row, const char *word)
{
    for (unsigned k = 0; k < MEMORY_KINDS; k++)
        if (strcmp(word, memory_kind_names[k]) == 0) {
            o->kinds[k] = true;
            return;
        }
    {
        const char *names[MEMORY_KINDS + 1] = {0};

        memcpy(names, memory_kind_names, MEMORY_KINDS * sizeof(names[0]));
        word_fail(row->name, word, names);
    }
}

static void kinds_take(struct options *o, const struct option_row *row, const char *value)
{
    memset(o->kinds, 0, sizeof(o->kinds));
    list_walk(o, row, value, kind_add);
}

static void plan_take(struct options *o, const struct option_row *row, const char *value)
{
    static const char *const names[] = {"star", "cross", NULL};

    if (strcmp(value, names[0]) != 0 && strcmp(value, names[1]) != 0)
        word_fail(row->name, value, names);
    o->cross = strcmp(value, names[1]) == 0;
}

/* A setting of the manager; it is tried now, so that a wrong one does not fail in a child. */
static void setting_add(struct options *o, const struct option_row *row, const char *value)
{
    size_t used = strlen(o->settings);
    const char *equals = strchr(value, '=');
    struct tunables tunables;

    tunables_init(&tunables);
    if (equals == NULL || strchr(value, ',') != NULL ||
        used + strlen(value) + 2 > sizeof(o->settings))
        usage_fail(row->name, value, "name=value, without a comma");
    if (tunables_parse(&tunables, value) < 0) {
        fprintf(stderr, "bench: --set %s: %s\n", value, vmsm_last_error());
        exit(STATUS_USAGE);
    }
    if (tunables.mapper == MAPPER_SOFT || tunables.trap == TRAP_NONE)
        usage_fail(row->name, value, "something that works through pointers");
    snprintf(o->settings + used, sizeof(o->settings) - used, ",%.*s:%s", (int)(equals - value),
             value, equals + 1);
}

static void help_show(struct options *o, const struct option_row *row, const char *value);

#define FIELD(name) offsetof(struct options, name)

static const struct option_row rows[] = {
    {"full", NULL, "the full form: an hour; without it the short one", FLAG, FIELD(full), 0, 0,
     NULL},
    {"cells", "LIST", "workloads, or all (see below); the fill is always done", CALL, 0, 0, 0,
     workloads_take},
    {"threads", "LIST", "numbers of threads", CALL, FIELD(threads), 1, 256, threads_take},
    {"memory-share", "LIST", "memory in percent of the region; from 110 on all of it fits", CALL,
     FIELD(shares), 1, 400, shares_take},
    {"side-threads", "LIST", "of these, the ones for zram and mapped", COUNTS, FIELD(side_threads),
     1, 256, NULL},
    {"side-share", "LIST", "and the shares for sigbus, zram and mapped", COUNTS, FIELD(side_shares),
     1, 400, NULL},
    {"plan", "star|cross", "star: all workloads with 2 threads, some with other numbers", CALL, 0,
     0, 0, plan_take},
    {"kinds", "LIST", "of managed, sigbus, swap, zram, mapped", CALL, 0, 0, 0, kinds_take},
    {"only", "KIND", "the same", CALL, 0, 0, 0, kinds_take},
    {"rounds", "N", "rounds, each with new processes", COUNT, FIELD(rounds), 1, ROUNDS_MAX, NULL},
    {"seconds", "S", "length of a cell, but for fills", NUMBER, FIELD(seconds), 0.01, 600, NULL},
    {"warm-up", "S", "most time to warm up before a cell; 0: it is not", NUMBER, FIELD(warm_up), 0,
     600, NULL},
    {"settle", "S", "pause before a cell, after a sync", NUMBER, FIELD(settle), 0, 600, NULL},
    {"disk-seconds", "S", "length of each measurement of the disk by fio; 0: none", NUMBER,
     FIELD(disk_seconds), 0, 60, NULL},
    {"region", "SIZE", "memory that is used", SIZE, FIELD(region), 4 * (double)MIB,
     1024 * 1024 * (double)MIB, NULL},
    {"set", "NAME=VALUE", "an option of the manager; may be repeated", CALL, 0, 0, 0, setting_add},
    {"dir", "DIR", "where pagefile, swap file and mapped file are made", STRING, FIELD(dir), 0, 0,
     NULL},
    {"seed", "N", "repeat the places", COUNT, FIELD(seed), 0, UINT32_MAX, NULL},
    {"json", "FILE", "write all of it, each round with all counters", STRING, FIELD(json), 0, 0,
     NULL},
    {"markdown", "FILE", "write a table with a row for each cell", STRING, FIELD(markdown), 0, 0,
     NULL},
    {"plots", "DIR", "draw SVG plots there", STRING, FIELD(plots), 0, 0, NULL},
    {"targets", NULL, "say which of the aims are reached", FLAG, FIELD(targets), 0, 0, NULL},
    {"corrupt-page", "N", "test: change a word of page N behind the check's back", COUNT,
     FIELD(corrupt_page), 0, UINT32_MAX, NULL},
    {"help", NULL, "this text", CALL, 0, 0, 0, help_show},
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static void help_show(struct options *o, const struct option_row *row, const char *value)
{
    (void)o;
    (void)row;
    (void)value;
    printf("usage: bench [OPTION...]\n"
           "Measure managed memory beside the kernel's swap, zram and a mapped file, with the same "
           "limit.\n");
    for (size_t i = 0; i < ROWS; i++)
        printf("  --%-12s %-10s %s\n", rows[i].name,
               rows[i].argument != NULL ? rows[i].argument : "", rows[i].help);
    printf("Cells: touches for each page of memory to warm up, and what is done\n");
    for (size_t i = 0; i < workload_count; i++)
        printf("  %-12s %4g  %s\n", workload_table[i].name, workload_table[i].warm,
               workload_table[i].help);
    printf("Status: 0; 1 data was wrong or the books do not balance; 2 wrong usage; 3 anything\n"
           "else; 128 + N after signal N, with what was measured until then.\n");
    exit(STATUS_OK);
}

static void option_apply(struct options *o, const struct option_row *row, const char *value)
{
    void *field = (char *)o + row->offset;

    switch (row->type) {
    case SIZE:
        *(uint64_t *)field = size_parse(row, value);
        break;
    case COUNT:
        *(uint64_t *)field = (uint64_t)number_parse(row, value);
        break;
    case NUMBER:
        *(double *)field = number_parse(row, value);
        break;
    case STRING:
        *(const char **)field = value;
        break;
    case FLAG:
        *(bool *)field = true;
        break;
    case COUNTS:
        ((struct unsigned_list *)field)->count = 0;
        list_walk(o, row, value, count_add);
        break;
    case CALL:
        row->call(o, row, value);
        break;
    }
}

static const struct option_row *row_find(const char *name, size_t length)
{
    const char *names[ROWS + 1] = {0};
    char word[WORD_MAX];
    const char *near;

    for (size_t i = 0; i < ROWS; i++) {
        if (strlen(rows[i].name) == length && strncmp(rows[i].name, name, length) == 0)
            return &rows[i];
        names[i] = rows[i].name;
    }
    snprintf(word, sizeof(word), "%.*s", (int)length, name);
    near = nearest_word(word, names);
    if (tunable_find(word) != NULL)
        fprintf(stderr, "bench: --%s: a setting of the manager is given as --set %s=VALUE\n", word,
                word);
    else if (near != NULL)
        fprintf(stderr, "bench: --%s: not an option; did you mean --%s?\n", word, near);
    else
        fprintf(stderr, "bench: --%s: not an option; --help lists them\n", word);
    exit(STATUS_USAGE);
}

static void arguments_parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *equals = strchr(argv[i], '='), *value = NULL;
        const struct option_row *row;

        if (strncmp(argv[i], "--", 2) != 0) {
            fprintf(stderr, "bench: %s: not an option; --help lists them\n", argv[i]);
            exit(STATUS_USAGE);
        }
        row = row_find(argv[i] + 2,
                       equals != NULL ? (size_t)(equals - argv[i]) - 2 : strlen(argv[i] + 2));
        if (row->argument != NULL) {
            value = equals != NULL ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
            if (value == NULL) {
                fprintf(stderr, "bench: --%s needs a value: %s (--help tells more)\n", row->name,
                        row->argument);
                exit(STATUS_USAGE);
            }
        } else if (equals != NULL) {
            usage_fail(row->name, equals + 1, "without a value");
        }
        option_apply(o, row, value);
    }
}

/* What an option is by default, in the short form and in the full one. */
static const char *const defaults[][3] = {
    {"region", "512M", "512M"},
    {"cells", "fill,scan,rand,run32w50,zipf0.9,prefault,hits", "all"},
    {"threads", "2", "1,2,4,8,16"},
    {"side-threads", "2", "2"},
    {"memory-share", "25,150", "10,25,50,75,100,150"},
    {"side-share", "25", "25,50"},
    {"kinds", "managed,sigbus,swap,zram,mapped", "managed,sigbus,swap,zram,mapped"},
    {"rounds", "3", "5"},
    {"seconds", "0.5", "0.5"},
    {"warm-up", "3", "4"},
    {"settle", "0.1", "0.1"},
    {"disk-seconds", "0.5", "1"},
    {"seed", "1", "1"},
};

static unsigned list_prefer(const struct unsigned_list *list, unsigned wanted)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->values[i] == wanted)
            return wanted;
    return list->values[0];
}

/* A run of hours shall not end because of it. */
static void dir_check(const char *dir)
{
    struct stat st;

    if (strchr(dir, ',') != NULL || strchr(dir, ':') != NULL || strlen(dir) > DIR_MAX)
        usage_fail("dir", dir, "a path without comma or colon, of 200 characters at most");
    if (stat(dir, &st) < 0 || !S_ISDIR(st.st_mode))
        usage_fail("dir", dir, "a directory that is there");
    if (access(dir, W_OK | X_OK) < 0)
        usage_fail("dir", dir, "a directory that you may write to");
}

void options_parse(struct options *o, int argc, char **argv)
{
    const char *dir = getenv("TMPDIR");

    memset(o, 0, sizeof(*o));
    o->corrupt_page = CORRUPT_NONE;
    o->dir = dir != NULL && dir[0] != '\0' ? dir : "/var/tmp";
    for (int i = 1; i < argc; i++)
        o->full = o->full || strcmp(argv[i], "--full") == 0;
    for (size_t i = 0; i < sizeof(defaults) / sizeof(defaults[0]); i++)
        option_apply(o, row_find(defaults[i][0], strlen(defaults[i][0])),
                     defaults[i][o->full ? 2 : 1]);
    arguments_parse(o, argc, argv);
    dir_check(o->dir);
    if (o->corrupt_page != CORRUPT_NONE && o->corrupt_page >= o->region / VMSM_PAGE_SIZE)
        usage_fail("corrupt-page", "N", "a page of the region");
    o->base_threads = list_prefer(&o->threads, 2);
    o->base_share = list_prefer(&o->shares, 25);
}
