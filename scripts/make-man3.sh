#!/bin/sh
# Make the manual page vmsm(3) from include/vmsm.h: the comment at its top becomes
# the description, and each comment that stands before declarations explains them.
#
#   scripts/make-man3.sh include/vmsm.h > vmsm.3
set -eu

awk '
# Text that roff would take for a command or an escape.
function escape(text) {
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    gsub(/…/, "...", text)
    if (text ~ /^[.\x27]/)
        text = "\\&" text
    return text
}
# A comment: lines indented deeper than its text are laid out as they stand.
function print_comment(    i, fixed, deep) {
    fixed = 0
    for (i = 1; i <= lines; i++) {
        if (comment[i] == "") {
            if (fixed) print ".fi\n.RE"
            fixed = 0
            print ".PP"
            continue
        }
        deep = comment[i] ~ /^ /
        if (deep && !fixed) print ".RS 2\n.nf"
        if (!deep && fixed) print ".fi\n.RE"
        fixed = deep
        print escape(deep ? substr(comment[i], 3) : comment[i])
    }
    if (fixed) print ".fi\n.RE"
}
function print_declaration(    i) {
    print ".nf"
    for (i = 1; i <= held; i++)
        print ".B \"" escape(declaration[i]) "\""
    print ".fi"
}
# What has been collected is one entry: declarations, then their comment.
function flush_entry() {
    if (held > 0) {
        print ".PP"
        print_declaration()
        if (lines > 0) {
            print ".RS 4"
            print_comment()
            print ".RE"
        }
        lines = 0
    }
    held = 0
}
function hold(text) {
    sub(/^VMSM_API /, "", text)
    gsub(/"/, "\\(dq", text)
    declaration[++held] = text
}
function comment_line(text) {
    sub(/^ \*\/?/, "", text)
    sub(/^ /, "", text)
    comment[++lines] = text
}

/^#define VMSM_VERSION/ {
    gsub(/"/, "", $3)
    version = $3
}

# The comment at the top.
NR == 1 { top = 1; in_comment = 1; lines = 0; next }
in_comment && /\*\// {
    in_comment = 0
    if (top) {
        for (i = 1; i <= lines; i++)
            about[i] = comment[i]
        abouts = lines
        top = 0
        lines = 0
    }
    next
}
in_comment { comment_line($0); next }

/^\/\*.*\*\/$/ {
    flush_entry()
    lines = 0
    sub(/^\/\* */, "")
    sub(/ *\*\/$/, "")
    comment[++lines] = $0
    next
}
/^\/\*/ { flush_entry(); in_comment = 1; lines = 0; next }

# The counters, from their table.
/^#define VMSM_COUNTERS/ { in_table = 1; flush_entry(); lines = 0; next }
in_table {
    if (match($0, /X\([a-z_]+, [A-Z]+, ".*"\)/)) {
        split(substr($0, RSTART + 2, RLENGTH - 3), part, /, /)
        text = substr($0, RSTART, RLENGTH)
        sub(/^[^"]*"/, "", text)
        sub(/"\)$/, "", text)
        counters[++counter_total] = part[1]
        counter_kind[counter_total] = part[2]
        counter_help[counter_total] = text
    }
    if ($0 !~ /\\$/) in_table = 0
    next
}
/^struct vmsm_counters/ { in_struct = 1 }
in_struct { if (/^};/) in_struct = 0; next }

# Declarations start here; the head is printed before the first one.
/^enum |^VMSM_API / {
    if (!head_done) {
        head_done = 1
        print ".\\\" Made from include/vmsm.h."
        print ".TH VMSM 3 \"\" \"vmsm " version "\" \"Library Functions Manual\""
        print ".SH NAME\nvmsm \\- virtual memory manager in user space"
        print ".SH SYNOPSIS\n.nf\n.B #include <vmsm.h>\n.PP"
        print "Link with \\fI\\-lvmsm\\fR.\n.fi"
        print ".SH DESCRIPTION"
        kept = lines
        for (i = 1; i <= kept; i++) saved[i] = comment[i]
        lines = abouts - 2
        for (i = 1; i <= lines; i++) comment[i] = about[i + 2]
        print_comment()
        lines = kept
        for (i = 1; i <= kept; i++) comment[i] = saved[i]
        print ".SH FUNCTIONS"
    }
    more = 1
}
more { hold($0); if (/^};|\);/) more = 0; next }
/^$/ { flush_entry(); next }

END {
    flush_entry()
    print ".SH COUNTERS"
    print "Fields of \\fBstruct vmsm_counters\\fR; those marked as levels go up and down."
    for (i = 1; i <= counter_total; i++) {
        print ".TP\n.B " counters[i]
        print escape(counter_help[i]) (counter_kind[i] == "GAUGE" ? " (level)" : "")
    }
    print ".SH SEE ALSO\n.BR vmsm (1)"
}
' "$1"
