# The first sector of a bootable disk: 512 bytes that load what follows them on the disk, and start it.
#
# --boot disk puts this sector at 0x80000000 and starts it there in M-mode, with hart id in a0 and device tree in a1.
# It drives the first virtio block device by itself (virtio 1.2, sections 3.1.1, 4.2.3 and 5.2), without interrupts, one
# request at a time; copies `sectors` sectors from the second one on to 0x80200000; and goes there with a0 and a1 as
# they were. When something is wrong it says so in one line on the UART and ends the machine with code 253.

    .equ    LOAD, 0x80200000
    .equ    CHUNK, 64                       # sectors a request
    .equ    SLOTS, 0x10001000               # virtio-mmio, eight of them
    .equ    SLOT_SIZE, 0x1000
    .equ    SLOTS_END, 0x10009000
    .equ    UART, 0x10000000
    .equ    FINISHER, 0x00100000
    .equ    FINISHER_FAIL, (253 << 16) | 0x3333

    # registers of a slot (table 4.1)
    .equ    MAGIC_VALUE, 0x000
    .equ    VERSION, 0x004
    .equ    DEVICE_ID, 0x008
    .equ    DRIVER_FEATURES, 0x020
    .equ    DRIVER_FEATURES_SEL, 0x024
    .equ    QUEUE_SEL, 0x030
    .equ    QUEUE_NUM, 0x038
    .equ    QUEUE_READY, 0x044
    .equ    QUEUE_NOTIFY, 0x050
    .equ    STATUS, 0x070
    .equ    QUEUE_DESC, 0x080
    .equ    QUEUE_DRIVER, 0x090
    .equ    QUEUE_DEVICE, 0x0a0

    # the queue, of four, in the page after this sector; all of it zero at first
    .equ    DESC, 0x000                     # from s2
    .equ    AVAIL, 0x040
    .equ    USED, 0x080
    .equ    HEADER, 0x0c0                   # of the request: type 0 (read), 0, sector
    .equ    STATUS_BYTE, 0x0d0
    .equ    NEXT, 1 << 32                   # flags of a descriptor, above len
    .equ    NEXT_WRITE, 3 << 32
    .equ    WRITE, 2 << 32

    .globl _start
_start:
    bnez    a0, park
    lla     s2, _start + 0x1000
    li      s3, SLOTS
find:                                       # the first slot with a modern block device
    lw      t0, MAGIC_VALUE(s3)
    li      t1, 0x74726976
    bne     t0, t1, next
    lw      t0, VERSION(s3)
    lw      t1, DEVICE_ID(s3)
    bne     t0, t1, next                    # version 2 and device 2
    addi    t0, t0, -2
    beqz    t0, found
next:
    li      t0, SLOT_SIZE
    add     s3, s3, t0
    li      t0, SLOTS_END
    bne     s3, t0, find
    lla     s4, no_disk
    j       fail

found:                                      # 3.1.1: reset, acknowledge, driver, features, queue, driver OK
    sw      zero, STATUS(s3)
    li      t0, 3
    sw      t0, STATUS(s3)
    sw      zero, DRIVER_FEATURES_SEL(s3)
    sw      zero, DRIVER_FEATURES(s3)
    li      t0, 1
    sw      t0, DRIVER_FEATURES_SEL(s3)
    sw      t0, DRIVER_FEATURES(s3)         # bit 32: VERSION_1, nothing else
    li      t0, 11
    sw      t0, STATUS(s3)
    sw      zero, QUEUE_SEL(s3)
    li      t0, 4
    sw      t0, QUEUE_NUM(s3)
    addi    t0, s2, DESC
    sw      t0, QUEUE_DESC(s3)
    addi    t0, s2, AVAIL
    sw      t0, QUEUE_DRIVER(s3)
    addi    t0, s2, USED
    sw      t0, QUEUE_DEVICE(s3)
    sw      zero, QUEUE_DESC + 4(s3)
    sw      zero, QUEUE_DRIVER + 4(s3)
    sw      zero, QUEUE_DEVICE + 4(s3)
    li      t0, 1
    sw      t0, QUEUE_READY(s3)
    li      t0, 15
    sw      t0, STATUS(s3)

    # the chain, the same for each request but for data's address and length: header → data → status
    addi    t0, s2, HEADER
    sd      t0, DESC + 0(s2)
    li      t0, NEXT | 16
    sd      t0, DESC + 8(s2)
    li      t0, 1
    sh      t0, DESC + 14(s2)
    li      t0, 2
    sh      t0, DESC + 30(s2)
    addi    t0, s2, STATUS_BYTE
    sd      t0, DESC + 32(s2)
    li      t0, WRITE | 1
    sd      t0, DESC + 40(s2)

    li      s5, LOAD                        # where the next sector goes
    lla     t0, sectors
    lwu     s6, 0(t0)                       # sectors left
    li      s7, 1                           # the next one on the disk
    li      s8, 0                           # requests made
read:
    beqz    s6, start
    li      s9, CHUNK
    bleu    s9, s6, 1f
    mv      s9, s6
1:  sd      s7, HEADER + 8(s2)
    sd      s5, DESC + 16(s2)
    slli    t0, s9, 9
    sw      t0, DESC + 24(s2)
    li      t0, 3                           # NEXT and WRITE: next is in the upper half of the same word
    sh      t0, DESC + 28(s2)
    li      t0, -1
    sb      t0, STATUS_BYTE(s2)
    addi    s8, s8, 1                       # avail.ring stays all zeros: the chain is always 0
    fence
    sh      s8, AVAIL + 2(s2)
    fence
    sw      zero, QUEUE_NOTIFY(s3)
1:  lh      t0, USED + 2(s2)
    xor     t0, t0, s8
    slli    t0, t0, 48
    bnez    t0, 1b
    fence
    lbu     t0, STATUS_BYTE(s2)
    lla     s4, unreadable
    bnez    t0, fail
    slli    t0, s9, 9
    add     s5, s5, t0
    add     s7, s7, s9
    sub     s6, s6, s9
    j       read

start:
    sw      zero, STATUS(s3)                # the device is as it was
    fence.i
    li      t0, LOAD
    jr      t0

fail:
    li      t1, UART
1:  lbu     t0, 0(s4)
    beqz    t0, 2f
    sb      t0, 0(t1)
    addi    s4, s4, 1
    j       1b
2:  li      t0, FINISHER
    li      t1, FINISHER_FAIL
    sw      t1, 0(t0)
park:
    wfi
    j       park

no_disk:
    .asciz  "boot: no disk\r\n"
unreadable:
    .asciz  "boot: I/O error\r\n"

    .org    504
    .globl  sectors
sectors:                                    # how many follow: filled in where the disk is made (guest/disk.py)
    .4byte  0
    .2byte  0
    .2byte  0xaa55                          # says that this sector is meant to be started
