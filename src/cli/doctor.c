/*
 * The command doctor: what this kernel and this user may do, what is missing,
 * and what mends it; then which mapper and trap can be used here.
 */
#include "cli/doctor.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/console.h"
#include "cli/output.h"
#include "cli/probe.h"
#include "core/error.h"

/* A combination of mapper and trap. */
struct way {
    const char *mapper, *trap; /* trap NULL: none is needed */
    const char *obstacle;      /* NULL: it works */
};

#define WAYS 5
#define WIDTH_WIDE 98 /* columns with all of the table beside each other */
#define DETAIL_WIDTH 37

static const char *const status_names[] = {
    [FINDING_OK] = "ok", [FINDING_LIMITED] = "limited", [FINDING_MISSING] = "missing"};
static const char *const status_colours[] = {
    [FINDING_OK] = "\033[32m", [FINDING_LIMITED] = "\033[33m", [FINDING_MISSING] = "\033[31m"};

static int apply_json(void *context, const char *value)
{
    struct doctor_settings *s = context;

    s->json = value;
    return 0;
}

static const struct option_info options[] = {
    {"json", "FILE", NULL, "write the findings as JSON too; -: to standard output", apply_json},
    {0},
};

static bool has_feature(const struct probe *p, unsigned bit)
{
    return (p->features >> bit & 1) != 0;
}

static bool has_ioctl(const struct probe *p, unsigned bit)
{
    return (p->ioctls >> bit & 1) != 0;
}

static const char *mapper_obstacle(const struct probe *p, bool move)
{
    if (p->shortage != NULL)
        return p->shortage;
    if (p->uffd == UFFD_NONE)
        return "no userfaultfd";
    if (!has_ioctl(p, PROBE_IOCTL_COPY))
        return "no UFFDIO_COPY";
    if (move)
        return has_feature(p, PROBE_FEATURE_MOVE) && has_ioctl(p, PROBE_IOCTL_MOVE)
                   ? NULL
                   : "no UFFDIO_MOVE (Linux 6.8)";
    if (!has_feature(p, PROBE_FEATURE_WP) || !has_ioctl(p, PROBE_IOCTL_WRITEPROTECT))
        return "no write protection (Linux 5.7)";
    return p->vm_readv ? NULL : "no process_vm_readv";
}

static const char *trap_obstacle(const struct probe *p, bool sigbus)
{
    if (sigbus)
        return has_feature(p, PROBE_FEATURE_SIGBUS) ? NULL : "no SIGBUS delivery (Linux 4.14)";
    return p->uffd == UFFD_USER_ONLY ? "userfaultfd serves user code only" : NULL;
}

static void ways_judge(const struct probe *p, struct way ways[WAYS])
{
    static const char *const mappers[] = {"copy", "move"}, *const traps[] = {"thread", "sigbus"};
    size_t count = 0;

    for (int mapper = 0; mapper < 2; mapper++) {
        for (int trap = 0; trap < 2; trap++) {
            const char *obstacle = mapper_obstacle(p, mapper == 1);

            ways[count++] =
                (struct way){.mapper = mappers[mapper],
                             .trap = traps[trap],
                             .obstacle = obstacle != NULL ? obstacle : trap_obstacle(p, trap == 1)};
        }
    }
    ways[count] = (struct way){.mapper = "soft", .obstacle = p->shortage};
}

static const char *way_command(const struct way *way, char *buffer, size_t size)
{
    if (way->trap == NULL)
        snprintf(buffer, size, "vmsm sim --mapper %s --seconds 5", way->mapper);
    else
        snprintf(buffer, size, "vmsm sim --mapper %s --trap %s --seconds 5", way->mapper,
                 way->trap);
    return buffer;
}

/* Text in lines of `width` columns, all but the first indented; the first begins there too. */
static void print_folded(FILE *out, const char *text, int indent, int width)
{
    int room = width - indent > 20 ? width - indent : 20;

    while ((int)strlen(text) > room) {
        int at = room;

        while (at > 0 && text[at] != ' ')
            at--;
        if (at == 0)
            at = (int)strcspn(text, " ");
        fprintf(out, "%.*s\n%*s", at, text, indent, "");
        text += at + (text[at] == ' ');
    }
    fprintf(out, "%s\n", text);
}

/* What a finding is needed for comes beside it, or on a line of its own where there is no room. */
static void print_finding(const struct finding *f, FILE *out, bool colour, int width)
{
    bool wide = width >= WIDTH_WIDE && strlen(f->detail) <= DETAIL_WIDTH;

    fprintf(out, "%s%-8s%s %-18s ", colour ? status_colours[f->status] : "",
            status_names[f->status], colour ? "\033[0m" : "", f->name);
    if (wide)
        fprintf(out, "%-*s %s\n", DETAIL_WIDTH, f->detail, f->needed_for);
    else
        print_folded(out, f->detail, 28, width);
    if (!wide && (width >= WIDTH_WIDE || f->status != FINDING_OK)) {
        fprintf(out, "%28sneeded for: ", "");
        print_folded(out, f->needed_for, 40, width);
    }
    if (f->remedy[0] != '\0') {
        fprintf(out, "%9s-> ", "");
        print_folded(out, f->remedy, 12, width);
    }
}

static void print_findings(const struct probe *p, FILE *out)
{
    int width = terminal_width(out);
    bool colour = terminal_colour(out);

    if (width == 0)
        width = WIDTH_WIDE;
    fprintf(out, "%-8s %-18s %s", "", "what", "found");
    if (width >= WIDTH_WIDE)
        fprintf(out, "%*s needed for", DETAIL_WIDTH - 5, "");
    fputc('\n', out);
    for (size_t i = 0; i < p->count; i++)
        print_finding(&p->findings[i], out, colour, width);
}

static void print_ways(const struct way *ways, FILE *out)
{
    fprintf(out, "\nMapper and trap:\n");
    for (size_t i = 0; i < WAYS; i++) {
        const struct way *way = &ways[i];
        char name[32], command[80];

        snprintf(name, sizeof(name), "%s%s%s", way->mapper, way->trap != NULL ? " + " : "",
                 way->trap != NULL ? way->trap : "");
        if (way->obstacle != NULL)
            fprintf(out, "  %-14s no: %s\n", name, way->obstacle);
        else
            fprintf(out, "  %-14s yes: %s%s\n", name, way_command(way, command, sizeof(command)),
                    i == 0 ? "   (the default)" : "");
    }
}

static json_t *json_findings(const struct probe *p)
{
    json_t *array = json_array();

    for (size_t i = 0; i < p->count; i++) {
        const struct finding *f = &p->findings[i];
        json_t *object =
            json_pack("{s:s, s:s, s:o, s:s, s:o}", "name", f->name + strspn(f->name, " "), "status",
                      status_names[f->status], "found", output_string(f->detail), "needed_for",
                      f->needed_for, "remedy", output_string(f->remedy));

        if (json_array_append_new(array, object) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *json_ways(const struct way *ways)
{
    json_t *array = json_array();

    for (size_t i = 0; i < WAYS; i++) {
        char command[80];
        json_t *object =
            json_pack("{s:s, s:s?, s:b, s:s?, s:s}", "mapper", ways[i].mapper, "trap", ways[i].trap,
                      "works", ways[i].obstacle == NULL, "obstacle", ways[i].obstacle, "command",
                      way_command(&ways[i], command, sizeof(command)));

        if (json_array_append_new(array, object) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

json_t *doctor_json(const struct probe *p)
{
    struct way ways[WAYS];

    ways_judge(p, ways);
    return json_pack("{s:b, s:o, s:o}", "default_works", ways[0].obstacle == NULL, "findings",
                     json_findings(p), "ways", json_ways(ways));
}

static int json_write(const char *path, const struct probe *p)
{
    json_t *json = doctor_json(p);
    int error = json != NULL ? output_write(path, json)
                             : error_set(-ENOMEM, "no memory for the JSON report");

    json_decref(json);
    return error;
}

static int doctor_run(const struct command *command, int argc, char **argv)
{
    struct doctor_settings settings = {0};
    struct way ways[WAYS];
    struct probe probe = {0};
    int error = 0;
    FILE *out;

    switch (options_parse(command, &settings, NULL, argc, argv)) {
    case OPTIONS_DONE:
        return STATUS_RIGHT;
    case OPTIONS_WRONG:
        return STATUS_USAGE;
    case OPTIONS_RUN:
        break;
    }
    if (settings.json != NULL)
        error = output_check(settings.json);
    if (error == 0) {
        probe_kernel(&probe);
        probe_uffd(&probe);
        probe_calls(&probe);
        probe_storage(&probe);
        probe_limits(&probe);
        probe_memory(&probe);
        probe_run(&probe);
        ways_judge(&probe, ways);
        out = output_is_stdout(settings.json) ? stderr : stdout;
        print_findings(&probe, out);
        print_ways(ways, out);
        if (settings.json != NULL)
            error = json_write(settings.json, &probe);
    }
    if (error != 0) {
        fprintf(stderr, "vmsm doctor: %s\n", error_last());
        return STATUS_CANNOT;
    }
    return ways[0].obstacle == NULL ? STATUS_RIGHT : STATUS_CANNOT;
}

static const char *const examples[] = {
    "vmsm doctor",
    "what works here, what does not, and how to mend it",
    "vmsm doctor --json -",
    "the same for a program",
    NULL,
};

const struct command doctor_command = {
    .name = "doctor",
    .summary = "say what this kernel and user may do, and how to mend what is missing",
    .description =
        "Tries every feature that the mappers, traps and the pagefile need, and says for each that "
        "is missing or limited what it is needed for and which command mends it. Changes nothing. "
        "Exit status 0 if the default mapper and trap work here, 3 if not.",
    .options = options,
    .examples = examples,
    .run = doctor_run,
};
