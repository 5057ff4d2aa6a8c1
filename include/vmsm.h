/*
 * vmsm: a virtual memory manager in user space.
 *
 * A manager (struct vmsm) owns a budget of physical page frames and a
 * pagefile. Memory mapped through it may be many times larger than the
 * budget: pages move between frames and the pagefile as they are used, and
 * nothing is lost. The memory is ordinary memory: load and store through
 * pointers, pass it to system calls, share it among threads.
 *
 * Glossary
 *   page       4096 bytes of managed virtual memory
 *   frame      4096 bytes of the budget; holds one page, or nothing
 *   slot       4096 bytes of the pagefile; holds the last written content
 *   region     a range of addresses that vmsm_map() returned
 *   first touch, soft fault, hard fault
 *              a fault on a page that never had content; on one whose content
 *              is still in a frame; on one that must be read from its slot
 *   trim       take a page from under its address, content kept in the cache
 *   standby    trimmed, equal to its slot: the frame can be taken at once
 *   modified   trimmed, newer than its slot: must be written first
 *   commit     the promise, made at vmsm_map(), that there is room (frames
 *              and slots) for every page of a region
 *
 * The budget
 *   Buffers come off the setting `memory` first: the writer's (a 64th, or 64 pages where that is
 *   no more than a sixteenth) and, with the mapper copy, a quarter of staging (which is a
 *   sixteenth, 8 MiB at most). What is left is frames_total. With the mapper copy `cache` percent
 *   of the frames (12) are for trimmed pages, and the other three quarters of staging count as
 *   frames; but most of both is lent to mapped pages while nothing else needs it. At most seven
 *   eighths of the frames that are for mapped pages in any case can be pinned. With memory:16M that
 *   is 4096 pages, 3968 frames, 3300 to 3844 of them for mapped pages, 2887 for pinned ones.
 *   commit_limit is three quarters of the frames (the rest stays free, so that pages can always
 *   move) and all usable slots: slots_total less slots_bad. With memory:8M,pagefile_size:16M:
 *   1464 of 1952 frames and 4095 slots (slot 0 holds no page), 5559 pages, 21 MiB. A pagefile
 *   without a pagefile_size grows with what is mapped, to one and a half times as much if the disk
 *   has room.
 *
 * Every function that returns int returns 0 or a negative errno; the words
 * for this thread's last failure are in vmsm_last_error(). All functions may
 * be called from any thread at any time, except that a manager must not be
 * used during or after its vmsm_destroy(). None may be called from a signal
 * handler, and a signal handler that can interrupt one must not touch managed
 * memory. None is a cancellation point, and neither is a fault: a thread that has been cancelled
 * ends after it. The program must not madvise(), mremap() or munmap() managed memory itself,
 * nor let the kernel merge it (prctl(PR_SET_MEMORY_MERGE) after vmsm_map()): writes would be lost;
 * mlock() does not keep it in frames, vmsm_pin() does.
 */
#ifndef VMSM_H
#define VMSM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VMSM_VERSION "0.1.0"
#define VMSM_PAGE_SIZE 4096

#if defined(__GNUC__)
#define VMSM_API __attribute__((visibility("default")))
#else
#define VMSM_API
#endif

struct vmsm; /* a manager; opaque */

/*
 * Every counter, defined once: X(name, kind, help).
 * kind is COUNT (grows for ever) or GAUGE (a level now).
 */
#define VMSM_COUNTERS(X)                                                                           \
    X(faults_first_touch, COUNT, "faults on pages that never had content")                         \
    X(faults_standby, COUNT, "faults that rescued a page from standby")                            \
    X(faults_modified, COUNT, "faults that rescued a page from modified")                          \
    X(faults_writing, COUNT, "faults that rescued a page while it was being written")              \
    X(faults_hard, COUNT, "faults that read the pagefile")                                         \
    X(faults_busy, COUNT, "faults on a page that another thread was busy with")                    \
    X(faults_protect, COUNT, "faults that only had to lift a write protection")                    \
    X(faults_stale, COUNT, "faults on pages that were valid already")                              \
    X(faults_failed, COUNT, "faults that ended in SIGBUS")                                         \
    X(fault_waits, COUNT, "times that a fault had to wait for a frame")                            \
    X(fault_wait_ns, COUNT, "time that faults waited for frames, ns")                              \
    X(pages_first_touch, COUNT, "pages mapped full of zeroes, mapped-ahead ones included")         \
    X(pages_read, COUNT, "pages read from the pagefile, read-ahead included")                      \
    X(pages_read_large, COUNT, "of those, by whole sections, into huge pages")                     \
    X(pages_written, COUNT, "pages written to the pagefile")                                       \
    X(pages_written_large, COUNT, "of those, by whole sections, out of huge pages")                \
    X(pages_trimmed, COUNT, "pages taken from under their address")                                \
    X(pages_trimmed_clean, COUNT, "of those, equal to their slot: straight to standby")            \
    X(pages_trimmed_zero, COUNT, "of those, all zero: given back without a slot")                  \
    X(pages_trimmed_at_once, COUNT,                                                                \
      "of the clean ones, protected since they were read: dropped without a look")                 \
    X(pages_trimmed_joined, COUNT,                                                                 \
      "of those, modified only because changed neighbours are: they equal their slot")             \
    X(pages_trimmed_large, COUNT, "of those, by whole sections, as huge pages")                    \
    X(pages_large, COUNT, "pages mapped as parts of huge pages")                                   \
    X(large_splits, COUNT, "huge pages split into small ones")                                     \
    X(pages_trim_undone, COUNT, "trims given up, the page being in use or pinned")                 \
    X(pages_repurposed, COUNT, "standby frames taken for another use")                             \
    X(pages_zeroed, COUNT, "frames zeroed ahead of need")                                          \
    X(pages_decommitted, COUNT, "pages given back by decommit and unmap")                          \
    X(pages_lost, COUNT, "pages whose content could not be read back")                             \
    X(readahead_pages, COUNT, "pages mapped before they were asked for")                           \
    X(pages_rescued_ahead, COUNT, "of those, trimmed, and still in their frames")                  \
    X(readahead_hits, COUNT, "of those, known to have been used")                                  \
    X(readahead_waste, COUNT, "of those, trimmed without a sign of use")                           \
    X(map_calls, COUNT, "calls that put pages under addresses")                                    \
    X(trim_batches, COUNT, "sections trimmed")                                                     \
    X(trim_behind, COUNT, "pages offered by trim-behind of sequential readers")                    \
    X(tlb_flushes, COUNT, "calls that flush the TLB (protect, drop, move), estimated")             \
    X(ageing_passes, COUNT, "times that the ager went over all valid pages")                       \
    X(read_ios, COUNT, "reads sent to the pagefile")                                               \
    X(read_submits, COUNT, "times that reads were handed to it, one or more together")             \
    X(write_ios, COUNT, "writes sent to the pagefile")                                             \
    X(write_batches, COUNT, "batches of modified pages written")                                   \
    X(read_retries, COUNT, "reads repeated after an error or a hash that differed")                \
    X(read_errors, COUNT, "reads that failed for good")                                            \
    X(write_errors, COUNT, "writes that failed; the pages were kept")                              \
    X(decrypt_errors, COUNT, "reads from an encrypted pagefile that did not decrypt")              \
    X(hash_errors, COUNT, "pages read whose content was not what was written")                     \
    X(slots_released, COUNT, "slots given back")                                                   \
    X(slots_reclaimed, COUNT, "slots taken back from valid pages because slots ran out")           \
    X(frames_total, GAUGE, "frames: the budget less the writer's buffers and least staging")       \
    X(frames_active, GAUGE, "frames under an address, or being read into")                         \
    X(frames_standby, GAUGE, "frames on standby")                                                  \
    X(frames_modified, GAUGE, "frames on modified")                                                \
    X(frames_writing, GAUGE, "frames being written")                                               \
    X(frames_free, GAUGE, "frames on the free list")                                               \
    X(frames_zero, GAUGE, "frames on the zero list")                                               \
    X(frames_available, GAUGE, "frames that a fault can have at once")                             \
    X(slots_total, GAUGE, "usable slots in the pagefile")                                          \
    X(slots_used, GAUGE, "slots in use")                                                           \
    X(slots_bad, GAUGE, "slots withdrawn after failed writes")                                     \
    X(commit_pages, GAUGE, "pages promised to regions")                                            \
    X(commit_limit, GAUGE, "pages that can be promised")                                           \
    X(mapped_pages, GAUGE, "pages of all regions")                                                 \
    X(pinned_pages, GAUGE, "pages pinned")                                                         \
    X(touched_pages, GAUGE, "pages with content, in a frame or a slot")                            \
    X(metadata_bytes, GAUGE, "memory of the core's tables, as far as they are populated")          \
    X(metadata_page_bytes, GAUGE, "of that, what grows with the pages: page tables, slots")

struct vmsm_counters {
#define VMSM_COUNTER_FIELD(name, kind, help) uint64_t name;
    VMSM_COUNTERS(VMSM_COUNTER_FIELD)
#undef VMSM_COUNTER_FIELD
};

enum vmsm_advice {
    VMSM_NORMAL,     /* detect what the program does */
    VMSM_RANDOM,     /* no read-ahead */
    VMSM_SEQUENTIAL, /* large read-ahead at once, trim behind */
    VMSM_WILLNEED,   /* read the range now, without waiting for it to be used */
    VMSM_DONTNEED,   /* the range will not be used soon: trim it first. Content is kept. */
};

/*
 * Make a manager. conf is "name:value,name:value,…" with the names that
 * `vmsm --show-settings` lists (memory, pagefile, pagefile_size, mapper, trap, …; '-' may stand for
 * '_', as in the options of `vmsm sim --help`);
 * NULL or "" is all defaults. VMSM_CONF in the environment is read first.
 * The pagefile is scratch space: what is in it is worth nothing to a later manager. A file that
 * was made is removed by vmsm_destroy(); a file or device that was there before is kept (grown, if
 * it had to, and with leftovers of pages). It must be empty, all hole, or a pagefile: anything else
 * is refused, unless pagefile_force is on.
 *   -EINVAL   a name or value is wrong
 *   -ERANGE   a value is out of range
 *   -ENOSYS   the kernel lacks what the mapper needs
 *   -EPERM    the user may not use userfaultfd
 *   -ENOENT, -EACCES, -EROFS, -EISDIR, -ENOSPC, -EBUSY, …
 *             the pagefile cannot be made, is used by another manager, or does not fit
 *   -EEXIST   the file or device named as pagefile holds something else; it is left as it is
 *   -EMFILE   too few file descriptors
 *   -ENOMEM   no memory or address space for the tables
 */
VMSM_API int vmsm_create(struct vmsm **m, const char *conf);

/* Unmap all that is left and free the manager. NULL is allowed. */
VMSM_API void vmsm_destroy(struct vmsm *m);

/*
 * Map length bytes (rounded up to pages) of zeroes; *addr is page-aligned.
 *   -EINVAL  length is 0 or too large
 *   -ENOMEM  the commit does not fit (commit_limit: see "The budget"), no address space, or 4096
 *            regions already
 *   -ENOSPC  the pagefile had to grow for the commit and the disk is full
 */
VMSM_API int vmsm_map(struct vmsm *m, size_t length, void **addr);

/*
 * As vmsm_map(), but the commit is charged page by page as the region is
 * touched: for sparse data in a vast range. When the commit limit is reached,
 * the touch of a new page raises SIGBUS; nothing that exists is lost.
 */
VMSM_API int vmsm_reserve(struct vmsm *m, size_t length, void **addr);

/*
 * Unmap any page-aligned part of a region.
 *   -EINVAL  not aligned, length 0, or the range is not wholly mapped by m
 *   -EBUSY   a page in it is pinned
 *   -ENOMEM  the middle of a region, so that two would be left, while there are 4096; no memory; or
 *            the kernel cannot split its mapping (vm.max_map_count). What was not unmapped is as it
 *            was: only regions before the one that failed are gone
 */
VMSM_API int vmsm_unmap(struct vmsm *m, void *addr, size_t length);

/*
 * Drop the content of a range: it reads as zeroes again. Errors as vmsm_unmap(), and
 *   -EBUSY   also if the kernel does not give up pages that the program has locked (mlock(), before
 *            Linux 5.18): those keep their content
 */
VMSM_API int vmsm_decommit(struct vmsm *m, void *addr, size_t length);

/*
 * Bring ranges into memory, all their reads in flight at once; returns when
 * they have been mapped. Ranges are widened to whole pages. Pages that are
 * brought in may be trimmed again at any time if the ranges exceed the budget.
 *   -EINVAL  count is negative or a range is not wholly mapped by m
 *   -EIO     at least one page could not be read; the others were
 */
VMSM_API int vmsm_prefault(struct vmsm *m, const struct iovec *ranges, int count);

/* Say how a page-aligned range will be used. -EINVAL: bad range or advice. */
VMSM_API int vmsm_advise(struct vmsm *m, void *addr, size_t length, enum vmsm_advice advice);

/*
 * Keep a range in its frames until vmsm_unpin(); pins nest, up to 65535.
 * Memory under asynchronous direct I/O must be pinned (mapper copy).
 *   -EINVAL  bad range (or, for unpin, a page in it is not pinned)
 *   -ENOMEM  too much would be pinned: an eighth of the frames that are for mapped pages in any
 *            case (see "The budget") must stay free
 *   -EIO     a page could not be read
 *   -EOVERFLOW  a page is pinned 65535 times already
 */
VMSM_API int vmsm_pin(struct vmsm *m, void *addr, size_t length);
VMSM_API int vmsm_unpin(struct vmsm *m, void *addr, size_t length);

/* Read all counters, without stopping anything. Always 0. */
VMSM_API int vmsm_get_counters(struct vmsm *m, struct vmsm_counters *out);

/*
 * Stop the machine for a moment and check that its books balance: every
 * frame in one state, every list whole, every slot owned once.
 *   -EUCLEAN  they do not; what is wrong has been logged
 */
VMSM_API int vmsm_check(struct vmsm *m);

/*
 * Copy to or from managed memory by explicit calls. With the mapper soft, or trap none, this is
 * the only way to reach it (with trap none a thread that touches a page that is not there sleeps
 * until it is unmapped); else it is the same as memcpy.
 *   -EINVAL  the range is not wholly mapped by m
 *   -EIO     a page could not be read (mapper soft, trap none)
 */
VMSM_API int vmsm_read(struct vmsm *m, const void *addr, void *buffer, size_t length);
VMSM_API int vmsm_write(struct vmsm *m, void *addr, const void *buffer, size_t length);

/* This thread's last failure in words; "" if there was none. Never NULL. */
VMSM_API const char *vmsm_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
