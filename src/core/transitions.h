/*
 * Every transition of a page and of a frame, and the function that makes it.
 *
 * The rows are what debug builds check: pte_release(), pte_cas() and frame_set_state() abort on a
 * change that is no row. tests/test_core_transitions.c drives a machine through each of them.
 *
 * X(NAME, from, to, "function", "when")
 *
 * Pages: from and to are the PTE's formats. The function is "who sets BUSY > who releases it"; one
 * name alone does both. AGE and STREAM change flags of a page that nobody is busy with, by one
 * compare-and-swap, without BUSY. A row that ends where it began changes flags, or nothing.
 */
#ifndef VMSM_CORE_TRANSITIONS_H
#define VMSM_CORE_TRANSITIONS_H

/* clang-format off */
#define PTE_TRANSITIONS(X)                                                                         \
    X(TOUCH,              UNTOUCHED,  VALID,      "own_untouched > touch_run; own > touch_section",  \
      "first touch, map-ahead")                                                                    \
    X(TOUCH_FAILED,       UNTOUCHED,  UNTOUCHED,  "own_untouched > touch_run",                     \
      "the system had no page: the fault is tried again")                                          \
    X(RESCUE,             TRANSITION, VALID,      "rescue",                                        \
      "soft fault, or ahead of need: from standby, from modified, while being written")            \
    X(RESCUE_FAILED,      TRANSITION, TRANSITION, "rescue > rescue_undo",                          \
      "the system had no page: the fault is tried again")                                          \
    X(READ,               PAGEFILE,   VALID,                                                       \
      "fault_read_begin, read_ahead, fault_begin_run > read_map; own > large_read_finish",         \
      "hard fault, read-ahead, prefault")                                                          \
    X(READ_GIVEN_UP,      PAGEFILE,   PAGEFILE,                                                    \
      "fault_read_begin, read_ahead, fault_begin_run > give_up_pages",                             \
      "too many pieces, no staging, or the system had no page")                                    \
    X(READ_FAILED,        PAGEFILE,   PAGEFILE,                                                    \
      "fault_read_begin, read_ahead, fault_begin_run > read_failed",                               \
      "unreadable, or not what was written: BAD if it was asked for, SIGBUS")                      \
    X(GIVE_UP_UNTOUCHED,  UNTOUCHED,  UNTOUCHED,  "fault_give_up",                                 \
      "no frame for too long: BAD, SIGBUS")                                                        \
    X(GIVE_UP_TRANSITION, TRANSITION, TRANSITION, "fault_give_up",                                 \
      "no frame for too long to map it: BAD, SIGBUS")                                              \
    X(GIVE_UP_PAGEFILE,   PAGEFILE,   PAGEFILE,   "fault_give_up",                                 \
      "no frame for too long: BAD, SIGBUS")                                                        \
    X(WRITE,              VALID,      VALID,      "fault_valid",                                   \
      "first write to a protected page")                                                           \
    X(UNPROTECT,          VALID,      VALID,      "own_valid > lift_from, protect_settle",                         \
      "a page before it was written, in a section where many are")                                 \
    X(ACCESS,             VALID,      VALID,      "access_try",                                    \
      "an access through the software MMU")                                                        \
    X(AGE,                VALID,      VALID,      "age_page, age_pages",                           \
      "ageing pass, advice: ACCESSED and the age change")                                          \
    X(STREAM,             VALID,      VALID,      "mark_used",                                     \
      "a stream has gone on past a page that was mapped ahead")                                    \
    X(PIN,                VALID,      VALID,      "try_pin",                                       \
      "pinned")                                                                                    \
    X(UNPIN,              VALID,      VALID,      "unpin_page",                                    \
      "a pin taken off")                                                                           \
    X(RECLAIM,            VALID,      VALID,      "pagefile_reclaim",                              \
      "a valid page gives up its slot")                                                            \
    X(TRIM,               VALID,      TRANSITION, "trim_collect > trim_release",                   \
      "trimmed")                                                                                   \
    X(TRIM_ZERO,          VALID,      UNTOUCHED,  "trim_collect > trim_release",                   \
      "trimmed, all zero")                                                                         \
    X(TRIM_AT_ONCE,       VALID,      PAGEFILE,   "trim_collect > trim_release",                   \
      "trimmed, and still PROTECTED: its slot has the content; or own > leave: a large section")   \
    X(TRIM_UNDONE,        VALID,      VALID,      "trim_collect > trim_release",                   \
      "wanted meanwhile, or a device uses it")                                                     \
    X(REPURPOSE,          TRANSITION, PAGEFILE,   "refill_claim > repurpose",                      \
      "its standby frame is taken")                                                                \
    X(DISCARD_VALID,      VALID,      UNTOUCHED,  "region_discard_page > discard_flush",           \
      "decommit, unmap")                                                                           \
    X(DISCARD_TRANSITION, TRANSITION, UNTOUCHED,  "region_discard_page > discard_flush",           \
      "decommit, unmap")                                                                           \
    X(DISCARD_PAGEFILE,   PAGEFILE,   UNTOUCHED,  "region_discard_page > discard_flush",           \
      "decommit, unmap")                                                                           \
    X(DISCARD_BAD,        UNTOUCHED,  UNTOUCHED,  "region_discard_page > discard_flush",           \
      "decommit, unmap of a page that was given up")

/*
 * Frames: from and to are states, the function is the one that decides. It is called with the
 * frame's lock held. A frame on a list changes its state in the same step that takes it off or
 * puts it on.
 */
#define FRAME_TRANSITIONS(X)                                                                       \
    X(TAKE_FREE,          FREE,       TRANSIT,    "frame_take",                                    \
      "first touch, read")                                                                         \
    X(TAKE_ZERO,          ZERO,       TRANSIT,    "frame_take",                                    \
      "first touch, read")                                                                         \
    X(ZERO_BEGIN,         FREE,       TRANSIT,    "zero_step",                                     \
      "to be zeroed")                                                                              \
    X(ZERO_END,           TRANSIT,    ZERO,       "zero_step",                                     \
      "zeroed")                                                                                    \
    X(ATTACH,             TRANSIT,    ACTIVE,     "frame_attach",                                  \
      "mapped by a first touch or a read")                                                         \
    X(TRIM_CLEAN,         ACTIVE,     STANDBY,    "push_clean",                                    \
      "trimmed, its slot has the same content")                                                    \
    X(TRIM_CHANGED,       ACTIVE,     MODIFIED,   "trim_publish",                                  \
      "trimmed, and the only copy")                                                                \
    X(DETACH,             ACTIVE,     TRANSIT,    "frame_free",                                    \
      "trimmed and all zero, or still PROTECTED; decommit, unmap")                                 \
    X(WRITE_BEGIN,        MODIFIED,   WRITING,    "collect",                                       \
      "taken by the writer")                                                                       \
    X(WRITE_DONE,         WRITING,    STANDBY,    "return_items",                                  \
      "written")                                                                                   \
    X(WRITE_FAILED,       WRITING,    MODIFIED,   "return_items, put_back",                        \
      "not written, or no slot for it")                                                            \
    X(RESCUE_STANDBY,     STANDBY,    TRANSIT,    "rescue",                                        \
      "soft fault")                                                                                \
    X(RESCUE_MODIFIED,    MODIFIED,   TRANSIT,    "rescue",                                        \
      "soft fault")                                                                                \
    X(RESCUE_WRITING,     WRITING,    TRANSIT,    "rescue",                                        \
      "soft fault: the writer finds that it has lost the page")                                    \
    X(RESCUED,            TRANSIT,    ACTIVE,     "rescue",                                        \
      "mapped again")                                                                              \
    X(RESCUE_UNDO_CLEAN,  TRANSIT,    STANDBY,    "rescue_undo",                                   \
      "the system had no page; the slot has the content")                                          \
    X(RESCUE_UNDO_CHANGED, TRANSIT,   MODIFIED,   "rescue_undo",                                   \
      "the system had no page; the only copy")                                                     \
    X(REPURPOSE,          STANDBY,    TRANSIT,    "refill_standby",                                \
      "taken for another page")                                                                    \
    X(DISCARD_STANDBY,    STANDBY,    TRANSIT,    "region_discard_page",                           \
      "decommit, unmap")                                                                           \
    X(DISCARD_MODIFIED,   MODIFIED,   TRANSIT,    "region_discard_page",                           \
      "decommit, unmap")                                                                           \
    X(DISCARD_WRITING,    WRITING,    TRANSIT,    "region_discard_page",                           \
      "decommit, unmap: the writer finds that it has lost the page")                               \
    X(FREED,              TRANSIT,    FREE,       "frame_free, frames_init",                       \
      "not needed, repurposed, discarded; the machine is made")
/* clang-format on */

#endif
