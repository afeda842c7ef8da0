#!/bin/sh
# /init of the initramfs: load the drivers of the devices that are there, mount the root file system if the command line
# names one (root=/dev/vda), and go on as /sbin/init, there or here.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin

give_up() {
    echo "bulkhead: $*: a shell in the initramfs instead"
    exec setsid -c sh -l <"$console" >"$console" 2>&1
}

mount -t devtmpfs -o mode=0755 dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=0755 run /run
read -r console </sys/class/tty/console/active
console=/dev/${console##* }

modprobe virtio_mmio
for modalias in /sys/bus/virtio/devices/*/modalias; do
    [ -e "$modalias" ] && read -r alias <"$modalias" && modprobe -q "$alias"
done

# Drivers that no device asks for: file systems.
[ -f /bulkhead/modules ] && while read -r name; do modprobe -q "$name"; done </bulkhead/modules

root='' type=ext4 mode=ro
read -r words </proc/cmdline
for word in $words; do
    case $word in
    root=*) root=${word#root=} ;;
    rootfstype=*) type=${word#rootfstype=} ;;
    ro | rw) mode=$word ;;
    esac
done

# What the host handed over with the initramfs (a command to run) goes where both systems find it.
[ -d /bulkhead ] && cp -a /bulkhead /run/

[ -z "$root" ] && exec /sbin/init
modprobe -q "$type"
[ -b "$root" ] || give_up "there is no block device $root"
mount -t "$type" -o "$mode" "$root" /mnt || give_up "$root does not mount as $type"
for place in dev proc sys run; do
    mount --move "/$place" "/mnt/$place" || give_up "$root has no /$place"
done
exec switch_root -c "$console" /mnt /sbin/init || give_up "$root has no /sbin/init"
