"""Booting: where files go, and what is said about those that cannot go anywhere."""

import struct

import pytest

from core.board.boot import BootFiles, Mode, place, plan_boot
from core.board.virt import RAM_BASE, Machine
from native import Area
from proto.errors import ConfigError

MEGABYTE = 1 << 20
MACHINE = Machine(memory=64 * MEGABYTE)


def elf(entry=RAM_BASE, segments=((RAM_BASE, b"code", 16),), machine=243, wide=True) -> bytes:
    """A small ELF executable; a segment is (physical address, bytes, size in memory)."""
    head, entry_size = (64, 56) if wide else (52, 32)
    offset = head + entry_size * len(segments)
    headers, body = b"", b""
    for physical, data, extent in segments:
        at = offset + len(body)
        if wide:
            headers += struct.pack("<IIQQQQQQ", 1, 7, at, physical, physical, len(data), extent, 8)
        else:
            headers += struct.pack("<8I", 1, at, physical, physical, len(data), extent, 7, 4)
        body += data
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    form = "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH"
    header = struct.pack(form, 2, machine, 1, entry, head, 0, 0, head, entry_size, len(segments), 0, 0, 0)
    return ident + header + headers + body


def image(size, image_size, text_offset=0x200000) -> bytes:
    """A Linux Image: only its header matters."""
    header = struct.pack("<IIQQQIIQ", 0x6F, 0, text_offset, image_size, 0, 2, 0, 0) + b"RISCV\0\0\0RSC\x05"
    return header.ljust(size, b"k")


@pytest.fixture
def write(tmp_path):
    def write(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


def where(boot):
    return {piece.name: piece.address for piece in boot.pieces}


def test_an_image_starts_in_s_mode_2_mib_into_ram_with_initrd_and_tree_above(write):
    files = BootFiles(kernel=write("Image", image(3 * MEGABYTE, 5 * MEGABYTE)), initrd=write("initrd", b"i" * 5000))
    boot = plan_boot(MACHINE, files)
    assert (boot.mode, boot.entry) == (Mode.SUPERVISOR, RAM_BASE + 0x200000)
    assert where(boot)["initrd"] == RAM_BASE + 34 * MEGABYTE
    assert boot.device_tree == RAM_BASE + 62 * MEGABYTE


def test_the_image_header_says_how_much_room_the_kernel_needs(write):
    with pytest.raises(ConfigError, match="Image needs 0x80200000"):
        plan_boot(MACHINE, BootFiles(kernel=write("Image", image(4096, 63 * MEGABYTE))))


def test_a_bare_metal_elf_starts_at_its_entry_through_the_boot_rom(write):
    path = write("hello.elf", elf(RAM_BASE + 2, ((RAM_BASE, b"code", 0x1000), (RAM_BASE + 0x2000, b"data", 8))))
    boot = plan_boot(MACHINE, BootFiles(kernel=path, bios="none"))
    assert (boot.mode, boot.entry) == (Mode.MACHINE, 0x1000)
    assert struct.unpack_from("<QQ", boot.rom, 24) == (RAM_BASE + 2, boot.device_tree)


def test_a_32_bit_elf_is_for_a_32_bit_machine(write):
    path = write("rv32.elf", elf(wide=False))
    with pytest.raises(ConfigError, match="32-bit program; this machine is RV64"):
        plan_boot(MACHINE, BootFiles(kernel=path, bios="none"))
    boot = plan_boot(Machine(memory=64 * MEGABYTE, xlen=32), BootFiles(kernel=path, bios="none"))
    assert boot.pieces[0].address == RAM_BASE


def test_a_flat_program_starts_at_the_start_of_ram(write):
    boot = plan_boot(MACHINE, BootFiles(kernel=write("flat.bin", b"flat"), bios="none"))
    assert where(boot)["flat.bin"] == RAM_BASE
    assert boot.mode is Mode.MACHINE


def test_firmware_is_told_where_the_kernel_is(write):
    bios = write("fw.bin", b"f" * (3 * MEGABYTE))
    boot = plan_boot(MACHINE, BootFiles(bios=bios, kernel=write("u-boot.bin", b"u")))
    assert where(boot)["u-boot.bin"] == RAM_BASE + 4 * MEGABYTE
    magic, version, next_address, next_mode = struct.unpack_from("<4Q", boot.rom, 40)
    assert (magic, version, next_address, next_mode) == (0x4942534F, 2, RAM_BASE + 4 * MEGABYTE, 1)


def test_a_boot_sector_goes_to_the_start_of_ram(write):
    boot = plan_boot(MACHINE, BootFiles(boot_sector=b"\x13" * 512))
    assert boot.pieces[0].address == RAM_BASE
    assert boot.mode is Mode.MACHINE


def test_pieces_are_placed_and_their_rest_zeroed(write):
    boot = plan_boot(MACHINE, BootFiles(kernel=write("a.elf", elf()), bios="none"))
    ram = Area.allocate(MACHINE.memory)
    try:
        ram.view()[:32] = b"\xff" * 32
        place(boot, ram.view())
        assert bytes(ram.view()[:20]) == b"code" + bytes(12) + b"\xff" * 4
    finally:
        ram.close()


def test_a_tree_fits_into_the_smallest_ram(write):
    boot = plan_boot(Machine(memory=MEGABYTE), BootFiles(kernel=write("flat.bin", b"flat"), bios="none"))
    assert RAM_BASE < boot.device_tree < RAM_BASE + MEGABYTE


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty", b"", "is empty"),
        ("x86.elf", elf(machine=62), "not for RISC-V"),
        ("cut.elf", elf()[:-2], "cut short"),
        ("head.elf", elf()[:80], "damaged ELF"),
        ("none.elf", elf(segments=()), "nothing to load"),
        ("high.elf", elf(0xFFFFFFFF80000000), "which it does not load"),
        ("low.elf", elf(0x1000, ((0x1000, b"x", 1),)), "low.elf segment 0 needs 0x1000"),
        ("vmlinuz", b"\x1f\x8b\x08" + bytes(100), "gzip"),
        ("efi", b"MZ" + bytes(100), "EFI"),
        ("huge", bytes(63 * MEGABYTE), "huge needs"),
    ],
)
def test_a_kernel_that_cannot_start_is_named_with_its_fault(write, name, data, words):
    with pytest.raises(ConfigError, match=words) as error:
        plan_boot(MACHINE, BootFiles(kernel=write(name, data)))
    assert name in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=f"--kernel {path}: No such file"):
        plan_boot(MACHINE, BootFiles(kernel=path))
    with pytest.raises(ConfigError, match="--bios"):
        plan_boot(MACHINE, BootFiles(bios=path))


def test_an_initrd_that_does_not_fit_is_named(write):
    files = BootFiles(kernel=write("Image", image(4096, MEGABYTE)), initrd=write("initrd", bytes(62 * MEGABYTE)))
    with pytest.raises(ConfigError, match="initrd"):
        plan_boot(MACHINE, files)


def test_nothing_to_start_is_an_error():
    with pytest.raises(ConfigError, match="nothing to start"):
        plan_boot(MACHINE, BootFiles())
