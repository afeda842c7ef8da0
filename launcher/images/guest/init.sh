#!/bin/sh
# /sbin/init: the first process once the root is mounted. Runs the host's command or a shell on the console, then powers
# the machine off. The shell sends "poweroff", "reboot" and "halt" here as the signals busybox has for them.
#
# What the host wants is in /run/bulkhead: "network", "mount", "terminal" and "command" are shell scripts, "marker" is a
# word that cannot be guessed. What the command prints stands between "MARKER begin" on a line of its own and "MARKER end STATUS";
# the status is also written to the test finisher, whose code is the exit code of the whole machine.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root TERM=linux console
# A session's end hangs up its terminal, and that discards what is not yet sent: setting the terminal waits until it is.
SESSION='trap : INT QUIT
sh /run/bulkhead/command
status=$?
stty -F "$console" "$(stty -F "$console" -g)"
exit $status'
FINISHER=0x100000 PASS=0x5555 FAIL=0x3333

finish() { # how (poweroff, reboot, halt): everything written, nothing mounted for writing
    trap '' USR1 USR2 TERM
    kill -TERM -1 2>/dev/null
    umount -a -r 2>/dev/null
    sync
    "$1" -f
}

finish_with() { # exit status
    trap '' USR1 USR2 TERM
    umount -a -r 2>/dev/null
    sync
    value=$PASS
    [ "$1" -ne 0 ] && value=$((($1 << 16) | FAIL))
    devmem "$FINISHER" 32 "$value" 2>/dev/null
    poweroff -f # no finisher, or no /dev/mem: the marker has said the status
}

trap 'finish halt' USR1
trap 'finish poweroff' USR2
trap 'finish reboot' TERM

[ -e /proc/self ] || mount -t proc proc /proc
[ -w / ] && hostname -F /etc/hostname
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
read -r console </sys/class/tty/console/active
console=/dev/${console##* }

[ -f /run/bulkhead/network ] && sh /run/bulkhead/network
[ -f /run/bulkhead/mount ] && sh /run/bulkhead/mount
[ -f /run/bulkhead/terminal ] && . /run/bulkhead/terminal
if [ -f /run/bulkhead/command ]; then
    read -r marker </run/bulkhead/marker
    echo 1 >/proc/sys/kernel/printk
    cd /root || cd /
    printf '\n%s begin\n' "$marker" >"$console"
    setsid -c sh -c "$SESSION" <"$console" >"$console" 2>&1 &
    wait $!
    status=$?
    printf '%s end %d\n' "$marker" "$status" >"$console"
    finish_with "$status"
fi

. /etc/profile
cd /root || cd /
echo "$(uname -sr) on $(grep -c '^processor' /proc/cpuinfo) hart(s), root $(awk '$2 == "/" {print $1, $3}' /proc/mounts | tail -n 1)"
setsid -c sh -l <"$console" >"$console" 2>&1 &
wait $!
finish poweroff
