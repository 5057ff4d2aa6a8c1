#!/bin/bash
# `vmsm sim --encrypt` with every mapper and trap: no wrong page, and no plaintext in the pagefile it leaves.
#
#   tests/sim_crypt.sh        runs of SECONDS_EACH (default 2) seconds
#
# The marker: a page of the sim has only some of its 512 words set, so every slot in plain text has
# 32 zero bytes in a row; a slot of ciphertext has them only by a chance of 2^-240.
set -u
cd "$(dirname "$0")/.."
vmsm=${VMSM:-${VMSM_BUILD:-build}/vmsm}
seconds=${SECONDS_EACH:-2}
dir=$(mktemp -d /var/tmp/vmsm-test-XXXXXX)
trap 'rm -rf "$dir"' EXIT
. tests/tap_shell
tap_evidence=$dir/out

# sim OPTION…: true if the run was right. The pagefile exists before, so it is kept.
sim()
{
    rm -f "$dir/pages"
    (umask 077 && : >"$dir/pages")
    timeout --kill-after=5 $((seconds * 3 + 40)) "$vmsm" sim --quiet --seconds "$seconds" \
        --virtual 32M --memory 8M --write 50 --pagefile "$dir/pages" "$@" >"$dir/out" 2>&1 &&
        grep -q 'right, books balanced' "$dir/out" && grep -q ': within' "$dir/out"
}

# Prints how many slots of the pagefile were written, and how many of them show the marker.
scan()
{
    perl -e '
        open my $file, "<:raw", $ARGV[0] or die;
        my ($slot, $written, $plain) = ("", 0, 0);
        read($file, $slot, 4096); # slot 0 has the mark of a pagefile, and never a page
        while (read($file, $slot, 4096)) {
            next unless $slot =~ /[^\0]/;
            $written++;
            $plain++ if $slot =~ /\0{32}/;
        }
        print "$written $plain\n"' "$dir/pages"
}

usable="soft:none"
for pair in copy:thread copy:sigbus move:thread move:sigbus; do
    if "$vmsm" sim --quiet --virtual 1M --memory 512K --accesses 10 --threads 1 \
        --mapper ${pair%:*} --trap ${pair#*:} >"$dir/out" 2>&1; then
        usable="$usable $pair"
    else
        skip "$pair: $(tail -n 1 "$dir/out")"
    fi
done

sim --mapper soft
ok $? "without encryption: right"
read -r written plain < <(scan)
[ "$written" -gt 100 ] && [ "$plain" -gt $((written / 2)) ]
ok $? "without encryption: the marker is found ($plain of $written slots)"

for pair in $usable; do
    mapper=${pair%:*}
    trap=${pair#*:}
    options=(--encrypt on --mapper "$mapper")
    [ "$trap" = none ] || options+=(--trap "$trap")
    sim "${options[@]}"
    ok $? "$pair, encrypted: right"
    grep -q 'encrypted)' "$dir/out"
    ok $? "$pair: the report says encrypted"
    read -r written plain < <(scan)
    [ "$written" -gt 100 ] && [ "$plain" -eq 0 ]
    ok $? "$pair: no plaintext in $written slots ($plain)"
done

# With a disk that fails, too: bits flipped in ciphertext are read again, failed writes encrypted again.
seconds=1
sim --encrypt on --mapper soft --set store_corrupt=50 --set store_write_error=20
ok $? "a disk that flips bits and fails writes: right"
sim --encrypt on --mapper soft --stage single
ok $? "stage single: right"
sim --encrypt on --mapper soft --stage basic
ok $? "stage basic: right"
sim --encrypt on --mapper soft --set write_batch=512 --set write_depth=8
ok $? "more written at once than a queue has buffers for: right"

finish
