/*
 * The command line of the benchmark swap: what can be chosen, how it is read.
 */
#ifndef BENCH_SWAP_OPTIONS_H
#define BENCH_SWAP_OPTIONS_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pages.h"
#include "vmsm.h"

#define MIB (1024.0 * 1024.0)
#define CELLS_MAX 8
#define ROUNDS_MAX 64
#define CONF_MAX 1024
#define DIR_MAX 200

enum kind { MANAGED, SWAP, KINDS };
static const char *const kind_names[KINDS] = {"managed", "swap"};

struct cell {
    char name[16];
    unsigned run_max; /* longest run, pages; 0: fill */
};

struct options {
    uint64_t virtual_size, memory, allowance;
    double memory_percent; /* 0: memory was given as a size */
    unsigned threads, rounds, writes, seed, cell_count;
    double seconds, warm_up;
    struct cell cells[CELLS_MAX];
    bool wanted[KINDS];
    bool thp;
    char settings[CONF_MAX]; /* from --set: ",name:value,…" */
    const char *dir, *json, *child, *pagefile;
};

static const char help[] =
    "usage: swap [OPTION...]\n"
    "Measure managed memory against the kernel's swap under the same limit.\n"
    "  --virtual SIZE     size of the region (1G)\n"
    "  --memory SIZE|N%   budget of physical memory (25%)\n"
    "  --threads N        threads that access (2)\n"
    "  --writes N         percent of accesses that write (50)\n"
    "  --cells LIST       of fill, run1, run2, ... (fill,run1,run32); fill is always done first\n"
    "  --rounds N         rounds, each with new processes, up to 64 (5)\n"
    "  --seconds S        length of a cell, but for fill (5)\n"
    "  --warm-up S        accesses before a cell that do not count (1)\n"
    "  --only KIND        managed or swap\n"
    "  --set NAME=VALUE   an option of the manager; may be repeated\n"
    "  --dir DIR          where pagefile and swap file are made, 2 x virtual each (.)\n"
    "  --allowance SIZE   the swap child's program, stacks, ... beside the region (4M)\n"
    "  --thp              transparent huge pages for the swap child's region\n"
    "  --seed N           repeat the places (1)\n"
    "  --json FILE        write all of it, each round with the counters, to FILE\n"
    "  --quick            256M, 2 rounds of 1 s; options after it override\n"
    "Status: 0; 1 data was wrong; 2 anything else. Control group and swap file take root;\n"
    "without them the managed part runs alone.\n";

static _Noreturn void usage_fail(const char *option, const char *value, const char *wanted)
{
    fprintf(stderr, "swap: --%s %s: must be %s (--help tells more)\n", option, value, wanted);
    exit(STATUS_FAILED);
}

static uint64_t size_parse(const char *option, const char *text)
{
    static const char units[] = "KMGT";
    const char *wanted = "a size from 1M to 1T, such as 512M";
    char *end;
    double value = strtod(text, &end);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;

    if (unit != NULL) {
        value *= (double)(UINT64_C(1024) << (10 * (unit - units)));
        end++;
    }
    if (end == text || *end != '\0' || !(value >= MIB && value <= MIB * MIB))
        usage_fail(option, text, wanted);
    return (uint64_t)value / VMSM_PAGE_SIZE * VMSM_PAGE_SIZE;
}

static double number_parse(const char *option, const char *text, double least, double most)
{
    char *end, wanted[64];
    double value = strtod(text, &end);

    snprintf(wanted, sizeof(wanted), "a number from %g to %g", least, most);
    if (end == text || *end != '\0' || !(value >= least && value <= most))
        usage_fail(option, text, wanted);
    return value;
}

/* "fill,run1,run32"; the fill comes first whether asked for or not: all that follows needs it. */
static void cells_parse(struct options *o, char *value)
{
    const char *wanted = "a list of fill and up to 7 runN, N from 1 to 4096";
    char *list = strdup(value); /* the children get the option as it was */
    char *end, *rest = NULL;

    o->cell_count = 1;
    o->cells[0] = (struct cell){.name = "fill"};
    for (char *name = strtok_r(list, ",", &rest); name != NULL; name = strtok_r(NULL, ",", &rest)) {
        struct cell *cell = &o->cells[o->cell_count];
        unsigned long run;

        if (strcmp(name, "fill") == 0)
            continue;
        if (strncmp(name, "run", 3) != 0 || o->cell_count == CELLS_MAX)
            usage_fail("cells", name, wanted);
        run = strtoul(name + 3, &end, 10);
        if (end == name + 3 || *end != '\0' || run < 1 || run > 4096)
            usage_fail("cells", name, wanted);
        cell->run_max = (unsigned)run;
        snprintf(cell->name, sizeof(cell->name), "run%lu", run);
        o->cell_count++;
    }
    free(list);
}

static void memory_parse(struct options *o, char *text)
{
    size_t length = strlen(text);
    char number[32];

    o->memory_percent = 0;
    if (length > 1 && length < sizeof(number) && text[length - 1] == '%') {
        memcpy(number, text, length - 1);
        number[length - 1] = '\0';
        o->memory_percent = number_parse("memory", number, 1, 100);
    } else {
        o->memory = size_parse("memory", text);
    }
}

static void setting_add(struct options *o, char *text)
{
    size_t used = strlen(o->settings);
    const char *equals = strchr(text, '=');

    if (equals == NULL || strchr(text, ',') != NULL ||
        used + strlen(text) + 2 > sizeof(o->settings))
        usage_fail("set", text, "name=value, without a comma");
    if (strcmp(text, "mapper=soft") == 0)
        usage_fail("set", text, "a mapper that works through pointers: copy or move");
    snprintf(o->settings + used, sizeof(o->settings) - used, ",%.*s:%s", (int)(equals - text), text,
             equals + 1);
}

static void only_parse(struct options *o, char *text)
{
    if (strcmp(text, kind_names[MANAGED]) != 0 && strcmp(text, kind_names[SWAP]) != 0)
        usage_fail("only", text, "managed or swap");
    for (unsigned k = 0; k < KINDS; k++)
        o->wanted[k] = strcmp(text, kind_names[k]) == 0;
}

static void quick_set(struct options *o, char *value)
{
    (void)value;
    o->virtual_size = UINT64_C(256) << 20;
    o->rounds = 2;
    o->seconds = 1;
    o->warm_up = 0.5;
}

static void help_show(struct options *o, char *value)
{
    (void)o;
    (void)value;
    fputs(help, stdout);
    exit(STATUS_OK);
}

enum type { SIZE, COUNT, NUMBER, STRING, FLAG, CALL };

/* Where an option's value goes, or what takes it. */
static const struct row {
    const char *name;
    enum type type;
    size_t offset; /* in struct options */
    double least, most;
    void (*call)(struct options *o, char *value);
    bool no_value;
} rows[] = {
#define FIELD(name) offsetof(struct options, name)
    {"virtual", SIZE, FIELD(virtual_size), 0, 0, NULL, false},
    {"memory", CALL, 0, 0, 0, memory_parse, false},
    {"threads", COUNT, FIELD(threads), 1, 256, NULL, false},
    {"writes", COUNT, FIELD(writes), 0, 100, NULL, false},
    {"cells", CALL, 0, 0, 0, cells_parse, false},
    {"rounds", COUNT, FIELD(rounds), 1, ROUNDS_MAX, NULL, false},
    {"seconds", NUMBER, FIELD(seconds), 0.01, 600, NULL, false},
    {"warm-up", NUMBER, FIELD(warm_up), 0, 600, NULL, false},
    {"only", CALL, 0, 0, 0, only_parse, false},
    {"set", CALL, 0, 0, 0, setting_add, false},
    {"dir", STRING, FIELD(dir), 0, 0, NULL, false},
    {"allowance", SIZE, FIELD(allowance), 0, 0, NULL, false},
    {"thp", FLAG, FIELD(thp), 0, 0, NULL, true},
    {"seed", COUNT, FIELD(seed), 0, UINT32_MAX, NULL, false},
    {"json", STRING, FIELD(json), 0, 0, NULL, false},
    {"quick", CALL, 0, 0, 0, quick_set, true},
    {"help", CALL, 0, 0, 0, help_show, true},
    /* For the program itself. */
    {"child", STRING, FIELD(child), 0, 0, NULL, false},
    {"pagefile", STRING, FIELD(pagefile), 0, 0, NULL, false},
#undef FIELD
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static void option_apply(struct options *o, const struct row *row, char *value)
{
    void *field = (char *)o + row->offset;

    if (row->type == SIZE)
        *(uint64_t *)field = size_parse(row->name, value);
    else if (row->type == COUNT)
        *(unsigned *)field = (unsigned)number_parse(row->name, value, row->least, row->most);
    else if (row->type == NUMBER)
        *(double *)field = number_parse(row->name, value, row->least, row->most);
    else if (row->type == STRING)
        *(const char **)field = value;
    else if (row->type == FLAG)
        *(bool *)field = true;
    else
        row->call(o, value);
}

static void options_parse(struct options *o, int argc, char **argv)
{
    struct option names[ROWS + 1] = {0};
    int index, found;

    for (unsigned i = 0; i < ROWS; i++)
        names[i] = (struct option){.name = rows[i].name,
                                   .has_arg = rows[i].no_value ? no_argument : required_argument};
    while ((found = getopt_long(argc, argv, "", names, &index)) != -1) {
        if (found != 0)
            exit(STATUS_FAILED);
        option_apply(o, &rows[index], optarg);
    }
    if (optind < argc) {
        fprintf(stderr, "swap: %s: not an option; --help lists them\n", argv[optind]);
        exit(STATUS_FAILED);
    }
    if (strchr(o->dir, ',') != NULL || strlen(o->dir) > DIR_MAX)
        usage_fail("dir", o->dir, "a path without a comma, of 200 characters at most");
    if (o->memory_percent > 0)
        o->memory = (uint64_t)((double)o->virtual_size * o->memory_percent / 100) / VMSM_PAGE_SIZE *
                    VMSM_PAGE_SIZE;
}

#endif
