/*
 * sortlines: sort the lines of a text file of any size by bytes, in a given
 * amount of memory. The output is that of `LC_ALL=C sort`.
 *
 * What it shows: a program that holds all of its data in memory, in plain
 * arrays and through plain pointers, while most of it is in the pagefile; only
 * memory_get(), memory_drop() and the two advices know of vmsm.
 *  - read(2) fills managed memory directly, and write(2) takes long lines from it:
 *    faults inside system calls are served like any other;
 *  - the algorithm has locality, without which no virtual memory is quick:
 *
 *      INPUT ─read─▶ [ data ..................................... ]
 *                      run 0  │ run 1  │ run 2  │ ...   each a part of the budget:
 *                      sorted while it is still in memory, its lines put in order
 *                        ▼        ▼        ▼
 *                      merge: every run is read once, from front to back, in steps
 *                        ▼    that are given back as soon as they have been used
 *                      OUTPUT
 *
 * A run is sorted through an index of (offset, length, the next eight bytes) by a
 * multikey quicksort that compares eight bytes at a time. Then the lines are copied
 * in order to a scratch area and back, so that the merge needs no index and jumps
 * nowhere. The merge keeps some pages of each run in memory: it is quick while the
 * file is smaller than about memory * memory / 1 MiB (64 GiB for 256 MiB).
 *
 * With --plain the same arrays come from mmap(2), for comparison.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmsm.h"

#define MIB (UINT64_C(1024) * 1024)
#define READ_SIZE (4 * MIB)
#define DROP_STEP (1 * MIB)
#define OUTPUT_BUFFER (1 * MIB)
#define CONF_MAX 2048
#define INSERTION_SORT 12
#define MEMORY_MIN (UINT64_C(64) * 1024)
#define MEMORY_MIN_MANAGED (UINT64_C(256) * 1024)

enum { STATUS_FAILED = 2 };

/* A line of the run being sorted. key: eight of its bytes, the first most significant. */
struct line {
    uint64_t key;
    uint64_t offset;
    uint64_t length; /* without the newline */
};

/* What the merge has yet to take from a run; the line at offset is the run's least. */
struct run {
    uint64_t offset, end;
    uint64_t dropped; /* all before this is given back */
    uint64_t key, length;
};

struct output {
    const char *path;
    char target[PATH_MAX]; /* what path leads to */
    int fd;
    uint8_t *buffer;
    size_t used;
};

struct sorter {
    struct vmsm *vmsm; /* NULL with --plain */
    uint64_t memory;
    const char *path;
    uint8_t *data;
    uint64_t size; /* of the data, every line of it ended by a newline */
    struct line *lines;
    uint64_t line_count;
    uint64_t runs_end; /* of the last finished run; the run in work begins here */
    uint8_t *scratch;
    uint64_t room; /* what a run, its lines and its copy in the scratch area may take */
    struct run *runs;
    size_t run_count, run_max;
    struct output output;
};

static int fail(const char *what, const char *path, const char *why)
{
    fprintf(stderr, "sortlines: %s %s: %s\n", what, path, why);
    return -1;
}

static int manager_make(struct sorter *s, const char *settings)
{
    char conf[CONF_MAX + 64];
    int error;

    snprintf(conf, sizeof(conf), "memory:%lluK%s", (unsigned long long)(s->memory >> 10), settings);
    error = vmsm_create(&s->vmsm, conf);
    if (error == 0)
        return 0;
    s->vmsm = NULL;
    fprintf(stderr, "sortlines: cannot manage memory: %s (%s)\n", vmsm_last_error(),
            strerror(-error));
    return -1;
}

static void *memory_get(struct sorter *s, uint64_t size)
{
    void *p = MAP_FAILED;
    const char *why = "too large";

    if (s->vmsm != NULL && size <= SIZE_MAX) {
        if (vmsm_map(s->vmsm, size, &p) == 0)
            return p;
        why = vmsm_last_error();
    } else if (size <= SIZE_MAX) {
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p != MAP_FAILED)
            return p;
        why = strerror(errno);
    }
    fail("no memory to sort", s->path, why);
    return NULL;
}

/* The merge is through with these pages: neither their frames nor their slots are needed. */
static void memory_drop(struct sorter *s, uint64_t offset, uint64_t length)
{
    if (s->vmsm != NULL)
        vmsm_decommit(s->vmsm, s->data + offset, length);
    else
        madvise(s->data + offset, length, MADV_DONTNEED);
}

static uint64_t page_up(uint64_t offset)
{
    return (offset + VMSM_PAGE_SIZE - 1) / VMSM_PAGE_SIZE * VMSM_PAGE_SIZE;
}

static uint64_t page_down(uint64_t offset)
{
    return offset / VMSM_PAGE_SIZE * VMSM_PAGE_SIZE;
}

/* ---- Sorting a run ---- */

/* Up to eight bytes as a number that compares as they do; what is missing counts as 0. */
static uint64_t key_load(const uint8_t *bytes, uint64_t length)
{
    uint64_t key = 0;

    if (length >= sizeof(key)) {
        memcpy(&key, bytes, sizeof(key));
        return __builtin_bswap64(key);
    }
    for (uint64_t i = 0; i < length; i++)
        key |= (uint64_t)bytes[i] << (56 - 8 * i);
    return key;
}

/* Two byte strings that agree in their first `depth` bytes, as far as they have them. */
static int bytes_compare(const uint8_t *a, uint64_t a_length, const uint8_t *b, uint64_t b_length,
                         uint64_t depth)
{
    uint64_t common = a_length < b_length ? a_length : b_length;
    int order = common > depth ? memcmp(a + depth, b + depth, common - depth) : 0;

    return order != 0 ? order : (a_length > b_length) - (a_length < b_length);
}

static int line_compare(const uint8_t *data, const struct line *a, const struct line *b,
                        uint64_t depth)
{
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    return bytes_compare(data + a->offset, a->length, data + b->offset, b->length, depth + 8);
}

static void line_swap(struct line *a, struct line *b)
{
    struct line t = *a;

    *a = *b;
    *b = t;
}

static void insertion_sort(const uint8_t *data, struct line *lines, uint64_t count, uint64_t depth)
{
    for (uint64_t i = 1; i < count; i++) {
        struct line line = lines[i];
        uint64_t at = i;

        for (; at > 0 && line_compare(data, &line, &lines[at - 1], depth) < 0; at--)
            lines[at] = lines[at - 1];
        lines[at] = line;
    }
}

static uint64_t median_of_three(uint64_t a, uint64_t b, uint64_t c)
{
    if (a < b)
        return b < c ? b : (a < c ? c : a);
    return a < c ? a : (b < c ? c : b);
}

static uint64_t pivot_choose(const struct line *lines, uint64_t count)
{
    uint64_t step = count / 9;
    uint64_t medians[3];

    for (unsigned i = 0; i < 3; i++)
        medians[i] = median_of_three(lines[3 * i * step].key, lines[(3 * i + 1) * step].key,
                                     lines[(3 * i + 2) * step].key);
    return median_of_three(medians[0], medians[1], medians[2]);
}

/*
 * Lines whose keys are equal. Those that end within the key come first, the shorter before the
 * longer (its missing bytes counted as 0); the others get their next key. Returns how many others
 * there are; they are the last of `lines`.
 */
static uint64_t equals_advance(const uint8_t *data, struct line *lines, uint64_t count,
                               uint64_t depth)
{
    uint64_t shortest = UINT64_MAX, placed = 0;

    for (uint64_t i = 0; i < count; i++)
        if (lines[i].length < shortest)
            shortest = lines[i].length;
    for (uint64_t length = shortest; length <= depth + 8 && placed < count; length++)
        for (uint64_t i = placed; i < count; i++)
            if (lines[i].length == length)
                line_swap(&lines[i], &lines[placed++]);
    for (uint64_t i = placed; i < count; i++)
        lines[i].key = key_load(data + lines[i].offset + depth + 8, lines[i].length - depth - 8);
    return count - placed;
}

/*
 * Sort lines that agree in their first `depth` bytes and whose keys hold the next eight. Of the
 * three parts the largest is left to the loop, so that the recursion is never deeper than log2 of
 * the lines, however long their common prefixes are.
 */
static void lines_sort(const uint8_t *data, struct line *lines, uint64_t count, uint64_t depth)
{
    while (count > INSERTION_SORT) {
        uint64_t pivot = pivot_choose(lines, count);
        uint64_t less = 0, at = 0, more = count, equal, greater;
        struct line *middle;

        while (at < more) {
            if (lines[at].key < pivot)
                line_swap(&lines[less++], &lines[at++]);
            else if (lines[at].key > pivot)
                line_swap(&lines[at], &lines[--more]);
            else
                at++;
        }
        equal = equals_advance(data, lines + less, more - less, depth);
        middle = lines + more - equal;
        greater = count - more;
        if (equal >= less && equal >= greater) {
            lines_sort(data, lines, less, depth);
            lines_sort(data, lines + more, greater, depth);
            lines = middle;
            count = equal;
            depth += 8;
            continue;
        }
        lines_sort(data, middle, equal, depth + 8);
        if (less >= greater) {
            lines_sort(data, lines + more, greater, depth);
            count = less;
        } else {
            lines_sort(data, lines, less, depth);
            lines += more;
            count = greater;
        }
    }
    insertion_sort(data, lines, count, depth);
}

/* Whole pages of a run that will not be used before the merge. */
static void run_put_away(struct sorter *s, const struct run *run)
{
    uint64_t first = page_up(run->offset), last = page_down(run->end);

    if (s->vmsm != NULL && last > first)
        vmsm_advise(s->vmsm, s->data + first, last - first, VMSM_DONTNEED);
}

/* Sort the lines collected so far and put them in order in their own place. */
static int run_finish(struct sorter *s)
{
    uint64_t used = 0, start = s->runs_end;
    struct run *run;

    if (s->line_count == 0)
        return 0;
    if (s->run_count == s->run_max) {
        size_t more = s->run_max * 2 + 64;
        struct run *grown = realloc(s->runs, more * sizeof(*grown));

        if (grown == NULL)
            return fail("no memory to sort", s->path, strerror(errno));
        s->runs = grown;
        s->run_max = more;
    }
    if (s->line_count > 1) {
        lines_sort(s->data, s->lines, s->line_count, 0);
        for (uint64_t i = 0; i < s->line_count; i++) {
            memcpy(s->scratch + used, s->data + s->lines[i].offset, s->lines[i].length + 1);
            used += s->lines[i].length + 1;
        }
        memcpy(s->data + start, s->scratch, used);
    } else {
        used = s->lines[0].length + 1; /* a line alone is sorted, and may exceed the scratch area */
    }
    s->line_count = 0;
    s->runs_end = start + used;
    run = &s->runs[s->run_count++];
    *run = (struct run){.offset = start, .end = s->runs_end, .dropped = page_up(start)};
    run_put_away(s, run);
    return 0;
}

static int line_add(struct sorter *s, uint64_t offset, uint64_t length)
{
    uint64_t bytes = offset + length + 1 - s->runs_end;

    /* The run itself, its copy and its index must fit together. */
    if (s->line_count > 0 && 2 * bytes + (s->line_count + 1) * sizeof(*s->lines) > s->room &&
        run_finish(s) < 0)
        return -1;
    s->lines[s->line_count++] = (struct line){
        .key = key_load(s->data + offset, length), .offset = offset, .length = length};
    return 0;
}

/* Add the lines that end in [from, to); *line_start is where the first one starts. */
static int lines_collect(struct sorter *s, uint64_t from, uint64_t to, uint64_t *line_start)
{
    const uint8_t *newline;

    while (from < to && (newline = memchr(s->data + from, '\n', to - from)) != NULL) {
        uint64_t end = (uint64_t)(newline - s->data);

        if (line_add(s, *line_start, end - *line_start) < 0)
            return -1;
        *line_start = from = end + 1;
    }
    return 0;
}

/* Read the input, up to the size it had at first, and sort each run when it is complete. */
static int runs_make(struct sorter *s, int fd, uint64_t size)
{
    uint64_t line_start = 0;
    char beyond;

    while (s->size < size) {
        uint64_t want = size - s->size < READ_SIZE ? size - s->size : READ_SIZE;
        ssize_t got = read(fd, s->data + s->size, want);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail("cannot read", s->path,
                        errno == EFAULT ? "a page of memory could not be had; if the trap is "
                                          "sigbus, use the trap thread"
                                        : strerror(errno));
        if (got == 0)
            break;
        s->size += (uint64_t)got;
        if (lines_collect(s, s->size - (uint64_t)got, s->size, &line_start) < 0)
            return -1;
    }
    if (s->size == size && read(fd, &beyond, 1) > 0)
        return fail("cannot read", s->path, "it holds more than its size says, or grows");
    if (line_start < s->size) {
        s->data[s->size++] = '\n';
        if (lines_collect(s, s->size - 1, s->size, &line_start) < 0)
            return -1;
    }
    return run_finish(s);
}

/* ---- Output ---- */

static int output_write(struct output *out, const uint8_t *bytes, uint64_t length)
{
    while (length > 0) {
        ssize_t put = write(out->fd, bytes, length);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fail("cannot write", out->path, strerror(errno));
        bytes += put;
        length -= (uint64_t)put;
    }
    return 0;
}

static int output_flush(struct output *out)
{
    size_t used = out->used;

    out->used = 0;
    return output_write(out, out->buffer, used);
}

static int output_put(struct output *out, const uint8_t *bytes, uint64_t length)
{
    if (length > OUTPUT_BUFFER - out->used && output_flush(out) < 0)
        return -1;
    if (length > OUTPUT_BUFFER)
        return output_write(out, bytes, length);
    memcpy(out->buffer + out->used, bytes, length);
    out->used += length;
    return 0;
}

/* The file beside the output that signals remove; "" if there is none. */
static char temporary[PATH_MAX];

static void on_end(int number)
{
    if (temporary[0] != '\0')
        unlink(temporary);
    raise(number); /* the handler is gone: it kills, when this returns */
}

static void signals_handle(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_end, .sa_flags = (int)SA_RESETHAND}, old;

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
}

/* Make the file that will be renamed to the output when it is complete. */
static int beside_make(struct output *out, mode_t mode)
{
    sigset_t all, before;
    int length, error;

    length = snprintf(temporary, sizeof(temporary), "%s.XXXXXX", out->target);
    if (length >= (int)sizeof(temporary)) {
        temporary[0] = '\0';
        return fail("cannot write", out->path, strerror(ENAMETOOLONG));
    }
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* or a signal would find a name without its file */
    out->fd = mkostemp(temporary, O_CLOEXEC);
    error = errno;
    if (out->fd < 0)
        temporary[0] = '\0';
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (out->fd < 0)
        return fail("cannot write", out->path, strerror(error));
    if (fchmod(out->fd, mode) != 0)
        return fail("cannot write", out->path, strerror(errno));
    return 0;
}

/* Whatever the path leads to keeps its content until the output is complete; devices and pipes
 * are written as they are. */
static int output_open(struct output *out, const struct stat *input)
{
    mode_t mask = umask(0), mode = 0666 & ~mask;
    struct stat st;

    umask(mask);
    out->buffer = malloc(OUTPUT_BUFFER);
    if (out->buffer == NULL)
        return fail("no memory to write", out->path, strerror(errno));
    snprintf(out->target, sizeof(out->target), "%s", out->path);
    if (stat(out->path, &st) == 0) {
        if (st.st_dev == input->st_dev && st.st_ino == input->st_ino)
            return fail("cannot write", out->path, "it is the input; name another file");
        if (!S_ISREG(st.st_mode)) {
            out->fd = open(out->path, O_WRONLY | O_CLOEXEC);
            return out->fd >= 0 ? 0 : fail("cannot write", out->path, strerror(errno));
        }
        if (access(out->path, W_OK) != 0 || realpath(out->path, out->target) == NULL)
            return fail("cannot write", out->path, strerror(errno));
        mode = st.st_mode & 07777;
    }
    signals_handle();
    return beside_make(out, mode);
}

/* A part of the output is worse than none: only the whole of it gets its name. */
static int output_close(struct output *out, int result)
{
    if (out->fd >= 0 && close(out->fd) < 0 && result == 0)
        result = fail("cannot write", out->path, strerror(errno));
    if (result == 0 && temporary[0] != '\0' && rename(temporary, out->target) < 0)
        result = fail("cannot write", out->path, strerror(errno));
    if (result < 0 && temporary[0] != '\0')
        unlink(temporary);
    temporary[0] = '\0';
    free(out->buffer);
    return result;
}

/* ---- Merge ---- */

static void run_load(const struct sorter *s, struct run *run)
{
    const uint8_t *line = s->data + run->offset;
    const uint8_t *newline = memchr(line, '\n', run->end - run->offset);

    run->length = (uint64_t)(newline - line);
    run->key = key_load(line, run->length);
}

static bool run_before(const struct sorter *s, const struct run *a, const struct run *b)
{
    if (a->key != b->key)
        return a->key < b->key;
    return bytes_compare(s->data + a->offset, a->length, s->data + b->offset, b->length, 8) < 0;
}

/* runs[] is a heap, the least line first; put runs[at] where it belongs. */
static void heap_sift(struct sorter *s, size_t at)
{
    struct run run = s->runs[at];
    size_t child;

    while ((child = 2 * at + 1) < s->run_count) {
        if (child + 1 < s->run_count && run_before(s, &s->runs[child + 1], &s->runs[child]))
            child++;
        if (!run_before(s, &s->runs[child], &run))
            break;
        s->runs[at] = s->runs[child];
        at = child;
    }
    s->runs[at] = run;
}

static void run_drop(struct sorter *s, struct run *run)
{
    uint64_t done = page_down(run->offset);

    if (done < run->dropped + DROP_STEP)
        return;
    memory_drop(s, run->dropped, done - run->dropped);
    run->dropped = done;
}

static int runs_merge(struct sorter *s)
{
    if (s->vmsm != NULL)
        vmsm_advise(s->vmsm, s->data, page_up(s->size), VMSM_SEQUENTIAL);
    for (size_t i = 0; i < s->run_count; i++)
        run_load(s, &s->runs[i]);
    for (size_t i = s->run_count / 2; i-- > 0;)
        heap_sift(s, i);
    while (s->run_count > 0) {
        struct run *run = &s->runs[0];

        if (output_put(&s->output, s->data + run->offset, run->length + 1) < 0)
            return -1;
        run->offset += run->length + 1;
        run_drop(s, run);
        if (run->offset < run->end)
            run_load(s, run);
        else
            *run = s->runs[--s->run_count];
        heap_sift(s, 0);
    }
    return output_flush(&s->output);
}

/* ---- The program ---- */

/* The merge takes from all runs at once, about 6 * size / memory of them: say so if too few pages
 * are left for each. */
static void memory_warn(const struct sorter *s, uint64_t size)
{
    uint64_t enough = s->memory;

    while (size / enough > enough / MIB && enough < size)
        enough *= 2;
    if (enough / 2 > s->memory)
        fprintf(stderr,
                "sortlines: warning: %llu KiB of memory is little for %llu MiB, and the merge will "
                "be slow; with --memory %lluM it is quick\n",
                (unsigned long long)(s->memory >> 10), (unsigned long long)(size >> 20),
                (unsigned long long)(enough + MIB - 1) / MIB);
}

static int input_open(const char *path, struct stat *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return fail("cannot read", path, strerror(errno));
    if (fstat(fd, st) == 0 && S_ISREG(st->st_mode))
        return fd;
    close(fd);
    return fail("cannot read", path,
                "it is not a regular file; its size must be known before it is read");
}

static int memory_prepare(struct sorter *s, uint64_t size)
{
    uint64_t lines, scratch;

    /* Half of the budget for the run in work; the rest goes to read-ahead and write-behind. */
    s->room = s->memory / 2;
    lines = s->room / sizeof(*s->lines);
    scratch = s->room / 2;
    if (lines > size + 1)
        lines = size + 1;
    if (scratch > size + 1)
        scratch = size + 1;
    s->data = memory_get(s, page_up(size + 1)); /* 1: the last line may lack its newline */
    if (s->data != NULL)
        s->lines = memory_get(s, page_up(lines * sizeof(*s->lines)));
    if (s->lines != NULL)
        s->scratch = memory_get(s, page_up(scratch));
    return s->scratch != NULL ? 0 : -1;
}

static int file_sort(struct sorter *s, bool plain, const char *settings)
{
    struct stat st;
    int result = -1, fd = input_open(s->path, &st);

    if (fd < 0)
        return -1;
    if (output_open(&s->output, &st) < 0)
        goto out;
    if (!plain)
        memory_warn(s, (uint64_t)st.st_size);
    if (!plain && manager_make(s, settings) < 0)
        goto out;
    if (memory_prepare(s, (uint64_t)st.st_size) < 0)
        goto out;
    if (runs_make(s, fd, (uint64_t)st.st_size) < 0)
        goto out;
    result = s->run_count > 0 ? runs_merge(s) : 0;
out:
    result = output_close(&s->output, result);
    vmsm_destroy(s->vmsm);
    free(s->runs);
    close(fd);
    return result;
}

static const char help[] =
    "usage: sortlines [--memory SIZE] [--set NAME=VALUE]... [--plain] INPUT OUTPUT\n"
    "Sort the lines of INPUT by bytes, as LC_ALL=C sort does, into OUTPUT.\n"
    "  --memory SIZE     physical memory to use (256M); K, M, G, T; at least 256K, or 64K with\n"
    "                    --plain\n"
    "  --set NAME=VALUE  an option of the memory manager, such as pagefile=/big/disk/file\n"
    "  --plain           ordinary memory instead of managed memory\n"
    "Status: 0, or 2 if anything failed; then OUTPUT is as it was.\n";

static _Noreturn void usage_fail(const char *what, const char *value)
{
    fprintf(stderr, "sortlines: %s%s\n", what, value);
    fputs("Try `sortlines --help`.\n", stderr);
    exit(STATUS_FAILED);
}

static uint64_t size_parse(const char *text)
{
    static const char units[] = "KMGT";
    char *end;
    double value = strtod(text, &end);
    const char *unit = end != text && *end != '\0' ? strchr(units, *end) : NULL;

    if (unit != NULL) {
        value *= (double)(UINT64_C(1024) << (10 * (unit - units)));
        end++;
    }
    if (end == text || *end != '\0' || !(value >= (double)MEMORY_MIN && value <= 0x1p46))
        usage_fail("--memory must be a size from 256K (64K with --plain) to 64T, such as 256M, "
                   "not ",
                   text);
    return (uint64_t)value;
}

static void setting_add(char *settings, size_t size, const char *text)
{
    size_t used = strlen(settings);
    const char *equals = strchr(text, '=');

    if (equals == NULL || strchr(text, ',') != NULL || used + strlen(text) + 2 > size)
        usage_fail("--set takes name=value, without a comma, not ", text);
    if (strncmp(text, "memory=", 7) == 0)
        usage_fail("the run's size follows from the memory, so use --memory, not --set ", text);
    if (strcmp(text, "mapper=soft") == 0)
        usage_fail("the lines are reached through pointers, which does not work with ", text);
    snprintf(settings + used, size - used, ",%.*s:%s", (int)(equals - text), text, equals + 1);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"memory", required_argument, NULL, 'm'},
        {"set", required_argument, NULL, 's'},
        {"plain", no_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct sorter s = {.memory = 256 * MIB, .output.fd = -1};
    char settings[CONF_MAX] = "";
    bool plain = false;
    int letter;

    while ((letter = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (letter == 'm') {
            s.memory = size_parse(optarg);
        } else if (letter == 's') {
            setting_add(settings, sizeof(settings), optarg);
        } else if (letter == 'p') {
            plain = true;
        } else if (letter == 'h') {
            fputs(help, stdout);
            return 0;
        } else {
            usage_fail("the options are --memory, --set, --plain and --help", "");
        }
    }
    if (argc == 1) {
        fputs(help, stderr);
        return STATUS_FAILED;
    }
    if (argc - optind < 2)
        usage_fail("needs INPUT and OUTPUT", "");
    if (argc - optind > 2)
        usage_fail("one INPUT and one OUTPUT are all that it takes; there is no place for ",
                   argv[optind + 2]);
    if (!plain && s.memory < MEMORY_MIN_MANAGED)
        usage_fail("--memory must be at least 256K, unless with --plain", "");
    s.path = argv[optind];
    s.output.path = argv[optind + 1];
    return file_sort(&s, plain, settings) == 0 ? 0 : STATUS_FAILED;
}
