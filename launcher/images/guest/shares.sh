#!/bin/sh
# Mounts the shared folders: /run/bulkhead/shares has a line for each, "TAG TYPE OPTIONS".
while read -r tag type options; do
    mkdir -p "/mnt/$tag" && mount -t "$type" -o "$options" "$tag" "/mnt/$tag" ||
        echo "bulkhead: the share $tag does not mount" >&2
done </run/bulkhead/shares
