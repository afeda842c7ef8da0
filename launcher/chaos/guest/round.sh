#!/bin/sh
# What the Debian guest does while its devices are killed: rounds of work, all at once, each checked. Told "round N SIZE"
# on standard input; says "chaos: result NAME STATUS TEXT" for each piece of work, and "chaos: done N".
#     round.sh SEED DOWN UP    DOWN and UP: ports of the host, from which it gets data, and to which it sends some
seed=$1 down=$2 up=$3
ln -s /mnt/tools/lib/* /lib/ 2>/dev/null
export PATH=/mnt/tools/bin:$PATH HOME=/root GIT_AUTHOR_DATE='2026-01-01 00:00:00 +0000' GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=chaos GIT_AUTHOR_EMAIL=chaos@localhost GIT_COMMITTER_NAME=chaos GIT_COMMITTER_EMAIL=chaos@localhost
ROWS=40 # of one transaction
BLOCKS=24576 # KiB of the disk for fio

blocks() {
    kib=$((size * 1600))
    [ $kib -gt $BLOCKS ] && kib=$BLOCKS
    sh /mnt/tools/blocks.sh /dev/vdc $kib "$seed" "$round"
}

files() { # fsynced files whose sums are known before they are written
    rm -rf /mnt/data/files && mkdir /mnt/data/files && cd /mnt/data/files || return 1
    count=0
    while [ $count -lt $((size * 4)) ]; do
        count=$((count + 1))
        dd if=/dev/urandom of=/tmp/file bs=4k count=$((count % 32 + 1)) 2>/dev/null
        sha256sum </tmp/file | sed "s/-/f$count/" >>/tmp/sums
        dd if=/tmp/file of=f$count bs=3000 conv=fsync 2>/dev/null || return 1
        mv f$count g$count && mv g$count f$count || return 1
    done
    echo 3 >/proc/sys/vm/drop_caches
    sha256sum -c /tmp/sums >/tmp/checked 2>&1 || { grep -v OK /tmp/checked | head -n 3; return 1; }
    rm /tmp/sums
    echo "$count files"
}

rows() { # transactions of SQLite, in both kinds of journal
    [ $((round % 2)) = 0 ] && journal=wal || journal=delete
    first=$transactions
    {
        echo "pragma journal_mode=$journal; pragma synchronous=full;"
        echo "create table if not exists t(id integer primary key, value, filler);"
        while [ $transactions -lt $((first + size * 5)) ]; do
            from=$((transactions * ROWS))
            echo "begin; with recursive n(i) as (select $from union all select i+1 from n where i+1 < $((from + ROWS)))"
            echo "insert into t select i, i*7919%10007, hex(randomblob(100)) from n; commit;"
            transactions=$((transactions + 1))
        done
    } >/tmp/sql
    sqlite3 -bail /mnt/data/db </tmp/sql >/dev/null || return 1
    echo 3 >/proc/sys/vm/drop_caches
    found=$(sqlite3 /mnt/data/db 'pragma integrity_check; select count(*), sum(value != id*7919%10007) from t;')
    wanted="ok
$(((first + size * 5) * ROWS))|0"
    [ "$found" = "$wanted" ] || { echo "found: $found"; return 1; }
    echo "$((size * 5)) transactions, integrity_check ok"
}

commits() { # share: a repository on it, and its own word on whether it is whole
    cd "/mnt/$1" || return 1
    [ -d repository ] || git init -q -b main repository || return 1
    cd repository || return 1
    git config gc.auto 0
    count=0
    while [ $count -lt "$size" ]; do
        count=$((count + 1))
        for name in a b c; do
            dd if=/dev/urandom bs=3000 count=1 2>/dev/null | base64 >$name$count || return 1
        done
        git mv -f a$count d$count 2>/dev/null || mv a$count d$count || return 1
        git add -A && git commit -q -m "round $round commit $count" || return 1
    done
    git fsck --strict --no-progress --no-dangling || return 1
    found=$(git rev-list --count main)
    [ "$found" = $((round * size + size)) ] || { echo "$found commits, not $((round * size + size))"; return 1; }
    [ -z "$(git status --porcelain)" ] || { git status --porcelain | head -n 3; return 1; }
    echo "$found commits, fsck clean"
}

# A connection lives in a process of the host's: when that is killed it is gone, and this end hears of it when it sends
# something. So the receiver says something now and then; and what broke off is begun again: the host knows of a reason.
LONG=200 # seconds
TRIES=20

receive() {
    tries=0
    while [ $((tries += 1)) -le $TRIES ]; do
        { while sleep 2; do echo || break; done | timeout $LONG nc 10.0.2.2 "$down" >/tmp/received; } 2>/dev/null
        [ "$(wc -c </tmp/received)" = $((size * 4194304)) ] || { sleep 1; continue; }
        echo "$(sha256sum </tmp/received | cut -d ' ' -f 1) $tries"
        return
    done
    echo "$(wc -c </tmp/received) bytes at the last try"
    return 1
}

transmit() {
    dd if=/dev/urandom of=/tmp/sent bs=64k count=$((size * 16)) 2>/dev/null
    sum=$(sha256sum </tmp/sent | cut -d ' ' -f 1)
    tries=0
    while [ $((tries += 1)) -le $TRIES ]; do
        [ "$(timeout $LONG nc 10.0.2.2 "$up" </tmp/sent 2>/dev/null)" = "$sum" ] || { sleep 1; continue; }
        echo "$sum $tries"
        return
    done
    return 1
}

entropy() {
    dd if=/dev/hwrng of=/tmp/entropy bs=512 count=$((size * 8)) iflag=fullblock 2>/dev/null || return 1
    [ "$(wc -c </tmp/entropy)" = $((size * 4096)) ] && echo "$((size * 4096)) bytes"
}

work() { # name, then a function and its arguments
    name=$1
    shift
    ("$@") >"/tmp/$name.log" 2>&1
    echo "chaos: result $name $? $(tail -n 3 "/tmp/$name.log" | tr '\n' ' ')"
}

transactions=0
echo "chaos: ready"
while read -r word round size; do
    [ "$word" = round ] || break
    mount /dev/vdd /mnt/data || echo "chaos: result mount 1 the disk does not mount"
    work fio blocks &
    work files files &
    work sqlite rows &
    work git-9p commits nine &
    work git-virtiofs commits fuse &
    work tcp-down receive &
    work tcp-up transmit &
    work entropy entropy &
    wait
    transactions=$((transactions + size * 5))
    sync
    umount /mnt/data || echo "chaos: result umount 1 the disk is still in use"
    blockdev --flushbufs /dev/vdd 2>/dev/null
    bad=$(dmesg | grep -iE 'I/O error|EXT4-fs (error|warning)|blocked for more|BUG:|Oops|9pnet.*fail|fuse.*error' | head -n 3 | tr '\n' ' ')
    [ -z "$bad" ] && echo "chaos: result dmesg 0 clean" || echo "chaos: result dmesg 1 $bad"
    echo "chaos: done $round"
done
