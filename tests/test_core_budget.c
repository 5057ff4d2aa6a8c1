/*
 * The budget: however small, every part of it gets a share, or it is refused in words.
 */
#include "machine_fixture.h"

static int open_cached(struct sync *sync, const struct mapper_options *options,
                       struct mapper **mapper)
{
    int error = mapper_soft_open(sync, options, mapper);

    if (error == 0)
        (*mapper)->has_cache = true;
    return error;
}

/* Memory of so many pages, fewer than an option may say. 0: refused, in words. */
static uint32_t small_machine(uint32_t pages, bool cached, bool *sound)
{
    struct store_file_options file = {.path = ""};
    struct machine_options options = {.backend = &sync_backend_linux,
                                      .platform = &platform_linux,
                                      .mapper_open = cached ? open_cached : mapper_soft_open,
                                      .mapper_has_cache = cached,
                                      .pool_queues = 1};
    struct tunables t;
    struct machine *m;
    uint32_t frames;

    tunables_init(&t);
    if (tunables_parse(&t, "trap:none,workers:off") != 0 ||
        store_file_open(&file, &options.store) != 0)
        exit(1);
    t.memory = pages * PAGE;
    options.tunables = &t;
    if (machine_create(&options, &m) != 0) {
        *sound &= strstr(error_last(), "pages are too few") != NULL;
        return 0;
    }
    frames = m->frame_count;
    *sound &=
        m->writer.batch_pages >= 1 && m->active_max >= 1 &&
        m->active_max + m->buffer_count + m->stage_pages + m->writer.batch_pages * t.write_depth <=
            pages &&
        (!cached || (m->stage_pages >= 1 && m->buffer_count >= m->buffer_least &&
                     m->buffer_least >= 1 && m->buffer_count < frames));
    machine_destroy(m);
    return frames;
}

static void small_budgets(bool cached)
{
    const char *what = cached ? "with a cache" : "without a cache";
    uint32_t before = 0, least = 0;
    bool sound = true, grows = true;

    for (uint32_t pages = 0; pages <= 128; pages++) {
        uint32_t frames = small_machine(pages, cached, &sound);

        grows &= frames + (before > 0 ? 2 : 0) >= before;
        if (frames > 0 && least == 0)
            least = pages;
        before = frames;
    }
    ok(sound, "%s: budgets to 128 pages are divided, or refused in words", what);
    ok(grows, "%s: and no larger one has much fewer frames", what);
    ok(least > 0 && least <= 12, "%s: from %u pages on there is a machine", what, least);
}

int main(void)
{
    small_budgets(false);
    small_budgets(true);
    return done_testing();
}
