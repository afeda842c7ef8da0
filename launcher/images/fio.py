"""fio of Debian's, for the guest. It is built with every storage that it can reach, so that it asks for the libraries
of Ceph, Gluster and others: 46 MB, of which nothing runs, and which take the guest's dynamic linker about a second."""

from __future__ import annotations

from launcher.images.programs import Programs

__all__ = ["FIO"]

FIO = Programs(
    "fio",
    (
        *("fio", "libacl1", "libaio1t64", "libatomic1", "libblkid1", "libboost-iostreams1.83.0"),
        *("libboost-thread1.83.0", "libbz2-1.0", "libc6", "libcap2", "libcom-err2", "libcryptsetup12"),
        *("libdevmapper1.02.1", "libffi8", "libfmt10", "libgcc-s1", "libgfapi0", "libgfrpc0", "libgfxdr0"),
        *("libglusterfs0", "libgmp10", "libgnutls30t64", "libgssapi-krb5-2", "libhogweed6t64", "libibverbs1"),
        *("libidn2-0", "libjson-c5", "libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0", "liblzma5"),
        *("libnbd0", "libnettle8t64", "libnfs14", "libnl-3-200", "libnl-route-3-200", "libnuma1", "libp11-kit0"),
        *("libpcre2-8-0", "librados2", "librbd1", "librdmacm1t64", "libselinux1", "libssl3t64", "libstdc++6"),
        *("libtasn1-6", "libtirpc3t64", "libudev1", "libunistring5", "libuuid1", "libxml2", "libzstd1", "zlib1g"),
    ),
    ("usr/bin/fio",),
)
