/* The workers, decommit, and the whole: continues faults.pml. */

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
