/*
 * Settings: the parsers, every way to refuse a value, presets, printing.
 */
#include <errno.h>
#include <unistd.h>

#include "core/error.h"
#include "core/tunables.h"
#include "tap.h"

typedef int parser(const char *, const char *, uint64_t *);

static void parses(parser *parse, const char *text, uint64_t expected)
{
    uint64_t value = 0xdead;
    int rc = parse("option", text, &value);

    if (!ok(rc == 0 && value == expected, "\"%s\" is %llu", text, (unsigned long long)expected))
        note("rc %d, value %llu, \"%s\"", rc, (unsigned long long)value,
             rc < 0 ? error_last() : "");
}

static void refuses(parser *parse, const char *text, int code, const char *words)
{
    uint64_t value = 0xdead;
    int rc = parse("option", text, &value);

    if (!ok(rc == code && value == 0xdead && strcmp(error_last(), words) == 0, "\"%s\": %s", text,
            words))
        note("rc %d, value %llu, \"%s\"", rc, (unsigned long long)value, error_last());
}

static void test_sizes(void)
{
    parses(parse_size, "0", 0);
    parses(parse_size, "4096", 4096);
    parses(parse_size, "64K", 65536);
    parses(parse_size, "64k", 65536);
    parses(parse_size, "256M", UINT64_C(256) << 20);
    parses(parse_size, "1.5G", UINT64_C(3) << 29);
    parses(parse_size, "1.50000000000000000000000G", UINT64_C(3) << 29);
    parses(parse_size, "0.25T", UINT64_C(1) << 38);
    parses(parse_size, "2.0", 2);
    parses(parse_size, "18446744073709551615", UINT64_MAX);
    parses(parse_size, "16777215T", UINT64_C(16777215) << 40);

    refuses(parse_size, "", -EINVAL, "option: is empty; give a size such as 64K, 256M or 1.5G");
    refuses(parse_size, "-5M", -EINVAL,
            "option: -5M is negative; give a size such as 64K, 256M or 1.5G");
    refuses(parse_size, "lots", -EINVAL,
            "option: \"lots\" is not a size; give one such as 64K, 256M or 1.5G");
    refuses(parse_size, "-", -EINVAL,
            "option: \"-\" is not a size; give one such as 64K, 256M or 1.5G");
    refuses(parse_size, " 1M", -EINVAL,
            "option: \" 1M\" is not a size; give one such as 64K, 256M or 1.5G");
    refuses(parse_size, "nan", -EINVAL,
            "option: \"nan\" is not a size; give one such as 64K, 256M or 1.5G");
    refuses(parse_size, "64KB", -EINVAL,
            "option: \"64KB\" ends in \"KB\"; after the number only K, M, G or T may stand");
    refuses(parse_size, "0x10", -EINVAL,
            "option: \"0x10\" ends in \"x10\"; after the number only K, M, G or T may stand");
    refuses(parse_size, "1.G", -EINVAL,
            "option: \"1.G\" ends in \".G\"; after the number only K, M, G or T may stand");
    refuses(parse_size, "1.5", -EINVAL, "option: 1.5 is not a whole number of bytes");
    refuses(parse_size, "0.1K", -EINVAL, "option: 0.1K is not a whole number of bytes");
    refuses(parse_size, "0.0000000000000000001T", -EINVAL,
            "option: 0.0000000000000000001T is not a whole number of bytes");
    refuses(parse_size, "18446744073709551616", -ERANGE,
            "option: 18446744073709551616 is larger than can be");
    refuses(parse_size, "16777216T", -ERANGE, "option: 16777216T is larger than can be");
    refuses(parse_size, "99999999999999999999999T", -ERANGE,
            "option: 99999999999999999999999T is larger than can be");
}

static void test_times(void)
{
    parses(parse_time, "0", 0);
    parses(parse_time, "0.0", 0);
    parses(parse_time, "30ns", 30);
    parses(parse_time, "50us", 50000);
    parses(parse_time, "1.5ms", 1500000);
    parses(parse_time, "2s", UINT64_C(2000000000));
    parses(parse_time, "1m", UINT64_C(60000000000));

    refuses(parse_time, "", -EINVAL, "option: is empty; give a time such as 50us, 20ms or 1.5s");
    refuses(parse_time, "30", -EINVAL, "option: 30 has no unit; add ns, us, ms, s or m");
    refuses(parse_time, "0.5", -EINVAL, "option: 0.5 has no unit; add ns, us, ms, s or m");
    refuses(parse_time, "-1s", -EINVAL,
            "option: -1s is negative; give a time such as 50us, 20ms or 1.5s");
    refuses(parse_time, "soon", -EINVAL,
            "option: \"soon\" is not a time; give one such as 50us, 20ms or 1.5s");
    refuses(parse_time, "3h", -EINVAL,
            "option: \"3h\" ends in \"h\"; after the number only ns, us, ms, s or m may stand");
    refuses(parse_time, "0.5ns", -EINVAL, "option: 0.5ns is not a whole number of nanoseconds");
    refuses(parse_time, "99999999999m", -ERANGE, "option: 99999999999m is larger than can be");
}

static void test_counts(void)
{
    parses(parse_count, "0", 0);
    parses(parse_count, "007", 7);
    parses(parse_count, "18446744073709551615", UINT64_MAX);

    refuses(parse_count, "", -EINVAL, "option: is empty; give a whole number");
    refuses(parse_count, "-3", -EINVAL, "option: -3 is negative; give a whole number");
    refuses(parse_count, "many", -EINVAL, "option: \"many\" is not a number; give a whole number");
    refuses(parse_count, "1.5", -EINVAL,
            "option: \"1.5\" ends in \".5\"; give a whole number, digits only");
    refuses(parse_count, "18446744073709551616", -ERANGE,
            "option: 18446744073709551616 is larger than can be");
}

static void sets(struct tunables *t, const char *name, const char *value, const char *printed)
{
    char buffer[TUNABLE_STRING_MAX];
    int rc = tunables_set(t, name, value);

    for (unsigned i = 0; i < tunable_count; i++) {
        if (strcmp(tunable_table[i].name, name) == 0)
            tunable_print(t, &tunable_table[i], buffer, sizeof(buffer));
    }
    if (!ok(rc == 0 && strcmp(buffer, printed) == 0, "%s: %s prints as %s", name, value, printed))
        note("rc %d, printed %s", rc, buffer);
}

static void set_refuses(const char *name, const char *value, int code, const char *words)
{
    struct tunables t, before;

    tunables_init(&t);
    before = t;
    int rc = tunables_set(&t, name, value);
    bool same = memcmp(&t, &before, sizeof(t)) == 0;
    if (!ok(rc == code && same && strcmp(error_last(), words) == 0, "%s", words))
        note("rc %d, %s, \"%s\"", rc, same ? "unchanged" : "changed", error_last());
}

static void test_defaults(void)
{
    struct tunables t, again;
    char buffer[TUNABLE_STRING_MAX];
    unsigned same = 0;

    tunables_init(&t);
    ok(error_last()[0] == '\0', "the defaults are all valid");
    is(t.memory, 256 * TUNABLE_MIB, "default memory");
    is(t.mapper, MAPPER_COPY, "default mapper");
    is(t.stage, STAGE_FULL, "default stage");
    is(t.patience, 30 * TUNABLE_SECOND, "default patience");
    ok(t.pagefile[0] == '\0' && t.workers && t.preserve, "other defaults");

    tunables_init(&again);
    for (unsigned i = 0; i < tunable_count; i++) {
        const struct tunable_info *info = &tunable_table[i];
        tunable_print(&t, info, buffer, sizeof(buffer));
        same += tunables_set(&again, info->name, buffer) == 0 &&
                strcmp(buffer, info->default_text) == 0;
    }
    is(same, tunable_count, "what is printed of the defaults is what the table says");
    ok(memcmp(&t, &again, sizeof(t)) == 0, "and setting it again changes nothing");
}

static void test_values(void)
{
    struct tunables t;
    char longest[TUNABLE_STRING_MAX];

    tunables_init(&t);
    sets(&t, "memory", "1.5G", "1536M");
    sets(&t, "memory", "262145", "262145");
    sets(&t, "memory", "256K", "256K");
    sets(&t, "memory", "8T", "8T");
    sets(&t, "pagefile_size", "0", "0");
    sets(&t, "store_delay", "1500us", "1500us");
    sets(&t, "store_delay", "60s", "1m");
    sets(&t, "store_delay", "0", "0");
    ok(tunables_set(&t, "read-window", "7") == 0 && t.read_window == 7, "'-' may stand for '_'");
    sets(&t, "hash_seed", "18446744073709551615", "18446744073709551615");
    sets(&t, "mapper", "soft", "soft");
    sets(&t, "mapper", "MOVE", "move");
    sets(&t, "pagefile", "/a b/c:d=e", "/a b/c:d=e");
    sets(&t, "pagefile", "", "");
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    sets(&t, "pagefile", longest, longest);

    static const char *const words[][2] = {
        {"on", "off"}, {"yes", "no"}, {"true", "false"}, {"1", "0"}};
    for (unsigned i = 0; i < 4; i++) {
        sets(&t, "direct", words[i][1], "off");
        sets(&t, "direct", words[i][0], "on");
    }
}

static void test_refusals(void)
{
    char large[TUNABLE_STRING_MAX + 1];

    set_refuses("memory", "100K", -ERANGE, "memory: 100K is under the minimum of 256K");
    set_refuses("memory", "0", -ERANGE, "memory: 0 is under the minimum of 256K");
    set_refuses("memory", "9T", -ERANGE, "memory: 9T is over the maximum of 8T");
    set_refuses("memory", "", -EINVAL, "memory: is empty; give a size such as 64K, 256M or 1.5G");
    set_refuses("store_delay", "61s", -ERANGE, "store_delay: 61s is over the maximum of 1m");
    set_refuses("fault_depth", "0", -ERANGE, "fault_depth: 0 is under the minimum of 1");
    set_refuses("cache", "76", -ERANGE, "cache: 76 is over the maximum of 75");
    set_refuses("batching", "maybe", -EINVAL,
                "batching: \"maybe\" is neither on nor off (yes, no, true, false, 1 and 0 are "
                "allowed too)");
    set_refuses("mapper", "cpoy", -EINVAL,
                "mapper: \"cpoy\" is not one of copy, move, soft; did you mean copy?");
    set_refuses("mapper", "hardware", -EINVAL,
                "mapper: \"hardware\" is not one of copy, move, soft");
    set_refuses("mapper", "", -EINVAL, "mapper: \"\" is not one of copy, move, soft");
    set_refuses("stage", "singel", -EINVAL,
                "stage: \"singel\" is not one of single, basic, full; did you mean single?");
    set_refuses("memroy", "1G", -EINVAL, "no setting is called \"memroy\"; did you mean memory?");
    set_refuses("read-windo", "1", -EINVAL,
                "no setting is called \"read-windo\"; did you mean read_window?");
    set_refuses("colour", "1", -EINVAL,
                "no setting is called \"colour\"; `vmsm sim --help` lists them");
    set_refuses("", "1", -EINVAL, "no setting is called \"\"; `vmsm sim --help` lists them");
    set_refuses("pagefile", "/a,b", -EINVAL,
                "pagefile: \"/a,b\" contains a comma, which separates settings; choose another "
                "name");
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    struct tunables t;
    tunables_init(&t);
    is(tunables_set(&t, "pagefile", large), -ERANGE, "a path of 256 characters is too long");
    ok(strstr(error_last(), "has 256 characters; at most 255 are allowed") != NULL, "and says so");
}

static unsigned features(const struct tunables *t)
{
    return t->batching * 1u + t->deferred * 2u + t->fine_locks * 4u + t->shared_locks * 8u +
           t->preserve * 16u + t->more_workers * 32u + t->workers * 64u;
}

static void test_stages(void)
{
    struct tunables t;

    tunables_init(&t);
    is(features(&t), 127, "all is on at first");
    tunables_set(&t, "stage", "basic");
    is(features(&t), 64, "basic: worker threads, none of the six features");
    tunables_set(&t, "preserve", "on");
    is(features(&t), 64 + 16, "a feature set after the stage overrides it");
    tunables_set(&t, "stage", "single");
    is(features(&t), 0, "single: nothing");
    tunables_set(&t, "stage", "full");
    is(features(&t), 127, "full: everything");
    tunables_set(&t, "batching", "off");
    tunables_set(&t, "stage", "none");
    is(features(&t), 126, "a stage that is refused changes nothing");
}

static void test_parse(void)
{
    struct tunables t, before;

    tunables_init(&t);
    is(tunables_parse(&t, ""), 0, "no settings");
    is(tunables_parse(&t, "memory:64M,mapper=soft,pagefile:/tmp/a:b,stage:basic,preserve:on"), 0,
       "settings with : and =");
    ok(t.memory == 64 * TUNABLE_MIB && t.mapper == MAPPER_SOFT && t.stage == STAGE_BASIC &&
           t.preserve && !t.batching,
       "are all taken, in order");
    ok(strcmp(t.pagefile, "/tmp/a:b") == 0, "a value may contain a colon");
    is(tunables_parse(&t, ",memory:32M,,"), 0, "empty settings are passed over");
    is(t.memory, 32 * TUNABLE_MIB, "and the others taken");

    before = t;
    is(tunables_parse(&t, "memory:1G,cahce:20"), -EINVAL, "an unknown name is refused");
    ok(strstr(error_last(), "did you mean cache?") != NULL, "the nearest is named");
    ok(memcmp(&t, &before, sizeof(t)) == 0, "and nothing of the whole was set");
    is(tunables_parse(&t, "memory:1K"), -ERANGE, "a value out of range is refused");
    is(tunables_parse(&t, "memory"), -EINVAL, "a setting without a value is refused");
    ok(strcmp(error_last(), "settings: \"memory\" has no value; write name:value") == 0,
       "and says how it is written");

    char large[2048] = "pagefile:";
    memset(large + 9, 'x', sizeof(large) - 10);
    large[sizeof(large) - 1] = '\0';
    is(tunables_parse(&t, large), -ERANGE, "an endless setting is refused");
}

static void nearest_is(const char *word, const char *expected)
{
    static const char *const names[] = {"memory",  "mapper",  "virtual", "threads",
                                        "seconds", "run-max", "write",   "stage",
                                        "trap",    "seed",    NULL};
    const char *got = nearest_word(word, names);
    bool same = expected == NULL ? got == NULL : got != NULL && strcmp(got, expected) == 0;

    if (!ok(same, "near \"%s\" is %s", word, expected == NULL ? "nothing" : expected))
        note("got %s", got == NULL ? "nothing" : got);
}

static void test_nearest(void)
{
    char large[300];

    nearest_is("memory", "memory");
    nearest_is("memroy", "memory");
    nearest_is("Memory", "memory");
    nearest_is("thread", "threads");
    nearest_is("tarp", "trap");
    nearest_is("sedonds", "seconds");
    nearest_is("runmax", "run-max");
    nearest_is("vrtaul", "virtual");
    nearest_is("x", NULL);
    nearest_is("", NULL);
    nearest_is("colour", NULL);
    memset(large, 'm', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    nearest_is(large, NULL);
}

static void test_show(void)
{
    struct tunables t;
    char *text = NULL;
    size_t size = 0;
    unsigned found = 0;

    tunables_init(&t);
    FILE *out = open_memstream(&text, &size);
    tunables_show(&t, out);
    fclose(out);
    for (unsigned i = 0; i < tunable_count; i++)
        found += strstr(text, tunable_table[i].help) != NULL;
    is(found, tunable_count, "every setting is shown");
    ok(strncmp(text, "memory               256M       budget", 38) == 0, "name, value, help");
    free(text);
}

int main(void)
{
    test_defaults();
    test_sizes();
    test_times();
    test_counts();
    test_values();
    test_refusals();
    test_stages();
    test_parse();
    test_nearest();
    test_show();
    return done_testing();
}
