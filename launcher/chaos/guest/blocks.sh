#!/bin/sh
# One round of fio: every block is as the last round wrote it; then all are written anew, in a random order, 16 under way,
# past the page cache; and then all are as they were written. A block has its place, a number that follows from the seed
# and its turn, and a crc32c. Says how much was verified, or fio's complaint with status 1.
#     blocks.sh DISK KIB SEED ROUND    SEED + ROUND is the seed of this round's blocks; nothing was before round 0
disk=$1 kib=$2 seed=$3 round=$4

run() { # a phase's seed, and what it does
    last=$1
    shift
    fio --name=blocks --filename="$disk" --size="${kib}k" --bs=4k --rw=randwrite --direct=1 --ioengine=libaio \
        --iodepth=16 --thread --verify=crc32c --verify_header_seed=1 --verify_fatal=1 --randseed="$last" "$@" \
        --output-format=terse >/tmp/fio.out 2>/tmp/fio.err && return 0
    head -n 3 /tmp/fio.err # what is wrong, and where
    exit 1
}

[ "$round" = 0 ] || run $((seed + round - 1)) --verify_only
run $((seed + round)) --do_verify=1
echo "$((kib / 4)) blocks of 4 KiB, crc32c and seed equal"
