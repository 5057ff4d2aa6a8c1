/*
 * Command lines: what is accepted is in range and, as --show-settings prints it, is accepted
 * again; what is refused is refused in one line on standard error, and help goes to standard
 * output. No command is run.
 *
 * Input: a byte that chooses, then VMSM_CONF (sim only) and the arguments, which newlines end.
 */
#include "cli/doctor.h"
#include "cli/sim_options.h"
#include "fuzz.h"

#define ARGUMENTS_MAX 24
#define YEAR_NS (UINT64_C(365) * 24 * 3600 * TUNABLE_SECOND)

/* The main() of vmsm. */
int vmsm_main(int argc, char **argv);

struct arguments {
    int count;
    char *words[ARGUMENTS_MAX + 1];
};

static void arguments_read(struct arguments *a, struct input *in)
{
    a->count = 0;
    while (a->count < ARGUMENTS_MAX && input_left(in))
        a->words[a->count++] = input_text(in, '\n');
    a->words[a->count] = NULL;
}

static void arguments_free(struct arguments *a)
{
    for (int i = 0; i < a->count; i++)
        free(a->words[i]);
}

/* One line, of printable text if the arguments were. */
static void check_message(const struct capture *c, const char *prefix)
{
    must(c->out_size == 0, "a wrong command line prints \"%s\"", c->out_text);
    must(strncmp(c->err_text, prefix, strlen(prefix)) == 0, "\"%s\"", c->err_text);
    must(c->err_size > strlen(prefix) + 1 &&
             strchr(c->err_text, '\n') == c->err_text + c->err_size - 1,
         "not one line: \"%s\"", c->err_text);
}

static void check_outcome(enum options_outcome outcome, const struct capture *c, const char *prefix)
{
    if (outcome == OPTIONS_WRONG) {
        check_message(c, prefix);
        return;
    }
    must(c->err_size == 0, "accepted, but \"%s\"", c->err_text);
    must((strstr(c->out_text, "\nUsage: vmsm ") != NULL) == (outcome == OPTIONS_DONE),
         "outcome %d prints \"%s\"", outcome, c->out_text);
}

static void check_ranges(const struct sim_settings *s)
{
    must(s->virtual_bytes >= VMSM_PAGE_SIZE && s->virtual_bytes <= 64 * TUNABLE_TIB &&
             s->virtual_bytes % VMSM_PAGE_SIZE == 0,
         "virtual is %llu", (unsigned long long)s->virtual_bytes);
    must(s->threads >= 1 && s->threads <= 256, "threads is %u", s->threads);
    must(s->write_percent <= 100, "write is %u", s->write_percent);
    must(s->run_max >= 1 && s->run_max <= 1u << 30, "run-max is %llu",
         (unsigned long long)s->run_max);
    must(s->time_ns <= YEAR_NS && s->accesses <= INT64_MAX, "seconds is %llu",
         (unsigned long long)s->time_ns);
    for (unsigned i = 0; i < tunable_count; i++) {
        const struct tunable_info *info = &tunable_table[i];
        uint64_t number;

        if (info->type != TUNABLE_SIZE && info->type != TUNABLE_TIME && info->type != TUNABLE_COUNT)
            continue;
        memcpy(&number, (const char *)&s->tunables + info->offset, sizeof(number));
        must((number >= info->minimum && number <= info->maximum) ||
                 (number == SIM_MEMORY_THIRD && info->offset == 0),
             "%s is %llu", info->name, (unsigned long long)number);
    }
}

/* The lines "name  value  help" of --show-settings, as options, make the same settings. */
static void check_shown(const struct sim_settings *s)
{
    struct sim_settings again;
    char *text = NULL, *line, *rest;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    must(out != NULL, "no memory");
    sim_settings_show(s, out);
    fclose(out);
    sim_settings_init(&again);
    rest = text;
    while ((line = strsep(&rest, "\n")) != NULL) {
        char name[32], value[64], option[128], *words[2] = {option, NULL};

        if (sscanf(line, "%31s %63s", name, value) != 2 || strcmp(name, "pagefile") == 0 ||
            strcmp(value, "of") == 0 || strcmp(name, "seconds") == 0 ||
            (strcmp(name, "accesses") == 0 && strcmp(value, "0") == 0))
            continue;
        if (s->tunables.pagefile[0] != '\0' && strchr(s->tunables.pagefile, '\n') != NULL)
            break; /* it looks like more lines */
        snprintf(option, sizeof(option), "--%s=%s", name, value);
        must(options_parse(&sim_command, &again, &again.tunables, 1, words) == OPTIONS_RUN,
             "%s is shown, but refused: %s", option, error_last());
    }
    must(again.virtual_bytes == s->virtual_bytes || rest != NULL, "virtual differs");
    if (strchr(s->tunables.pagefile, '\n') == NULL) {
        memcpy(again.tunables.pagefile, s->tunables.pagefile, sizeof(again.tunables.pagefile));
        must(again.threads == s->threads && again.run_max == s->run_max &&
                 again.write_percent == s->write_percent && again.accesses == s->accesses,
             "the settings of sim differ");
        again.tunables.hash_seed = s->tunables.hash_seed;
        must(memcmp(&again.tunables, &s->tunables, sizeof(again.tunables)) == 0,
             "the settings of the manager differ:\n%s", text);
    }
    free(text);
}

static void check_sim(struct input *in)
{
    char *conf = input_text(in, '\n');
    enum options_outcome outcome;
    struct sim_settings s;
    struct arguments a;
    struct capture c;

    must(setenv("VMSM_CONF", conf, 1) == 0, "no memory");
    arguments_read(&a, in);
    sim_settings_init(&s);
    capture_begin(&c);
    outcome = options_parse(&sim_command, &s, &s.tunables, a.count, a.words);
    capture_end(&c);
    check_outcome(outcome, &c, "vmsm sim: ");
    unsetenv("VMSM_CONF");
    if (outcome == OPTIONS_RUN) {
        int result;

        check_ranges(&s);
        failure_forget();
        result = sim_settings_finish(&s);
        if (result != 0)
            failure_check(result);
        else
            must(s.tunables.memory >= TUNABLE_MEMORY_MIN && (s.time_ns > 0 || s.accesses > 0),
                 "memory or time is not filled in");
        check_ranges(&s);
        if (result == 0)
            check_shown(&s);
    }
    capture_free(&c);
    arguments_free(&a);
    free(conf);
}

static void check_doctor(struct input *in)
{
    struct doctor_settings s = {0};
    enum options_outcome outcome;
    struct arguments a;
    struct capture c;

    arguments_read(&a, in);
    capture_begin(&c);
    outcome = options_parse(&doctor_command, &s, NULL, a.count, a.words);
    capture_end(&c);
    check_outcome(outcome, &c, "vmsm doctor: ");
    if (outcome == OPTIONS_RUN)
        must((s.json != NULL) == (a.count > 0), "an option was passed over");
    capture_free(&c);
    arguments_free(&a);
}

static bool is_command(const char *word)
{
    for (size_t i = 0; command_table[i] != NULL; i++)
        if (strcmp(command_table[i]->name, word) == 0)
            return true;
    return false;
}

/* The words before a command: the options without one, and wrong names. */
static void check_main(struct input *in)
{
    struct arguments a;
    struct capture c;
    char name[] = "vmsm", *words[ARGUMENTS_MAX + 2] = {name};
    int status;

    arguments_read(&a, in);
    memcpy(words + 1, a.words, ((size_t)a.count + 1) * sizeof(words[0]));
    if (a.count == 0 || !is_command(a.words[0])) {
        capture_begin(&c);
        status = vmsm_main(a.count + 1, words);
        capture_end(&c);
        if (a.count == 0)
            must(status == STATUS_USAGE && strstr(c.err_text, "Usage:") != NULL, "%d", status);
        else if (status == STATUS_USAGE)
            check_message(&c, "vmsm: ");
        else
            must(status == STATUS_RIGHT && c.err_size == 0 && c.out_size > 0, "%d: \"%s\"", status,
                 c.err_text);
        capture_free(&c);
    }
    arguments_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(struct input *) = {check_sim, check_sim, check_doctor,
                                                     check_main};
    struct input in = {data, data + size};

    checks[input_byte(&in) % 4](&in);
    return 0;
}
