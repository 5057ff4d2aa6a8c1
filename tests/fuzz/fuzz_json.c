/*
 * The JSON reports of sim and doctor: whatever the texts and numbers in them, the report is made,
 * what is printed parses, and it holds what was put in.
 *
 * Input: a byte that chooses, numbers, and texts that zero bytes end.
 */
#include "cli/doctor.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/sim_options.h"
#include "fuzz.h"

/* As output_write() prints it, and back. */
static json_t *round_trip(json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_error_t error;
    json_t *again;

    must(text != NULL, "the report cannot be printed");
    again = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    must(again != NULL, "line %d: %s: %s", error.line, error.text, text);
    free(text);
    json_decref(json);
    return again;
}

/* Bytes of the character at text, by the judgement of jansson; 0 if there is none. */
static size_t character_length(const char *text)
{
    for (size_t length = 1; length <= strnlen(text, 4); length++) {
        json_t *json = json_stringn(text, length);

        json_decref(json);
        if (json != NULL)
            return length;
    }
    return 0;
}

/* The same text if it was UTF-8; else the same with a mark for each byte that is part of none. */
static void check_string(const json_t *json, const char *text)
{
    const char *got = json_string_value(json), *at = text;

    must(got != NULL, "\"%s\" is no string", text);
    while (*at != '\0') {
        size_t length = character_length(at), got_length = length != 0 ? length : 3;

        must(strncmp(got, length != 0 ? at : "\xef\xbf\xbd", got_length) == 0,
             "\"%s\" became \"%s\", seen at \"%s\"", text, json_string_value(json), got);
        got += got_length;
        at += length != 0 ? length : 1;
    }
    must(*got == '\0', "\"%s\" is left over", got);
}

static const json_t *member(const json_t *json, const char *name)
{
    const json_t *value = json_object_get(json, name);

    must(value != NULL, "%s is missing", name);
    return value;
}

static void check_number(const json_t *json, const char *name, uint64_t number)
{
    const json_t *value = member(json, name);

    if (number <= INT64_MAX)
        must(json_is_integer(value) && json_integer_value(value) == (json_int_t)number,
             "%s is %lld, should be %llu", name, (long long)json_integer_value(value),
             (unsigned long long)number);
    else
        must(json_is_real(value) && json_real_value(value) >= 9.2e18, "%s is %g", name,
             json_real_value(value));
}

static void check_text(struct input *in)
{
    char *text = input_text(in, '\0');
    json_t *json = json_array();

    must(json_array_append_new(json, output_string(text)) == 0, "no string of \"%s\"", text);
    json = round_trip(json);
    check_string(json_array_get(json, 0), text);
    json_decref(json);
    free(text);
}

static void copy_text(struct input *in, char *to, size_t size)
{
    char *text = input_text(in, '\0');

    snprintf(to, size, "%s", text);
    free(text);
}

static void check_tunables(const json_t *json, const struct tunables *t)
{
    must(json_object_size(json) == tunable_count, "%zu settings", json_object_size(json));
    check_number(json, "memory", t->memory);
    check_number(json, "store_corrupt", t->store_corrupt);
    check_number(json, "hash_seed", t->hash_seed);
    check_string(member(json, "pagefile"), t->pagefile);
    must(json_is_boolean(member(json, "direct")), "direct is no truth value");
    must(strcmp(json_string_value(member(json, "mapper")), "copy") == 0, "another mapper");
}

static void check_sim(struct input *in)
{
    static struct sim_result r;
    struct sim_settings s;
    char text[1024];
    json_t *json;

    memset(&r, 0, sizeof(r));
    sim_settings_init(&s);
    r.settings = &s;
    s.time_ns = input_number(in, 8) >> 1;
    r.accesses = input_number(in, 4);
    r.wrong_accesses = input_byte(in);
    r.failed = input_byte(in);
    r.balanced = input_byte(in) & 1;
    r.run_ns = input_number(in, 6);
    r.writes = input_number(in, 8);
    r.last.slots_used = r.run.faults_hard = input_number(in, 8);
    r.memory.peak = input_number(in, 7);
    for (unsigned n = input_byte(in) % 8; n > 0; n--)
        histogram_add(&r.detail.faults[input_byte(in) % FAULT_KIND_COUNT], input_number(in, 8));
    tunables_init(&r.tunables);
    r.tunables.store_corrupt = input_number(in, 8);
    copy_text(in, r.tunables.pagefile, sizeof(r.tunables.pagefile));
    copy_text(in, r.store, sizeof(r.store));
    copy_text(in, r.books, sizeof(r.books));

    json = report_json(&r);
    must(json != NULL, "there is no report");
    json = round_trip(json);
    check_string(member(member(json, "settings"), "store"), r.store);
    check_string(member(member(json, "outcome"), "books"), r.books);
    check_string(member(member(json, "outcome"), "text"), sim_outcome(&r, text, sizeof(text)));
    check_tunables(member(member(json, "settings"), "tunables"), &r.tunables);
    check_number(member(json, "counters"), "faults_hard", r.run.faults_hard);
    check_number(member(json, "counters_after_sweep"), "slots_used", r.last.slots_used);
    check_number(json, "writes", r.writes);
    must(json_object_size(member(json, "counters")) == COUNTER_TOTAL, "counters are missing");
    must(json_object_size(member(json, "faults")) == FAULT_KIND_COUNT, "faults are missing");
    json_decref(json);
}

static void check_doctor(struct input *in)
{
    struct probe p = {.uffd = input_byte(in) % 4,
                      .features = input_number(in, 3),
                      .ioctls = input_number(in, 2),
                      .vm_readv = input_byte(in) & 1};
    const json_t *findings;
    json_t *json;

    for (unsigned i = 0; i < 50 && input_left(in); i++) {
        char *text = input_text(in, '\0');
        struct finding *f =
            finding_add(&p, "  name", (enum finding_status)(i % 3), "something", "%s", text);

        must(strncmp(f->detail, text, sizeof(f->detail) - 1) == 0, "\"%s\"", f->detail);
        copy_text(in, f->remedy, sizeof(f->remedy));
        free(text);
    }
    json = doctor_json(&p);
    must(json != NULL, "there is no report");
    json = round_trip(json);
    findings = member(json, "findings");
    must(json_array_size(findings) == p.count && p.count <= FINDINGS_MAX, "%zu findings of %zu",
         json_array_size(findings), p.count);
    for (size_t i = 0; i < p.count; i++) {
        check_string(member(json_array_get(findings, i), "found"), p.findings[i].detail);
        check_string(member(json_array_get(findings, i), "remedy"), p.findings[i].remedy);
    }
    must(json_array_size(member(json, "ways")) == 5, "ways are missing");
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(struct input *) = {check_text, check_sim, check_doctor};
    struct input in = {data, data + size};

    checks[input_byte(&in) % 3](&in);
    return 0;
}
