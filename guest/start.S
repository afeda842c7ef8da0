# Where the guest begins: with hart id in a0 and device tree in a1, as the SBI and Linux's boot protocol have them.
#
# Under an SBI (built in, or OpenSBI) this is S-mode. With --bios none, or after the boot sector, it is M-mode: then the
# monitor (monitor.S) takes what an SBI would do and comes back to `supervisor` in S-mode. There is no register that says
# which mode a hart is in, so it tries to read an M-mode register: in S-mode that traps to `supervisor` all the same.

    .section .text.start, "ax"
    .globl _start
_start:
    la      t0, supervisor
    csrw    stvec, t0
    csrr    t1, mstatus
    j       monitor_start

    .balign 4                           # stvec: an address of four-byte alignment
    .globl supervisor
supervisor:
    csrw    sie, zero
    csrw    satp, zero
    .option push
    .option norelax                     # gp is what relaxation would use
    la      gp, __global_pointer$
    .option pop
    la      sp, stack_top
    la      t0, trap_entry
    csrw    stvec, t0
    la      t0, bss_start
    la      t1, bss_end
1:  sd      zero, 0(t0)
    addi    t0, t0, 8
    bltu    t0, t1, 1b
    call    main                        # main(hart id, device tree): does not return
1:  wfi
    j       1b

# Every trap: the 31 registers and sepc on the stack of what was interrupted, as struct trap_frame has them.
# There is one hart, one stack and one privilege mode, so there is nothing to switch.
    .balign 4
    .globl trap_entry
trap_entry:
    addi    sp, sp, -256
    .irp n, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    sd      x\n, 8*\n(sp)
    .endr
    addi    t0, sp, 256
    sd      t0, 8*2(sp)
    csrr    t0, sepc
    sd      t0, 0(sp)
    mv      a0, sp
    call    trap
    ld      t0, 0(sp)
    csrw    sepc, t0
    .irp n, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    ld      x\n, 8*\n(sp)
    .endr
    addi    sp, sp, 256
    sret
