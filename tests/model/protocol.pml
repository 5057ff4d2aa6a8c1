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

/* ---- faulting threads ---- */

/* An access finds the page: a read reads what was last written, a write changes that. */
inline access(p, write)
{
    assert(at_address[p] == CONTENT(p));
    if
    :: write ->
        content_lost(p);
        zero[p] = false;
        at_address[p] = CONTENT(p)
    :: else
    fi
}

/* pte_try_busy() on a word that has been loaded before; otherwise `lost`. */
#define TRY_BUSY(p, format, number, lost)                                                          \
    if                                                                                             \
    :: d_step { !busy[p] && IS(p, format, number) -> busy[p] = true }                              \
    :: !(!busy[p] && IS(p, format, number)) -> lost                                                \
    fi

/* Take a right for a frame, and kick the trimmer if few are left. */
inline frame_reserve()
{
    atomic {
        if
        :: available > 0 -> available--
        :: else -> KICK(TRIMMER); goto no_frame
        fi;
        if
        :: available < LOW -> KICK(TRIMMER)
        :: else
        fi
    }
}

/* The system may have no page for the mapping. */
#define MAP(p, content, failed)                                                                    \
    atomic {                                                                                       \
        if                                                                                         \
        :: true ->                                                                                 \
            assert(!mapped[p]);                                                                    \
            assert(content);                                                                       \
            mapped[p] = true;                                                                      \
            protected[p] = false;                                                                  \
            at_address[p] = CONTENT(p);                                                            \
            wake_sleepers(p, TRAP)                                                                 \
        :: refusals > 0 -> refusals--; goto failed                                                 \
        fi                                                                                         \
    }

/* Reserve, then own the page; the defect is the other order. */
#ifdef MUTANT_RESERVE_LATE
#define RESERVE KICK(TRIMMER)
#define RESERVE_LATE                                                                               \
    d_step { available > 0 -> available-- }
#define LOST changed
#else
#define RESERVE frame_reserve()
#define RESERVE_LATE true
#define LOST lost
#endif

#define HIT (mapped[p] && (!write || !protected[p]))

proctype thread(byte t, left; bool trap)
{
    byte p, f = NONE, s = NONE, buffer = NONE, woken, g;
    bool write, write_fault;

choose:
    atomic {
        if
        :: FAULTS != ENDLESS && left > 0 -> left--
        :: FAULTS == ENDLESS
        :: FAULTS != ENDLESS && left == 0 -> goto out
        fi;
        if
        :: p = 0
        :: p = 1
        fi;
        if
        :: write = true
        :: write = false
        fi;
        goto touch_memory
    };

again:
    skip;
touch_memory:
    atomic {
        if
        :: HIT -> access(p, write); goto served_one
        :: else ->
            write_fault = mapped[p];
            if
            :: trap -> asleep[t] = TRAP; asleep_at[t] = p
            :: else
            fi
        fi
    };

    /* fault_dispatch() */
look:
    JOINED {
        if
        :: atomic { busy[p] && trap -> wanted[p] = wanted[p] | TRAP; goto sleep }
        :: atomic { busy[p] && !trap -> goto wait_busy }
        :: d_step { !busy[p] && pte_format[p] == PTE_VALID -> f = pte_number[p] }
            /* fault_valid() */
            if
            :: !write_fault && trap -> d_step { wake_sleepers(p, TRAP) }; goto done
            :: !write_fault && !trap -> goto done
            :: write_fault
            fi;
            TRY_BUSY(p, PTE_VALID, f, goto changed);
            goto write_protected
        :: d_step { !busy[p] && pte_format[p] == PTE_TRANSITION -> f = pte_number[p] }
            RESERVE;
            goto rescue
        :: d_step { !busy[p] && pte_format[p] == PTE_PAGEFILE -> s = pte_number[p] }
            RESERVE;
            goto read
        :: d_step { !busy[p] && pte_format[p] == PTE_UNTOUCHED -> skip }
            RESERVE;
            goto touch
        fi
    };

write_protected:
    JOINED {
        d_step { protected[p] = false; wake_sleepers(p, TRAP) };
        RELEASE(p, PTE_MOVE_WRITE, f)
    };
    goto done;

touch: /* fault_touch() */
    TRY_BUSY(p, PTE_UNTOUCHED, 0, goto LOST);
    RESERVE_LATE;
    JOINED {
        frame_take(f);
        MAP(p, zero[p], touch_failed);
        frame_attach(f, p, NONE);
        RELEASE(p, PTE_MOVE_TOUCH, f)
    };
    goto done;
touch_failed:
    JOINED {
        frame_free(f, true);
        RELEASE(p, PTE_MOVE_TOUCH_FAILED, 0)
    };
    goto no_frame;

rescue: /* fault_rescue() */
    TRY_BUSY(p, PTE_TRANSITION, f, goto LOST);
    RESERVE_LATE;
    REMOVE(f, p, RESCUE);
    JOINED {
        MAP(p, in_buffer[frame_buffer[f]] == CONTENT(p), rescue_failed);
        buffer_give(f);
        d_step { !locked[f] -> FRAME_MOVE_RESCUED(f) };
        RELEASE(p, PTE_MOVE_RESCUE, f)
    };
    goto done;
rescue_failed:
    atomic {
        !locked[f] ->
        if
        :: frame_slot[f] != NONE -> FRAME_MOVE_RESCUE_UNDO_CLEAN(f)
        :: else -> FRAME_MOVE_RESCUE_UNDO_CHANGED(f)
        fi
    };
    JOINED {
        RELEASE(p, PTE_MOVE_RESCUE_FAILED, f);
        give_available()
    };
    goto no_frame;

read: /* fault_read_begin(), fault_reap() */
    TRY_BUSY(p, PTE_PAGEFILE, s, goto LOST);
    RESERVE_LATE;
    JOINED {
        frame_take(f);
        assert(in_slot[s] == CONTENT(p)); /* the read ends, and its hash is compared */
        MAP(p, true, read_failed);
        frame_attach(f, p, s);
        RELEASE(p, PTE_MOVE_READ, f);
        frames_signal()
    };
    goto done;
read_failed:
    JOINED {
        frame_free(f, true);
        RELEASE(p, PTE_MOVE_READ_GIVEN_UP, s);
        d_step { wake_sleepers(p, TRAP) };
        frames_signal()
    };

done: /* FAULT_DONE: one more try, since it may have been trimmed again */
    atomic {
        !trap || asleep[t] == AWAKE ->
        if
        :: HIT -> access(p, write)
        :: else
        fi;
served_one:
        f = NONE;
        s = NONE;
        p = 0;
        write = false;
        write_fault = false
    };
    goto choose;

sleep: /* the handler has left a mark and gone on */
    asleep[t] == AWAKE;
    goto again;

wait_busy:
    pte_wait(p, t);
    goto look;

lost: /* the page has changed: the right goes back */
    give_available();
changed:
    f = NONE;
    s = NONE;
    goto look;

no_frame:
    f = NONE;
    s = NONE;
    frame_wait(t);
    goto look;

out:
    served++
}

/* ---- the trimmer ---- */

#define UNDO 0
#define ZERO 1
#define CLEAN 2
#define CHANGED 3

/* Protection is why the copy may be joined with what follows. */
#ifdef MUTANT_NO_PROTECTION
#define TAKE_JOINED
#else
#define TAKE_JOINED JOINED
#endif

proctype trimmer()
{
    byte p, q, f, s = NONE, b = NONE, buffer = NONE, woken, g, verdict;
    bool got;

end_sleep:
    SLEEP(TRIMMER, (VICTIM(0) || VICTIM(1)) && (cache_room > 0 || SOME_FRAME(FRAME_STANDBY)));

step: /* trim_step(): trim_need() is never 0 in so small a machine */
    if
    :: cache_room > 0
    :: cache_room == 0 ->
        refill_standby(f, q, s, got);
        if
        :: !got -> goto no_more
        :: else -> got = false
        fi
    fi;
    JOINED {
        atomic { /* cache_reserve() */
            if
            :: cache_room > 0 -> cache_room--
            :: else -> goto no_more
            fi
        };
        atomic { /* trim_collect(): any valid page may be the next of the lap */
            if
            :: VICTIM(0) -> p = 0
            :: VICTIM(1) -> p = 1
            :: else -> goto no_victim
            fi;
            busy[p] = true;
            f = pte_number[p]
        };
        d_step { /* buffer_take() */
            BUFFER_FREE ->
            b = 0;
            do
            :: buffer_used[b] -> b++
            :: else -> break
            od;
            buffer_used[b] = true;
            frame_buffer[f] = b
        };
#ifndef MUTANT_NO_PROTECTION
        protected[p] = true
#endif
    };
    TAKE_JOINED {
        d_step { /* take() */
            assert(mapped[p]);
            in_buffer[b] = at_address[p]
        };
        d_step { /* trim_judge() */
            if
            :: wanted[p] -> verdict = UNDO
            :: else ->
                if
                :: zero[p] -> verdict = ZERO
                :: !zero[p] && frame_slot[f] != NONE && in_slot[frame_slot[f]] == CONTENT(p) &&
                        in_buffer[b] == CONTENT(p) ->
                    verdict = CLEAN
                :: else -> verdict = CHANGED
                fi
            fi;
            b = NONE
        }
    };
#ifdef MUTANT_RELEASE_BEFORE_UNMAP
    if
    :: verdict == CHANGED ->
        d_step { !locked[f] -> FRAME_MOVE_TRIM_CHANGED(f) };
        RELEASE(p, PTE_MOVE_TRIM, f);
        d_step { mapped[p] = false; protected[p] = false; at_address[p] = NOTHING };
        give_available();
        goto trimmed
    :: else
    fi;
#endif
    JOINED {
        if
        :: verdict != UNDO -> /* trim_drop() */
            d_step {
                assert(in_buffer[frame_buffer[f]] == CONTENT(p));
                mapped[p] = false;
                protected[p] = false;
                at_address[p] = NOTHING
            }
        :: else
        fi;
        /* trim_publish(): detach(), then the lists; trim_lift(); trim_release() */
        if
        :: verdict == UNDO ->
            buffer_give(f);
            d_step { protected[p] = false; wake_sleepers(p, TRAP) };
            RELEASE(p, PTE_MOVE_TRIM_UNDONE, f);
            goto no_more
        :: verdict == CLEAN -> d_step { !locked[f] -> FRAME_MOVE_TRIM_CLEAN(f) }
        :: verdict == CHANGED ->
            SLOT_GIVE(f);
            d_step { !locked[f] -> FRAME_MOVE_TRIM_CHANGED(f) }
        :: verdict == ZERO ->
            SLOT_GIVE(f);
            buffer_give(f);
            frame_free(f, true);
            RELEASE(p, PTE_MOVE_TRIM_ZERO, 0);
            goto trimmed
        fi
    };
    JOINED {
        give_available();
        RELEASE(p, PTE_MOVE_TRIM, f)
    };
trimmed:
    skip;
    atomic { balance(TRIMMER); f = 0; p = 0; verdict = UNDO };
    goto step;

no_victim:
    give_room();
no_more:
    skip; /* a jump from one atomic sequence into another would join them */
    atomic { balance(TRIMMER); f = 0; p = 0; verdict = UNDO };
    goto end_sleep
}

/* ---- the writer ---- */

/* pagefile_reclaim(): valid pages give up their slots, of frames that nobody has locked. */
inline reclaim_slot(n, p, s, got)
{
    got = false;
    n = 0;
    do
    :: n == FRAMES -> n = 0; break
    :: n < FRAMES && (frame_state[n] != FRAME_ACTIVE || locked[n]) -> n++
    :: atomic { n < FRAMES && frame_state[n] == FRAME_ACTIVE && !locked[n] -> locked[n] = true }
        p = frame_page[n];
        d_step {
            got = !busy[p] && IS(p, PTE_VALID, n);
            busy[p] = busy[p] || got
        };
        locked[n] = false;
        if
        :: got ->
            s = frame_slot[n];
            frame_slot[n] = NONE;
            RELEASE(p, PTE_MOVE_RECLAIM, n);
            p = 0;
            if
            :: s != NONE -> slot_release(s); s = NONE; n = 0; break
            :: else -> n++; got = false
            fi
        :: else -> n++
        fi
    od
}

proctype writer()
{
    byte f[DEPTH] = NONE, s[DEPTH] = NONE;
    byte p, n, r = NONE, i, woken, g;
    bool kept, failed, withdrawn, got;

end_sleep:
    SLEEP(WRITER, SOME_FRAME(FRAME_MODIFIED));

step:
    if
    :: writes_in_flight > 0 -> goto reap
    :: writes_in_flight < DEPTH
    fi;
    d_step {
        i = 0;
        do
        :: f[i] != NONE -> i++
        :: else -> break
        od
    };
    atomic { /* collect() */
        if
        :: frame_state[0] == FRAME_MODIFIED && !locked[0] -> f[i] = 0
        :: frame_state[1] == FRAME_MODIFIED && !locked[1] -> f[i] = 1
#if FRAMES > 2
        :: frame_state[2] == FRAME_MODIFIED && !locked[2] -> f[i] = 2
#endif
        :: else -> goto nothing
        fi;
        FRAME_MOVE_WRITE_BEGIN(f[i]);
        assert(frame_slot[f[i]] == NONE)
    };
    slot_take(s[i]); /* take_slots() */
    if
    :: s[i] == NONE ->
        reclaim_slot(n, p, r, got);
        if
        :: got -> got = false; slot_take(s[i])
        :: else
        fi
    :: else
    fi;
    if
    :: s[i] == NONE -> /* put_back() */
        d_step {
            !locked[f[i]] ->
            if
            :: frame_state[f[i]] == FRAME_WRITING && frame_slot[f[i]] == NONE ->
                FRAME_MOVE_WRITE_FAILED(f[i])
            :: else
            fi;
            f[i] = NONE
        };
        goto nothing
    :: else
    fi;
    atomic { /* copy_out() */
        !locked[f[i]] ->
        if
        :: frame_state[f[i]] == FRAME_WRITING && frame_slot[f[i]] == NONE ->
            in_batch[i] = in_buffer[frame_buffer[f[i]]];
            frame_slot[f[i]] = s[i];
            writes_in_flight++ /* send() */
        :: else -> slot_release(s[i]); s[i] = NONE; f[i] = NONE
        fi;
        i = 0
    };
    goto step;

reap:
    JOINED {
        atomic { /* a write ends, well or not */
            if
            :: f[0] != NONE -> i = 0
#if DEPTH > 1
            :: f[1] != NONE -> i = 1
#endif
            fi;
            if
            :: true -> in_slot[s[i]] = in_batch[i]
            :: write_errors > 0 -> write_errors--; failed = true
            :: write_errors > 0 -> write_errors--; failed = true; withdrawn = true
            fi;
            in_batch[i] = NOTHING
        };
        d_step { /* framelist_return() */
            !locked[f[i]] ->
#ifdef MUTANT_NO_RECHECK
            kept = true;
#else
            kept = frame_state[f[i]] == FRAME_WRITING && frame_slot[f[i]] == s[i];
#endif
            if
            :: kept && failed -> frame_slot[f[i]] = NONE; FRAME_MOVE_WRITE_FAILED(f[i])
            :: kept && !failed -> FRAME_MOVE_WRITE_DONE(f[i])
            :: else
            fi
        };
        atomic {
            if
            :: (failed || !kept) && !withdrawn -> slot_release(s[i])
            :: else
            fi;
            f[i] = NONE;
            s[i] = NONE;
            kept = false;
            failed = false;
            withdrawn = false;
            i = 0;
            writes_in_flight--
        }
    };
    balance(WRITER);
    goto step;

nothing:
    i = 0;
    if
    :: writes_in_flight > 0 -> goto reap
    :: else -> goto end_sleep
    fi
}

/* ---- the refiller ---- */

proctype refiller()
{
    byte f, p, s = NONE, buffer = NONE, woken, g;
    bool got;

end_sleep:
    SLEEP(REFILLER, SOME_FRAME(FRAME_STANDBY) && cache_room < 2);
step: /* refill_step() */
    if
    :: cache_room < 2 -> refill_standby(f, p, s, got)
    :: cache_room >= 2
    fi;
    balance(REFILLER);
    atomic {
        if
        :: got && cache_room < 1 && SOME_FRAME(FRAME_STANDBY) -> got = false; goto step
        :: else -> got = false
        fi
    };
    goto end_sleep
}

/* ---- decommit ---- */

/* Gives back pages first to last, several BUSY at a time, in ascending order. */
proctype discarder()
{
    byte first, last, p, buffer = NONE, woken, g;
    byte left = DISCARDS;
    bool mine[PAGES];

    do
    :: DISCARDS != ENDLESS && left == 0 -> break
    :: DISCARDS == ENDLESS || left > 0 ->
        atomic {
            if
            :: DISCARDS != ENDLESS -> left--
            :: else
            fi;
            if
            :: first = 0; last = 0
            :: first = 0; last = 1
            :: first = 1; last = 1
            fi;
            p = first
        };
collect: /* region_discard_page() */
        pte_wait(p, THREADS);
        atomic {
            if
            :: busy[p] -> goto collect
            :: !busy[p] && pte_format[p] == PTE_UNTOUCHED -> goto next
            :: else -> busy[p] = true; mine[p] = true
            fi
        };
        if
        :: pte_format[p] == PTE_PAGEFILE ->
            d_step { content_discarded(p) };
            JOINED {
                slot_release(pte_number[p])
            }
        :: pte_format[p] == PTE_TRANSITION ->
            d_step { content_discarded(p) };
            REMOVE(pte_number[p], p, DISCARD);
            if
            :: frame_slot[pte_number[p]] != NONE -> slot_release(frame_slot[pte_number[p]])
            :: else
            fi
        :: else
        fi;
next:
        if
        :: p < last -> p++; goto collect
        :: else
        fi;
        p = first; /* discard_flush(): the valid ones are dropped together */
        do
        :: mine[p] && pte_format[p] == PTE_VALID ->
            d_step {
                assert(mapped[p]);
                mapped[p] = false;
                protected[p] = false;
                content_discarded(p)
            };
            JOINED {
                if
                :: frame_slot[pte_number[p]] != NONE -> slot_release(frame_slot[pte_number[p]])
                :: else
                fi;
                frame_free(pte_number[p], true);
                if
                :: p == last -> break
                :: else -> p++
                fi
            }
        :: mine[p] && pte_format[p] == PTE_TRANSITION ->
            JOINED {
                frame_free(pte_number[p], false);
                if
                :: p == last -> break
                :: else -> p++
                fi
            }
        :: else ->
            if
            :: p == last -> break
            :: else -> p++
            fi
        od;
        p = first;
        do
        :: mine[p] ->
            if
            :: pte_format[p] == PTE_VALID -> RELEASE(p, PTE_MOVE_DISCARD_VALID, 0)
            :: pte_format[p] == PTE_TRANSITION -> RELEASE(p, PTE_MOVE_DISCARD_TRANSITION, 0)
            :: pte_format[p] == PTE_PAGEFILE -> RELEASE(p, PTE_MOVE_DISCARD_PAGEFILE, 0)
            fi;
            mine[p] = false
        :: else ->
            if
            :: p == last -> break
            :: else -> p++
            fi
        od;
        first = 0;
        last = 0;
        p = 0
    od;
    discarded = true
}

/* ---- the whole ---- */

/* When nothing can happen any more, the books balance. */
proctype auditor()
{
    byte g, valid_pages, cached, used;

end:
    atomic {
        served == THREADS && discarded && timeout ->
        for (g : 0 .. FRAMES - 1) {
            assert(!locked[g] && frame_state[g] != FRAME_TRANSIT);
            valid_pages = valid_pages + (frame_state[g] == FRAME_ACTIVE);
            used = used + (frame_slot[g] != NONE);
            cached = cached + (frame_buffer[g] != NONE)
        };
        for (g : 0 .. PAGES - 1) {
            assert(!busy[g]);
            used = used + (pte_format[g] == PTE_PAGEFILE);
            if
            :: pte_format[g] == PTE_VALID || pte_format[g] == PTE_TRANSITION ->
                assert(frame_page[pte_number[g]] == g)
            :: else
            fi
        };
        assert(valid_pages + available == ACTIVE_MAX);
        assert(cached + cache_room == BUFFERS);
        for (g : 0 .. SLOTS - 1) {
            used = used - slot_used[g]
        };
        assert(used == 0)
    }
}

init
{
    byte g;

    atomic {
        for (g : 0 .. FRAMES - 1) {
            FRAME_MOVE_FREED(g)
        };
        run thread(0, FAULTS, true);
#if THREADS > 1
        run thread(1, MORE, false);
#endif
        run trimmer();
        run writer();
#ifndef NO_REFILLER
        run refiller();
#endif
#if DISCARDS > 0
        run discarder();
#endif
        run auditor()
    }
}

#ifdef LIVE
ltl served_at_last { <> (served == THREADS && discarded) }
#endif
