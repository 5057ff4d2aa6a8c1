/*
 * The settings string of VMSM_CONF and vmsm_create(): it means what its settings mean one after
 * another, all or nothing; every value is in range; what is printed parses back to the same.
 *
 * Input: the string.
 */
#include <errno.h>

#include "core/tunables.h"
#include "fuzz.h"

static const void *value_of(const struct tunables *t, const struct tunable_info *info)
{
    return (const char *)t + info->offset;
}

static bool is_number(const struct tunable_info *info)
{
    return info->type == TUNABLE_SIZE || info->type == TUNABLE_TIME || info->type == TUNABLE_COUNT;
}

static bool values_equal(const struct tunables *a, const struct tunables *b,
                         const struct tunable_info *info)
{
    const void *x = value_of(a, info), *y = value_of(b, info);

    if (is_number(info))
        return memcmp(x, y, sizeof(uint64_t)) == 0;
    if (info->type == TUNABLE_BOOL)
        return *(const bool *)x == *(const bool *)y;
    if (info->type == TUNABLE_CHOICE)
        return *(const unsigned *)x == *(const unsigned *)y;
    return strcmp(x, y) == 0;
}

static void check_equal(const struct tunables *a, const struct tunables *b, const char *why)
{
    for (unsigned i = 0; i < tunable_count; i++)
        must(values_equal(a, b, &tunable_table[i]), "%s: %s differs", why, tunable_table[i].name);
}

static void check_ranges(const struct tunables *t)
{
    for (unsigned i = 0; i < tunable_count; i++) {
        const struct tunable_info *info = &tunable_table[i];
        const void *value = value_of(t, info);

        if (is_number(info)) {
            uint64_t number;

            memcpy(&number, value, sizeof(number));
            must(number >= info->minimum && number <= info->maximum, "%s is %llu", info->name,
                 (unsigned long long)number);
        } else if (info->type == TUNABLE_STRING) {
            must(memchr(value, '\0', TUNABLE_STRING_MAX) != NULL, "%s has no end", info->name);
        } else if (info->type == TUNABLE_CHOICE) {
            for (unsigned word = 0; word <= *(const unsigned *)value; word++)
                must(info->choices[word] != NULL, "%s is %u", info->name, *(const unsigned *)value);
        }
    }
}

/* Setting by setting, as the manual says; the first failure ends it. */
static int set_one_by_one(struct tunables *t, const char *conf)
{
    while (*conf != '\0') {
        size_t length = strcspn(conf, ","), name = strcspn(conf, ",:=");
        char *setting = strndup(conf, length);
        int result = 0;

        must(setting != NULL, "no memory");
        if (name < length) {
            setting[name] = '\0';
            result = tunables_set(t, setting, setting + name + 1);
        } else if (length > 0) {
            result = -EINVAL;
        }
        free(setting);
        if (result != 0)
            return result;
        conf += length + (conf[length] == ',');
    }
    return 0;
}

/* A value that does not fit in its line is cut, and no byte is written beyond. */
static void check_cut(const struct tunables *t, const struct tunable_info *info, const char *whole)
{
    char small[8];

    memset(small, 'x', sizeof(small));
    must(tunable_print(t, info, small, 4) == small, "%s", info->name);
    must(memchr(small, '\0', 4) != NULL && strncmp(small, whole, strlen(small)) == 0 &&
             small[4] == 'x',
         "%s is cut to \"%.8s\"", info->name, small);
}

static void check_round_trip(const struct tunables *t)
{
    struct tunables again, all;
    char text[TUNABLE_STRING_MAX];
    char conf[64 * 64 + TUNABLE_STRING_MAX] = "";
    size_t used = 0;

    tunables_init(&again);
    for (unsigned i = 0; i < tunable_count; i++) {
        const struct tunable_info *info = &tunable_table[i];

        must(tunable_print(t, info, text, sizeof(text)) == text, "%s", info->name);
        check_cut(t, info, text);
        must(tunables_set(&again, info->name, text) == 0, "%s: %s", text, error_last());
        must(values_equal(t, &again, info), "%s does not come back from \"%s\"", info->name, text);
        used += (size_t)snprintf(conf + used, sizeof(conf) - used, "%s%c%s,", info->name,
                                 i % 2 ? ':' : '=', text);
        must(used < sizeof(conf), "the settings together are too long");
    }
    tunables_init(&all);
    must(tunables_parse(&all, conf) == 0, "%s: %s", conf, error_last());
    check_equal(t, &all, "what is printed, as one string");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    char *conf = input_text(&in, -1);
    struct tunables before, t, one_by_one;
    int result, expected;

    tunables_init(&before);
    tunables_init(&t);
    tunables_init(&one_by_one);
    check_ranges(&before);
    expected = set_one_by_one(&one_by_one, conf);
    failure_forget();
    result = tunables_parse(&t, conf);
    if (result != 0) {
        failure_check(result);
        must(expected != 0, "refused, but not setting by setting: %s", error_last());
        must(memcmp(&t, &before, sizeof(t)) == 0, "refused, but something was set");
    } else {
        must(expected == 0, "accepted, but not setting by setting: %s", error_last());
        check_equal(&t, &one_by_one, "setting by setting");
        check_ranges(&t);
        check_round_trip(&t);
    }
    free(conf);
    return 0;
}
