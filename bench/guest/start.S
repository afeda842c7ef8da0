# A bare machine in M-mode at 0x80000000 (--bios none): hart 0 runs, the others sleep.
    .equ    MSTATUS_FS_INITIAL, 1 << 13
    .equ    FINISHER, 0x00100000

    .section .text.start, "ax"
    .globl _start
_start:
    bnez    a0, park
    la      t0, trapped
    csrw    mtvec, t0
    li      t0, MSTATUS_FS_INITIAL
    csrs    mstatus, t0
    fscsr   zero
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    la      sp, stack_top
    la      t0, bss_start
    la      t1, bss_end
1:  sd      zero, 0(t0)
    addi    t0, t0, 8
    bltu    t0, t1, 1b
    call    main
park:
    wfi
    j       park

    .balign 4
trapped:                                    # nothing here should trap: the machine ends with code 99
    li      t0, FINISHER
    li      t1, (99 << 16) | 0x3333
    sw      t1, 0(t0)
1:  j       1b
