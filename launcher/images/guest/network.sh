#!/bin/sh
# Sets up the guest's network cards: /run/bulkhead/cards has a line for each, "MAC dhcp", "MAC none" or
# "MAC ADDRESS/BITS [GATEWAY]"; a MAC that is "-" is that of a card which no other line names. Also what udhcpc calls with what a DHCP server said ("bound", "renew", "deconfig").
case $1 in
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/$mask" dev "$interface"
    for gateway in $router; do
        ip route add default via "$gateway" dev "$interface"
    done
    for server in $dns; do
        echo "nameserver $server"
    done >/etc/resolv.conf
    exit
    ;;
deconfig | nak | leasefail) exit ;;
esac

interface_of() { # MAC
    for address in /sys/class/net/*/address; do
        read -r found <"$address"
        case $1 in
        "$found") ;;
        -) is_unnamed || continue ;;
        *) continue ;;
        esac
        basename "${address%/*}"
        return
    done
}

is_unnamed() {
    [ -e "${address%/*}/device" ] && ! grep -q "^$found " /run/bulkhead/cards &&
        [ ! -e "/run/bulkhead/taken-$found" ] && : >"/run/bulkhead/taken-$found"
}

ip link set lo up
while read -r mac how gateway; do
    interface=$(interface_of "$mac")
    if [ -z "$interface" ]; then
        echo "bulkhead: there is no network card $mac" >&2
        continue
    fi
    ip link set "$interface" up
    case $how in
    none) ;;
    dhcp) udhcpc -q -n -t 15 -T 1 -i "$interface" -s /run/bulkhead/network >/dev/null 2>&1 ||
        echo "bulkhead: $interface: nobody leases addresses here" >&2 ;;
    *)
        ip addr add "$how" dev "$interface"
        [ -n "$gateway" ] && ip route add default via "$gateway" dev "$interface"
        ;;
    esac
done </run/bulkhead/cards
