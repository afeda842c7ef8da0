# The M-mode monitor, for when there is no firmware: gives S-mode all of memory and its own traps, and keeps one service,
# the SBI's timer (extension TIME, function 0). Harts other than 0 sleep for good.
#
# M-mode's timer is the CLINT's; S-mode is told by setting mip.STIP. So: sbi_set_timer programs mtimecmp and clears STIP;
# when mtime gets there, the monitor sets STIP and turns its own interrupt off until the next sbi_set_timer.

    .equ    CLINT_MTIMECMP, 0x02004000
    .equ    FINISHER, 0x00100000
    .equ    SBI_TIME, 0x54494d45
    .equ    SBI_ERR_NOT_SUPPORTED, -2
    .equ    CAUSE_TIMER, 7                  # of interrupts
    .equ    CAUSE_ECALL_S, 9                # of exceptions
    .equ    MIP_STIP, 1 << 5
    .equ    MIE_MTIE, 1 << 7
    .equ    MIDELEG_ALL, (1 << 1) | (1 << 5) | (1 << 9)
    .equ    MEDELEG_ALL, 0xb1ff             # everything up to store page fault but the calls from S and M
    .equ    MSTATUS_MPP, 3 << 11
    .equ    MSTATUS_MPP_S, 1 << 11

    .section .text, "ax"
    .globl monitor_start
monitor_start:
    bnez    a0, park
    la      t0, monitor_trap
    csrw    mtvec, t0
    la      t0, monitor_save
    csrw    mscratch, t0
    li      t0, -1
    csrw    pmpaddr0, t0                    # one region, naturally aligned, as large as can be
    li      t0, 0x1f                        # NAPOT, read, write, execute
    csrw    pmpcfg0, t0
    li      t0, MEDELEG_ALL
    csrw    medeleg, t0
    li      t0, MIDELEG_ALL
    csrw    mideleg, t0
    li      t0, 7
    csrw    mcounteren, t0                  # cycle, time, instret readable below
    li      t0, MSTATUS_MPP
    csrc    mstatus, t0
    li      t0, MSTATUS_MPP_S
    csrs    mstatus, t0
    la      t0, supervisor
    csrw    mepc, t0
    mret

park:
    csrw    mie, zero
1:  wfi
    j       1b

    .balign 4
monitor_trap:
    csrrw   sp, mscratch, sp
    sd      t0, 0(sp)
    sd      t1, 8(sp)
    csrr    t0, mcause
    bltz    t0, interrupt
    li      t1, CAUSE_ECALL_S
    bne     t0, t1, stop
    csrr    t0, mepc
    addi    t0, t0, 4
    csrw    mepc, t0
    li      t0, SBI_TIME
    bne     a7, t0, not_supported
    bnez    a6, not_supported
    li      t0, CLINT_MTIMECMP
    sd      a0, 0(t0)
    li      t0, MIP_STIP
    csrc    mip, t0
    li      t0, MIE_MTIE
    csrs    mie, t0
    li      a0, 0
    li      a1, 0
    j       return

not_supported:
    li      a0, SBI_ERR_NOT_SUPPORTED
    li      a1, 0
    j       return

interrupt:
    slli    t0, t0, 1                       # without the interrupt bit
    li      t1, CAUSE_TIMER << 1
    bne     t0, t1, stop
    li      t0, MIE_MTIE
    csrc    mie, t0
    li      t0, MIP_STIP
    csrs    mip, t0

return:
    ld      t0, 0(sp)
    ld      t1, 8(sp)
    csrrw   sp, mscratch, sp
    mret

stop:                                       # nothing else comes to M-mode: the machine ends with code 254
    li      t0, FINISHER
    li      t1, (254 << 16) | 0x3333
    sw      t1, 0(t0)
1:  j       1b

    .section .bss
    .balign 16
monitor_save:
    .zero   16
