"""Platform-level interrupt controller, as on QEMU's virt: 53 sources, an M and an S context for each hart.

Register map and behaviour: RISC-V Platform-Level Interrupt Controller Specification 1.0. All sources are
level-triggered wires: a source is pending while its line is high and its gateway is open; a claim shuts the gateway, a
completion opens it again. Context 2h is hart h's M-mode, 2h + 1 its S-mode. Registers are 32 bits wide; what is not
there reads 0 and ignores writes.

Any thread may raise or lower a line; the harts concerned are told at once (`set_mip`, `notify_hart`).
"""

from core.board.lock import lock, unlock
from core.board.state import PLIC_SOURCES, Board, Plic
from core.cpu.signal import clear_mip, set_mip
from core.cpu.state import Hart
from core.cpu.status import MIP_MEIP, MIP_SEIP
from native import addressof, ctz64, fn, load32, u32, u64, wrap32

PRIORITY = 0x000000  # one word a source
PENDING = 0x001000  # one bit a source
ENABLE = 0x002000  # 0x80 a context, one bit a source
ENABLE_STRIDE = 0x80
CONTEXT = 0x200000  # 0x1000 a context: threshold, claim/complete
CONTEXT_STRIDE = 0x1000
SIZE = 0x600000

MAX_PRIORITY = 7
WIRED = (1 << PLIC_SOURCES) - 2  # bits of the sources that exist


@fn
def plic_best(plic: Plic, context: u32, floor: u32) -> u32:
    """The pending source of `context` above priority `floor`: highest first, then lowest number; 0: none."""
    candidates: u64 = plic.level & ~plic.claimed & plic.enable[context]
    best: u32 = 0
    best_priority: u32 = floor
    while candidates != 0:
        source: u32 = u32(ctz64(candidates))
        if plic.priority[source] > best_priority:
            best = source
            best_priority = plic.priority[source]
        candidates = candidates & (candidates - 1)
    return best


@fn
def plic_update(board: Board) -> None:
    """Tell each hart whose external interrupt line changed. The caller holds the lock."""
    plic = board.plic
    for context in range(plic.ncontexts):
        bit: u64 = u64(1) << context
        wanted: bool = plic_best(plic, context, plic.threshold[context]) != 0
        if wanted == ((plic.asserted & bit) != 0):
            continue
        plic.asserted = plic.asserted ^ bit
        hart = Hart(board.harts[context >> 1])
        line: u64 = MIP_SEIP if (context & 1) != 0 else MIP_MEIP
        if wanted:
            set_mip(hart, line)
        else:
            clear_mip(hart, line)


@fn
def plic_set_line(board: Board, source: u32, high: bool) -> None:
    """Drive the line of `source`. The caller orders its own calls (it holds the device's lock)."""
    plic = board.plic
    bit: u64 = u64(1) << source
    lock(addressof(plic.lock))
    if ((plic.level & bit) != 0) != high:
        plic.level = plic.level ^ bit
        plic_update(board)
    unlock(addressof(plic.lock))


@fn
def plic_follow(board: Board, source: u32, word: u64) -> None:
    """Drive the line of `source` with "the word at `word` is not 0". Needs no lock: the last caller sees the truth."""
    plic = board.plic
    bit: u64 = u64(1) << source
    lock(addressof(plic.lock))
    high: bool = load32(word) != 0
    if ((plic.level & bit) != 0) != high:
        plic.level = plic.level ^ bit
        plic_update(board)
    unlock(addressof(plic.lock))


@fn
def plic_claim(board: Board, context: u32) -> u32:
    """Read of claim/complete: the best source whatever the threshold, and its gateway shuts; 0 when there is none."""
    plic = board.plic
    source: u32 = plic_best(plic, context, 0)
    if source != 0:
        plic.claimed = plic.claimed | (u64(1) << source)
        plic_update(board)
    return source


@fn
def plic_complete(board: Board, context: u32, source: u32) -> None:
    """Write of claim/complete: open the gateway. Ignored unless the source is enabled for the context."""
    plic = board.plic
    if source >= PLIC_SOURCES:
        return
    bit: u64 = u64(1) << source
    if (plic.enable[context] & plic.claimed & bit) != 0:
        plic.claimed = plic.claimed & ~bit
        plic_update(board)


@fn
def plic_read(board: Board, offset: u64) -> u32:
    """Read the register at `offset` (a multiple of 4)."""
    plic = board.plic
    value: u32 = 0
    lock(addressof(plic.lock))
    if offset < PENDING:
        if offset < 4 * PLIC_SOURCES:
            value = plic.priority[offset >> 2]
    elif offset < ENABLE:
        value = half_of(plic.level & ~plic.claimed, (offset - PENDING) >> 2)
    elif offset < CONTEXT:
        owner: u64 = (offset - ENABLE) // ENABLE_STRIDE
        if owner < u64(plic.ncontexts):
            value = half_of(plic.enable[owner], (offset & (ENABLE_STRIDE - 1)) >> 2)
    else:
        context: u64 = (offset - CONTEXT) // CONTEXT_STRIDE
        register: u64 = offset & (CONTEXT_STRIDE - 1)
        if context < u64(plic.ncontexts):
            if register == 0:
                value = plic.threshold[context]
            elif register == 4:
                value = plic_claim(board, u32(context))
    unlock(addressof(plic.lock))
    return value


@fn
def plic_write(board: Board, offset: u64, value: u32) -> None:
    """Write the register at `offset` (a multiple of 4)."""
    plic = board.plic
    lock(addressof(plic.lock))
    if offset < PENDING:
        if 4 <= offset < 4 * PLIC_SOURCES:
            plic.priority[offset >> 2] = value & MAX_PRIORITY
            plic_update(board)
    elif ENABLE <= offset < CONTEXT:
        owner: u64 = (offset - ENABLE) // ENABLE_STRIDE
        word: u64 = (offset & (ENABLE_STRIDE - 1)) >> 2
        if owner < u64(plic.ncontexts) and word < 2:
            kept: u64 = plic.enable[owner] & ~(u64(0xFFFFFFFF) << (32 * word))
            plic.enable[owner] = (kept | (u64(value) << (32 * word))) & WIRED
            plic_update(board)
    elif offset >= CONTEXT:
        context: u64 = (offset - CONTEXT) // CONTEXT_STRIDE
        register: u64 = offset & (CONTEXT_STRIDE - 1)
        if context < u64(plic.ncontexts):
            if register == 0:
                plic.threshold[context] = value & MAX_PRIORITY
                plic_update(board)
            elif register == 4:
                plic_complete(board, u32(context), value)
    unlock(addressof(plic.lock))


@fn(inline=True)
def half_of(word: u64, half: u64) -> u32:
    """The lower (0) or upper (1) 32 bits; 0 beyond."""
    if half > 1:
        return 0
    return wrap32(word >> (32 * half))
