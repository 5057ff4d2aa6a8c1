/*
 * The protocol of pages and frames, for spin: who owns a page, a frame and a slot, and where the
 * content is. docs/testing.md, "The model", says what is modelled and what is not; scripts/model.sh
 * checks this file in several worlds, and with defects planted.
 *
 * The machine has a mapper with a cache, workers, and kept slots that are compared by hash. Each
 * compare-and-swap, each section under a lock, each call of the mapper and each end of I/O is one
 * step; a compare-and-swap that fails and is tried again from the load is a wait. A page's format
 * and a frame's state change only through the macros made of src/core/transitions.h.
 *
 * The content of a place is the number of the page, plus 1, whose last written content it has, or
 * NOTHING: a write makes all other copies of that page NOTHING.
 */
#ifndef PAGES
#define PAGES 2
#endif
#ifndef ACTIVE_MAX
#define ACTIVE_MAX 1 /* rights: frames that may be Active */
#endif
#ifndef BUFFERS
#define BUFFERS 1 /* of the cache */
#endif
#define FRAMES (ACTIVE_MAX + BUFFERS)
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef DEPTH
#define DEPTH 1 /* write batches in flight, of one page each */
#endif
#ifndef THREADS
#define THREADS 2
#endif
#ifndef FAULTS
#define FAULTS 2 /* of each thread */
#endif
#ifndef DISCARDS
#define DISCARDS 1
#endif
#ifndef MORE
#define MORE FAULTS /* of the second thread */
#endif
#define ENDLESS 99 /* faults or discards */
#ifndef REFUSALS
#define REFUSALS 0 /* how often the system has no page for a mapping */
#endif
#ifndef WRITE_ERRORS
#define WRITE_ERRORS 0
#endif
/*
 * With FINE every step stands alone. Without, steps are joined whose order with those of others
 * makes no difference: a load with the compare-and-swap or the taking of a right that follows, what
 * a process does to what it alone owns with the next step that others see, and what only gives
 * something back (a right, a buffer, a slot, a wake) with the step before.
 */
#ifdef FINE
#define JOINED
#else
#define JOINED atomic
#endif

#define SLEEPERS (THREADS + 1) /* the discarder is the last */
#define LOW 2                  /* the least mark that the trimmer knows */

#define NOTHING 0
#define CONTENT(p) ((p) + 1)
#define NONE 255

/* Workers, by their mark in `kicked`. */
#define TRIMMER 0
#define WRITER 1
#define REFILLER 2
#define NOBODY 3

/* Marks in `wanted`, and how a thread sleeps. */
#define AWAKE 0
#define TRAP 1 /* in its fault */
#define PARK 2 /* on the PTE */

/* The PTE. */
byte pte_format[PAGES] = PTE_UNTOUCHED;
byte pte_number[PAGES]; /* frame or slot */
bool busy[PAGES];
byte wanted[PAGES];

/* The frame. */
byte frame_state[FRAMES] = FRAME_TRANSIT;
byte frame_page[FRAMES] = NONE;
byte frame_slot[FRAMES] = NONE;
byte frame_buffer[FRAMES] = NONE;
bool locked[FRAMES]; /* by a section that is more than one step */

/* Rights, bitmaps. */
byte available = ACTIVE_MAX;
byte cache_room = BUFFERS;
bool buffer_used[BUFFERS];
bool slot_used[SLOTS];

/* What the processor sees: is it mapped, and protected against writes? */
bool mapped[PAGES];
bool protected[PAGES];

/* Content: ghosts. */
bool zero[PAGES] = true; /* what was last written are zeroes */
byte at_address[PAGES];
byte in_buffer[BUFFERS];
byte in_slot[SLOTS];
byte in_batch[DEPTH];

/* Waiting. */
byte asleep[SLEEPERS];
byte asleep_at[SLEEPERS];
#ifdef KICKS
bool prepared[THREADS]; /* waits for a frame, or is about to */
bool signalled[THREADS];
bool kicked[3];
#endif
byte served; /* threads that have had all their faults */
bool discarded = (DISCARDS == 0);

byte refusals = REFUSALS;
byte write_errors = WRITE_ERRORS;
byte writes_in_flight;

#if FRAMES == 2
#define SOME_FRAME(state) (frame_state[0] == state || frame_state[1] == state)
#elif FRAMES == 3
#define SOME_FRAME(state)                                                                          \
    (frame_state[0] == state || frame_state[1] == state || frame_state[2] == state)
#endif
#if BUFFERS == 1
#define BUFFER_FREE !buffer_used[0]
#elif BUFFERS == 2
#define BUFFER_FREE (!buffer_used[0] || !buffer_used[1])
#endif
#define IS(p, format, number) (pte_format[p] == format && pte_number[p] == number)
#define VICTIM(p) (!busy[p] && pte_format[p] == PTE_VALID)

/* ---- content ---- */

inline content_lost(p)
{
    for (g : 0 .. BUFFERS - 1) {
        if
        :: in_buffer[g] == CONTENT(p) -> in_buffer[g] = NOTHING
        :: else
        fi
    }
    for (g : 0 .. SLOTS - 1) {
        if
        :: in_slot[g] == CONTENT(p) -> in_slot[g] = NOTHING
        :: else
        fi
    }
    for (g : 0 .. DEPTH - 1) {
        if
        :: in_batch[g] == CONTENT(p) -> in_batch[g] = NOTHING
        :: else
        fi
    }
    at_address[p] = NOTHING;
    g = 0
}

/* The page's content is given back: from here on it is zeroes. */
inline content_discarded(p)
{
    content_lost(p);
    zero[p] = true
}

/* ---- sleeping and waking ---- */

inline wake_sleepers(p, how)
{
    for (g : 0 .. SLEEPERS - 1) {
        if
        :: asleep[g] == how && asleep_at[g] == p -> asleep[g] = AWAKE; asleep_at[g] = 0
        :: else
        fi
    }
    g = 0
}

/* pte_release(): one exchange, then the wakes that its marks ask for. */
#define RELEASE(p, move, number)                                                                   \
    JOINED {                                                                                       \
        d_step {                                                                                   \
            assert(busy[p]);                                                                       \
            move(p);                                                                               \
            pte_number[p] = number;                                                                \
            busy[p] = false;                                                                       \
            woken = wanted[p];                                                                     \
            wanted[p] = 0                                                                          \
        };                                                                                         \
        WAKE_WANTED(p)                                                                             \
    }
#ifdef MUTANT_WAKE_LOST
#define WAKE_WANTED(p) woken = 0
#else
#define WAKE_WANTED(p)                                                                             \
    if                                                                                             \
    :: d_step { woken & TRAP -> wake_sleepers(p, TRAP) }                                           \
    :: !(woken & TRAP)                                                                             \
    fi;                                                                                            \
    if                                                                                             \
    :: d_step { woken & PARK -> wake_sleepers(p, PARK); woken = 0 }                                \
    :: d_step { !(woken & PARK) -> woken = 0 }                                                     \
    fi
#endif

/* pte_wait() by sleeper t. */
inline pte_wait(p, t)
{
    do
    :: atomic { !busy[p] -> break }
    :: JOINED {
            d_step { busy[p] -> wanted[p] = wanted[p] | PARK };
            if
            :: d_step { wanted[p] & PARK -> asleep[t] = PARK; asleep_at[t] = p }
            :: !(wanted[p] & PARK)
            fi
        };
        asleep[t] == AWAKE
    od
}

/*
 * How workers sleep, and threads that wait for a frame. With KICKS as the code does it: kicks where
 * a level has changed, an event, slices of time. Without, whoever sleeps may go on as soon as there
 * is something to do, which allows all that kicks may bring about, and more.
 */
#ifdef KICKS
#define SLEEP(worker, needed)                                                                      \
    atomic { kicked[worker] -> kicked[worker] = false }
#define KICK(worker) kicked[worker] = true

inline frames_signal()
{
    d_step {
        for (g : 0 .. THREADS - 1) {
            signalled[g] = prepared[g]
        }
        g = 0
    }
}

/* machine_balance(): the levels are read one after another, but each worker's only counts for it. */
inline balance(self)
{
    d_step {
        if
        :: available < LOW && self != TRIMMER -> kicked[TRIMMER] = true
        :: else
        fi;
        if
        :: cache_room < 1 && SOME_FRAME(FRAME_STANDBY) && self != REFILLER ->
            kicked[REFILLER] = true
        :: else
        fi;
        if
        :: SOME_FRAME(FRAME_MODIFIED) && self != WRITER -> kicked[WRITER] = true
        :: else
        fi
    }
}

/* frame_wait() */
inline frame_wait(t)
{
    do
    :: available > 0 -> break
    :: available == 0 ->
        d_step { prepared[t] = true; signalled[t] = false };
        balance(NOBODY);
        if
        :: available > 0
        :: available == 0 ->
            if
            :: signalled[t]
#ifndef MUTANT_NO_SLICE
            :: timeout
#endif
            fi
        fi;
        d_step { prepared[t] = false; signalled[t] = false }
    od
}
#else
#define SLEEP(worker, needed) (needed)
#define KICK(worker) skip
#define frames_signal() skip
#define balance(self) skip
#define frame_wait(t) available > 0
#endif

/* ---- frames, buffers, slots ---- */

inline give_available()
{
    JOINED {
        d_step {
            available++;
            assert(available <= ACTIVE_MAX)
        };
        frames_signal()
    }
}

/* A page's PTE or a frame names the slot only as long as it is taken, and one of them only. */
inline slot_take(s)
{
    d_step {
        s = 0;
        do
        :: s < SLOTS && slot_used[s] -> s++
        :: else -> break
        od;
        if
        :: s < SLOTS -> slot_used[s] = true; in_slot[s] = NOTHING
        :: else -> s = NONE
        fi;
        for (g : 0 .. PAGES - 1) {
            assert(s == NONE || busy[g] || !IS(g, PTE_PAGEFILE, s))
        }
        for (g : 0 .. FRAMES - 1) {
            assert(s == NONE || frame_slot[g] != s)
        }
        g = 0
    }
}

inline slot_release(s)
{
    d_step {
        assert(slot_used[s]);
        slot_used[s] = false;
        in_slot[s] = NOTHING
    }
}

/* What a frame says of its slot ends first. */
#define SLOT_GIVE(f)                                                                               \
    if                                                                                             \
    :: frame_slot[f] != NONE ->                                                                    \
        slot_release(frame_slot[f]);                                                               \
        frame_slot[f] = NONE                                                                       \
    :: else                                                                                        \
    fi

/* frame_take(): the right has been reserved, so a frame is on the list or about to be. */
inline frame_take(f)
{
    d_step {
        SOME_FRAME(FRAME_FREE) ->
        f = 0;
        do
        :: frame_state[f] != FRAME_FREE -> f++
        :: else -> break
        od;
        FRAME_MOVE_TAKE_FREE(f);
        for (g : 0 .. PAGES - 1) {
            assert(busy[g] || (!IS(g, PTE_VALID, f) && !IS(g, PTE_TRANSITION, f)))
        }
        g = 0
    }
}

inline frame_attach(f, p, s)
{
    d_step {
        !locked[f] ->
        frame_page[f] = p;
        frame_slot[f] = s;
        FRAME_MOVE_ATTACH(f)
    }
}

/* framelist_remove(): the row depends on the list that it is found on. */
#define REMOVE(f, p, who)                                                                          \
    d_step {                                                                                       \
        !locked[f] ->                                                                              \
        assert(frame_page[f] == p);                                                                \
        if                                                                                         \
        :: frame_state[f] == FRAME_STANDBY -> FRAME_MOVE_##who##_STANDBY(f)                        \
        :: frame_state[f] == FRAME_MODIFIED -> FRAME_MOVE_##who##_MODIFIED(f)                      \
        :: else -> FRAME_MOVE_##who##_WRITING(f); LOSE_SLOT(f)                                     \
        fi                                                                                         \
    }
/* The writer gives the slot back when the write is done. */
#ifdef MUTANT_SLOT_EARLY
#define LOSE_SLOT(f)                                                                               \
    if                                                                                             \
    :: frame_slot[f] != NONE -> slot_used[frame_slot[f]] = false                                   \
    :: else                                                                                        \
    fi;                                                                                            \
    frame_slot[f] = NONE
#else
#define LOSE_SLOT(f) frame_slot[f] = NONE
#endif

inline give_room()
{
    d_step {
        cache_room++;
        assert(cache_room <= BUFFERS)
    }
}

/* The end of a buffer's use: it can be had, then it is counted. */
inline buffer_give(f)
{
    JOINED {
        d_step {
            assert(buffer_used[frame_buffer[f]]);
            buffer_used[frame_buffer[f]] = false;
            in_buffer[frame_buffer[f]] = NOTHING;
            frame_buffer[f] = NONE
        };
        give_room()
    }
}

/* The frame's page is gone: to the free list, and what came with the frame after it. */
inline frame_free(f, was_active)
{
    JOINED {
        d_step {
            !locked[f] ->
            frame_page[f] = NONE;
            frame_slot[f] = NONE;
            if
            :: frame_state[f] == FRAME_ACTIVE -> FRAME_MOVE_DETACH(f)
            :: else
            fi;
            buffer = frame_buffer[f];
            frame_buffer[f] = NONE;
            assert(!was_active || buffer == NONE)
        };
        d_step { !locked[f] -> FRAME_MOVE_FREED(f) };
        if
        :: was_active -> give_available()
        :: else ->
            d_step {
                assert(buffer_used[buffer]);
                buffer_used[buffer] = false;
                in_buffer[buffer] = NOTHING;
                buffer = NONE
            };
            give_room()
        fi
    }
}

/*
 * refill_standby(): take a standby frame whose page nobody is busy with. done: was there one? The
 * frame is locked while its page is tried for.
 */
inline refill_standby(f, p, s, done)
{
    JOINED {
        f = 0;
        do
        :: done || f == FRAMES -> break
        :: else ->
            atomic {
                if
                :: frame_state[f] == FRAME_STANDBY && !locked[f] -> locked[f] = true
                :: frame_state[f] != FRAME_STANDBY -> goto refill_next
                fi
            };
            p = frame_page[f];
#ifdef MUTANT_REFILL_WITHOUT_BUSY
            d_step { busy[p] = true; done = true };
#else
            d_step {
                if
                :: !busy[p] && IS(p, PTE_TRANSITION, f) -> busy[p] = true; done = true
                :: else -> p = 0
                fi
            };
#endif
            if
            :: done ->
                d_step { FRAME_MOVE_REPURPOSE(f); locked[f] = false; s = frame_slot[f] };
                break
            :: else -> locked[f] = false
            fi;
refill_next:
            f++
        od;
        if
        :: !done -> f = 0
        :: else -> assert(s != NONE && in_slot[s] == CONTENT(p))
        fi
    };
    if
    :: done ->
        JOINED {
            RELEASE(p, PTE_MOVE_REPURPOSE, s);
            frame_free(f, false);
            s = NONE;
            p = 0;
            f = 0
        }
    :: else
    fi
}

