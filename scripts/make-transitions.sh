#!/bin/sh
# Make Promela of the rows of src/core/transitions.h, for tests/model/protocol.pml: the names of
# formats and states, and for each row a macro that asserts where it begins and goes where it ends.
#
#   scripts/make-transitions.sh src/core/transitions.h > transitions.pml
#   scripts/make-transitions.sh --rows src/core/transitions.h     one "TABLE NAME FROM TO" a line
set -eu

form=model
if [ "$1" = --rows ]; then
    form=rows
    shift
fi

awk -v form="$form" '
BEGIN { total = values = marks = 0 }
function word(table, name) { return table == "PTE" ? "PTE_" name : "FRAME_" name }
function declare(name) {
    if (!(name in known)) {
        known[name] = values++
        print "#define " name " " known[name]
    }
}
/^#define (PTE|FRAME)_TRANSITIONS\(X\)/ {
    table = $2
    sub(/_.*/, "", table)
    values = 0
    next
}
table != "" && /^ *X\(/ { marks++ }
table != "" && match($0, /X\([A-Z_]+, *[A-Z]+, *[A-Z]+,/) {
    split(substr($0, RSTART + 2, RLENGTH - 3), part, /, */)
    if (form == "rows") {
        print table, part[1], part[2], part[3]
        total++
        next
    }
    from = word(table, part[2])
    to = word(table, part[3])
    declare(from)
    declare(to)
    array = table == "PTE" ? "pte_format" : "frame_state"
    row = table "_MOVE_" part[1]
    names[total] = table " " part[1]
    printf "#define %s(i) assert(%s[i] == %s); %s[i] = %s; ROW_TAKEN(%d)\n", row, array, from,
        array, to, total++
}
END {
    if (total == 0 || total != marks) {
        print "make-transitions.sh: " total + 0 " of " marks " rows understood" > "/dev/stderr"
        exit 1
    }
    if (form == "rows")
        exit 0
    print "c_decl {"
    print "static const char *const row_names[] = {"
    for (i = 0; i < total; i++)
        print "    \"" names[i] "\","
    print "};"
    printf "static char row_taken[%d];\n", total
    print "}"
    # Printed once a run: what a search has taken is no part of its state.
    print "#define ROW_TAKEN(n) c_code { if (!row_taken[n]) {" \
        " row_taken[n] = 1; printf(\"row: %s\\n\", row_names[n]); } }"
}
' "$1"
