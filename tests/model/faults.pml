/* Faulting threads: continues protocol.pml. */

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

