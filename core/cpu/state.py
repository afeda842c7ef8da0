"""The state of one hart: everything the engine keeps about it, in one record that only its own thread writes.

The interpreter addresses fields by `Hart.offset(...)`; the functions of core/cpu and core/board by name. What others
may write from their threads is in the section "shared" at the end, atomically, and nothing else is.

Conventions between the interpreter and the functions it calls:

* `x[32]` swallows writes to register 0; `x[0]` is always zero.
* The interpreter counts instructions down in `budget`. It stores its copy here before it calls any function of
  core/cpu (`attend` changes it: reload). Instructions retired so far are `horizon - budget`, modulo 2**64; an
  instruction that traps does not retire.
* `attention` is the one word polled at branches. Not zero: store pc and budget, call `attend`, go on at `hart.pc`.
* A function that finds a fault leaves `trap` not zero (the cause plus one) and `tval`; the interpreter then stores the
  pc of the instruction and calls `take_trap`, which changes `pc`, and goes on there. Nothing of the instruction has
  happened.
* After a CSR instruction that writes, `ecall`, `sfence.vma`, `fence.i` and `wfi` that did not trap, the interpreter
  looks at `attention` before the next instruction; after `xRET` it goes on at `hart.pc` the same way: translation,
  privilege and interrupts may have changed (privileged ISA, 3.1.9).

TLBs are direct-mapped by the low bits of the virtual page number. A data entry holds when
`tag == va & (~0xfff | size - 1)`, so a misaligned address misses; the host address is then `va + addend`, modulo 2**64.
`data_tlb` and `fetch_tlb` are the addresses of the bank for the current mode: a change of mode changes only them.
A fetch entry holds when `tag == pc & ~0xfff`: the slots of that page start at `slots`, and `pc_key` is
`8 * tag - slots`, so that `(slot + pc_key) >> 3` (arithmetic) is the pc of a slot.
"""

from native import Array, Record, fn, i64, plain, relaxed, u8, u32, u64, wrap64

PAGE_SIZE = 4096
PAGE_MASK = 0xFFF
PAGE_BITS = 12
XLEN = 64

# Privilege modes (privileged ISA, table 1).
USER = 0
SUPERVISOR = 1
MACHINE = 3

TLB_ENTRIES = 256
NO_TAG = 0xFFFF_FFFF_FFFF_FFFF
# Bit of a store tag: the entry is right, but the page has decoded code, so stores go through store_slow.
TAG_CODE = 0x800

# Banks of the data TLBs. SCRATCH serves whatever is rare (MPRV, MXR) and is emptied when it is entered.
BANK_USER = 0
BANK_SUPERVISOR = 1
BANK_SUPERVISOR_SUM = 2
BANK_MACHINE = 3
BANK_SCRATCH = 4
DATA_BANKS = 5
FETCH_BANKS = 4  # by privilege mode; 2 is not used

PMP_ENTRIES = 16

SLOT_SIZE = 16
SLOTS_PER_PAGE = 2048
SLOT_SENTINELS = 2
SLOT_PAGE_SIZE = (SLOTS_PER_PAGE + SLOT_SENTINELS) * SLOT_SIZE

SAMPLES = 1024

# Reasons in `attention`. Any bit makes the interpreter call `attend`.
ATTENTION_INTERRUPT = 1  # mip, mie, mstatus or mideleg changed so that an interrupt may be due
ATTENTION_REQUEST = 2  # `requests` is not zero
ATTENTION_REFETCH = 4  # the current pc must be translated again
ATTENTION_WAIT = 8  # WFI
ATTENTION_CONTROL = 16  # `control` is not zero
ATTENTION_FENCE_I = 32  # somebody asked for a fence.i

# Bits of `requests`: what other harts ask of this one, done before it runs another instruction.
REQUEST_FLUSH_TLB = 1
REQUEST_FENCE_I = 2
REQUEST_DROP_STORES = 4  # of pages in which some hart has decoded code

# Bits of `control`: what the process asks of a hart.
CONTROL_PAUSE = 1  # stay in run_hart, run nothing
CONTROL_EXIT = 2  # return from run_hart
CONTROL_DEBUG = 4  # as CONTROL_PAUSE, for a debugger; the hart may ask that of itself
CONTROL_HELD = CONTROL_PAUSE | CONTROL_DEBUG

# A debugger's view (debug.py): why a hart has stopped, where it is in a single step, what a watchpoint watches.
STOP_BREAKPOINT = 1
STOP_STEP = 2
STOP_WATCHPOINT = 3
STEP_NONE = 0
STEP_ONE = 1  # one instruction may be begun
STEP_DONE = 2  # it has been
WATCH_READ = 1
WATCH_WRITE = 2
TRAP_DEBUG = 0xFFFF_FFFF_FFFF_FFFF  # in `trap`: a watchpoint, not an exception
BREAKPOINTS = 64
WATCHPOINTS = 8

# Values of `activity`, for others to look at.
ACTIVITY_IDLE = 0  # no thread
ACTIVITY_RUNNING = 1
ACTIVITY_WAITING = 2  # in WFI
ACTIVITY_PAUSED = 3
ACTIVITY_STOPPED = 4  # by the SBI's HSM extension


class Slot(Record):
    """One halfword of code, decoded. The handler is what is called to execute it; decode_handler: not decoded yet."""

    handler: u64 = relaxed()
    imm: u32 = plain()
    rd: u8 = plain()
    rs1: u8 = plain()
    rs2: u8 = plain()
    aux: u8 = plain()


class DataTlbEntry(Record):
    tag: u64 = plain()
    addend: u64 = plain()


class FetchTlbEntry(Record):
    tag: u64 = plain()
    slots: u64 = plain()
    pc_key: u64 = plain()
    spare: u64 = plain()


class DataTlb(Record):
    """One bank: loads and stores have entries of their own, because they evict one another otherwise."""

    load: Array[DataTlbEntry] = plain(count=TLB_ENTRIES)
    store: Array[DataTlbEntry] = plain(count=TLB_ENTRIES)


class FetchTlb(Record):
    entry: Array[FetchTlbEntry] = plain(count=TLB_ENTRIES)


class Watch(Record):
    """One watchpoint: virtual addresses, both inclusive."""

    first: u64 = plain()
    last: u64 = plain()
    access: u64 = plain()  # WATCH_*


class Hart(Record):
    # integer registers first: their offset from the hart is 8 * number
    x: Array[u64] = plain(count=33)
    pc: u64 = plain()
    budget: i64 = plain()
    data_tlb: u64 = plain()  # DataTlb of the current mode
    fetch_tlb: u64 = plain()  # FetchTlb of the current mode
    attention: u64 = relaxed()
    trap: u64 = plain()  # cause + 1 of a pending exception
    tval: u64 = plain()
    horizon: u64 = plain()  # instructions retired when the budget is zero
    f: Array[u64] = plain(count=32, offset=0x150)
    fflags: u64 = plain()
    frm: u64 = plain()

    # LR/SC: the reservation
    reserved_width: u64 = plain()  # in bytes; 0: none
    reserved_va: u64 = plain()
    reserved_host: u64 = plain()
    reserved_value: u64 = plain()

    # what the interpreter needs to find itself
    decode_handler: u64 = plain()  # handler of a slot not yet decoded
    cross_handler: u64 = plain()  # handler of the two sentinels after the last slot of a page
    scratch: Array[Slot] = plain(count=3)  # an instruction that crosses a page, and two sentinels

    # machine-level CSRs (privileged ISA, chapter 3)
    privilege: u64 = plain()
    mhartid: u64 = plain()
    misa: u64 = plain()
    mstatus: u64 = plain()  # without SD, which is computed
    medeleg: u64 = plain()
    mideleg: u64 = plain()
    mie: u64 = plain()
    mtvec: u64 = plain()
    mscratch: u64 = plain()
    mepc: u64 = plain()
    mcause: u64 = plain()
    mtval: u64 = plain()
    mcounteren: u64 = plain()
    mcountinhibit: u64 = plain()
    menvcfg: u64 = plain()
    mcycle_offset: u64 = plain()  # counter = retired + offset while it counts, offset while it is inhibited
    minstret_offset: u64 = plain()
    software_seip: u64 = plain()  # mip.SEIP as written by software; the line is in `mip` (3.1.9)
    tselect: u64 = plain()
    tdata1: u64 = plain()
    tdata2: u64 = plain()

    # supervisor-level CSRs (privileged ISA, chapter 10)
    stvec: u64 = plain()
    sscratch: u64 = plain()
    sepc: u64 = plain()
    scause: u64 = plain()
    stval: u64 = plain()
    scounteren: u64 = plain()
    senvcfg: u64 = plain()
    satp: u64 = plain()
    satp_modes: u64 = plain()  # bit n: satp.MODE n is supported
    stimecmp: u64 = plain()
    svade: u64 = plain()  # 1: a clear A or D bit is a page fault; 0: hardware sets it

    # physical memory protection (3.7): as written, and as the ranges they mean
    pmp_active: u64 = plain()  # number of entries up to the last that is not OFF
    pmpcfg: Array[u8] = plain(count=PMP_ENTRIES)
    pmpaddr: Array[u64] = plain(count=PMP_ENTRIES)
    pmp_first: Array[u64] = plain(count=PMP_ENTRIES)
    pmp_last: Array[u64] = plain(count=PMP_ENTRIES)  # inclusive; first > last: matches nothing

    # physical memory with a host address
    ram_base: u64 = plain()
    ram_size: u64 = plain()
    ram_host: u64 = plain()
    rom_base: u64 = plain()
    rom_size: u64 = plain()
    rom_host: u64 = plain()
    board: u64 = plain()  # Board, for core/board
    sbi: u64 = plain()  # 1: the built-in SBI answers ecalls from S-mode

    # decoded code (slots.py)
    pool: u64 = plain()  # pool_pages * SLOT_PAGE_SIZE bytes
    pool_pages: u64 = plain()
    pool_used: u64 = plain()
    pool_free: u64 = plain()  # 1 + number of the first released slot page, or 0
    pool_hand: u64 = plain()  # of the clock that chooses the page to evict
    pool_info: u64 = plain()  # pool_pages * SlotPage: which physical page each one holds
    code_index: u64 = plain()  # a u32 per page of RAM and ROM: 1 + number of its slot page, or 0
    seen_dma: u64 = plain()  # the generations at the last fence.i
    seen_code: u64 = plain()

    # superpages: pages of 4 KiB out of them are in the TLBs, somewhere between these two addresses
    large_first: u64 = plain()
    large_last: u64 = plain()

    filled: u64 = plain()  # banks that hold anything: bit n a data bank, bit 8 + n a fetch bank

    # run_hart
    waiting: u64 = plain()  # 1: in WFI until an interrupt is pending
    quantum: u64 = plain()  # instructions between two calls of attend, at most 2,000

    # looking for a device's answer before sleeping (linger.py)
    lingering: u64 = plain()  # 1: it pays at the moment
    linger_traffic: u64 = plain()  # notifications and calls at the last look
    linger_due: u64 = plain()  # 1: there had been some since the one before
    linger_strikes: u64 = plain()  # looks in vain, in a row
    linger_seen: u64 = plain()  # short sleeps while not lingering, looks that paid while lingering
    linger_trials: u64 = plain()  # how many of the former must be seen before the next trial

    # statistics
    traps: u64 = plain()
    interrupts: u64 = plain()
    mmio: u64 = plain()
    sleeps: u64 = plain()
    slept_ns: u64 = plain()
    evictions: u64 = plain()
    sample_count: u64 = plain()
    samples: Array[u64] = plain(count=SAMPLES)  # pcs at the ends of budgets: a profile

    # a debugger's (debug.py); it writes them while the hart is held
    breakpoint_count: u64 = plain()
    watch_count: u64 = plain()
    stepping: u64 = plain()  # STEP_*
    stopped: u64 = plain()  # STOP_*, until it has been told
    watch_skip: u64 = plain()  # 1: watchpoints are off for this step
    watch_hit: u64 = plain()  # the address
    watch_hit_access: u64 = plain()  # what that watchpoint watches
    watches: Array[Watch] = plain(count=WATCHPOINTS)
    breakpoints: Array[u64] = plain(count=BREAKPOINTS)  # virtual addresses

    # shared: other threads write these, atomically
    mip: u64 = relaxed(offset=0x2C00)
    requests: u32 = relaxed()
    control: u32 = relaxed()
    wake: u32 = relaxed()  # futex word: changes with each wake-up
    parked: u32 = relaxed()  # 1: holds nothing that a request could concern, and serves requests before it runs again
    activity: u32 = relaxed()
    requests_made: u64 = relaxed()
    requests_served: u64 = relaxed()
    instret: u64 = relaxed()  # instructions retired when the hart last looked up, for others to read

    # shared by all harts of a machine: a byte per page of RAM, one bit a hart, then ROM
    code_map: u64 = plain(offset=0x2D00)  # the hart has decoded code of the page
    store_map: u64 = plain()  # the hart may have the page in a store TLB
    stamps: u64 = plain()  # a u32 per page: changes when somebody else's code of the page is written
    code_generation: u64 = plain()  # address of a u64: changes with every stamp
    dirty_map: u64 = plain()  # a byte per page of RAM; 0: none

    peers: u64 = plain()  # address of an array of u64: the harts of the machine
    peer_count: u64 = plain()
    peer_bit: u64 = plain()  # this hart's bit in the maps

    data_banks: Array[DataTlb] = plain(count=DATA_BANKS, offset=0x3000)
    fetch_banks: Array[FetchTlb] = plain(count=FETCH_BANKS)


class SlotPage(Record):
    """What a page of slots was decoded from."""

    page: u64 = plain()  # number of the page in code_index
    stamp: u32 = plain()
    stores: u32 = plain()  # of this hart, to the page
    referenced: u32 = plain()  # looked up since the clock's hand passed
    live: u32 = plain()  # 0: released
    next_free: u64 = plain()  # as pool_free


@fn(inline=True)
def retired(hart: Hart) -> u64:
    """Instructions that the hart has executed since it was made; exact for the calling hart."""
    return wrap64(hart.horizon - hart.budget)
