"""What IEEE 754 and RISC-V say of every floating-point operation, computed with exact fractions.

Slow, and written apart from core/cpu/softfloat, to be held against it: a finite value is a Fraction, an operation is
computed exactly, and one function rounds. `expected("fp64_add", (a, b), rm)` returns the result and the flags.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

RNE, RTZ, RDN, RUP, RMM = MODES = range(5)
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16


@dataclass(frozen=True)
class Format:
    width: int
    precision: int  # with the implicit bit
    emax: int

    @property
    def emin(self):
        return 1 - self.emax

    @property
    def infinity(self):
        return (2 * self.emax + 1) << (self.precision - 1)

    @property
    def nan(self):
        return self.infinity | self.quiet_bit

    @property
    def quiet_bit(self):
        return 1 << (self.precision - 2)

    @property
    def sign_bit(self):
        return 1 << (self.width - 1)

    def magnitude(self, bits):
        return bits & (self.sign_bit - 1)

    def negative(self, bits):
        return bool(bits & self.sign_bit)

    def is_nan(self, bits):
        return self.magnitude(bits) > self.infinity

    def is_signaling(self, bits):
        return self.is_nan(bits) and not bits & self.quiet_bit

    def is_infinite(self, bits):
        return self.magnitude(bits) == self.infinity

    def value(self, bits):
        """The number of a finite pattern."""
        field, fraction = divmod(self.magnitude(bits), 1 << (self.precision - 1))
        if field:
            fraction += 1 << (self.precision - 1)
        number = fraction * power_of_two(max(field, 1) - self.emax - self.precision + 1)
        return -number if self.negative(bits) else number

    def zero(self, negative):
        return self.sign_bit if negative else 0


BINARY32 = Format(32, 24, 127)
BINARY64 = Format(64, 53, 1023)
FORMATS = {32: BINARY32, 64: BINARY64}


def power_of_two(exponent):
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def floor_log2(number):
    guess = number.numerator.bit_length() - number.denominator.bit_length()
    return guess if power_of_two(guess) <= number else guess - 1


def round_integer(number, rm):
    """A Fraction rounded to an integer."""
    below = math.floor(number)
    rest = number - below
    if rm == RNE:
        return below + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2))
    if rm == RMM:
        return below + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and number > 0))
    if rm == RTZ:
        return below + (number < 0 and rest > 0)
    return below + (rm == RUP and rest > 0)


def round_number(form, number, rm):
    """The pattern and flags of a Fraction other than zero."""
    exponent = floor_log2(abs(number))
    quantum = max(exponent, form.emin) - form.precision + 1
    rounded = round_integer(number / power_of_two(quantum), rm)
    value = rounded * power_of_two(quantum)
    sign = form.zero(number < 0)
    if abs(value) >= power_of_two(form.emax + 1):
        to_infinity = rm in (RNE, RMM) or rm == (RDN if number < 0 else RUP)
        return sign | (form.infinity if to_infinity else form.infinity - 1), OF | NX
    flags = 0
    if value != number:
        unbounded = round_integer(number / power_of_two(exponent - form.precision + 1), rm)
        tiny = abs(unbounded) * power_of_two(exponent - form.precision + 1) < power_of_two(form.emin)
        flags = NX | UF if tiny else NX
    # A number of the normal range has its implicit bit in `rounded`, one less than what the field says.
    return sign | (((quantum - form.emin + form.precision - 1) << (form.precision - 1)) + abs(rounded)), flags


def round_sum(form, number, rm, zero_negative):
    return round_number(form, number, rm) if number else (form.zero(zero_negative), 0)


def nan_of(form, *operands):
    return form.nan, NV if any(map(form.is_signaling, operands)) else 0


def invalid(form):
    return form.nan, NV


def add(form, a, b, rm):
    if form.is_nan(a) or form.is_nan(b):
        return nan_of(form, a, b)
    if form.is_infinite(a) or form.is_infinite(b):
        if form.is_infinite(a) and form.is_infinite(b) and a != b:
            return invalid(form)
        return (a if form.is_infinite(a) else b), 0
    same = form.negative(a) == form.negative(b)
    return round_sum(form, form.value(a) + form.value(b), rm, form.negative(a) if same else rm == RDN)


def sub(form, a, b, rm):
    return add(form, a, b ^ form.sign_bit, rm)


def mul(form, a, b, rm):
    if form.is_nan(a) or form.is_nan(b):
        return nan_of(form, a, b)
    negative = form.negative(a ^ b)
    if form.is_infinite(a) or form.is_infinite(b):
        if not form.magnitude(a) or not form.magnitude(b):
            return invalid(form)
        return form.zero(negative) | form.infinity, 0
    return round_sum(form, form.value(a) * form.value(b), rm, negative)


def div(form, a, b, rm):
    if form.is_nan(a) or form.is_nan(b):
        return nan_of(form, a, b)
    sign = form.zero(form.negative(a ^ b))
    if form.is_infinite(a):
        return invalid(form) if form.is_infinite(b) else (sign | form.infinity, 0)
    if form.is_infinite(b):
        return sign, 0
    if not form.magnitude(b):
        return (sign | form.infinity, DZ) if form.magnitude(a) else invalid(form)
    return round_sum(form, form.value(a) / form.value(b), rm, bool(sign))


def sqrt(form, a, rm):
    if form.is_nan(a):
        return nan_of(form, a)
    if not form.magnitude(a):
        return a, 0
    if form.negative(a):
        return invalid(form)
    if form.is_infinite(a):
        return a, 0
    # To 2**-1200 the root has more bits than any format; half a unit stands for all that follow.
    scaled = form.value(a) * power_of_two(2400)
    root = math.isqrt(math.floor(scaled))
    inexact = root * root != scaled
    return round_number(form, (root + (Fraction(1, 2) if inexact else 0)) * power_of_two(-1200), rm)


def fma(form, a, b, c, rm):
    zero_times_infinity = any(form.is_infinite(x) and not form.magnitude(y) for x, y in ((a, b), (b, a)))
    if zero_times_infinity:
        return invalid(form)
    if form.is_nan(a) or form.is_nan(b) or form.is_nan(c):
        return nan_of(form, a, b, c)
    negative = form.negative(a ^ b)
    if form.is_infinite(a) or form.is_infinite(b):
        infinite = form.zero(negative) | form.infinity
        return invalid(form) if form.is_infinite(c) and c != infinite else (infinite, 0)
    if form.is_infinite(c):
        return c, 0
    same = negative == form.negative(c)
    return round_sum(form, form.value(a) * form.value(b) + form.value(c), rm, negative if same else rm == RDN)


def ordered(form, bits):
    """A key that sorts patterns other than NaNs, -0 before +0."""
    return -form.magnitude(bits) - 1 if form.negative(bits) else form.magnitude(bits)


def smallest_or_largest(choose):
    def operation(form, a, b):
        _, flags = nan_of(form, a, b)
        numbers = [x for x in (a, b) if not form.is_nan(x)]
        return choose(numbers, key=lambda x: ordered(form, x)) if numbers else form.nan, flags

    return operation


def compare(relation, quiet):
    def operation(form, a, b):
        if form.is_nan(a) or form.is_nan(b):
            return 0, nan_of(form, a, b)[1] if quiet else NV
        zeros_alike = [0 if not form.magnitude(x) else ordered(form, x) for x in (a, b)]
        return int(relation(*zeros_alike)), 0

    return operation


def classify(form, a):
    if form.is_nan(a):
        return (1 << 8 if form.is_signaling(a) else 1 << 9), 0
    smallest_normal = 1 << (form.precision - 1)
    steps = (0, 1, smallest_normal, form.infinity)
    rank = sum(form.magnitude(a) >= step for step in steps)
    return 1 << (4 - rank if form.negative(a) else 3 + rank), 0


def convert(new_form):
    def operation(form, a, rm):
        sign = new_form.zero(form.negative(a))
        if form.is_nan(a):
            return new_form.nan, nan_of(form, a)[1]
        if form.is_infinite(a):
            return sign | new_form.infinity, 0
        return round_sum(new_form, form.value(a), rm, bool(sign))

    return operation


def to_integer(signed, bits):
    smallest, largest = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)

    def in_register(integer):
        integer &= (1 << bits) - 1
        return (integer - (1 << bits) if integer >> (bits - 1) else integer) & ((1 << 64) - 1)

    def operation(form, a, rm):
        if form.is_nan(a):
            return in_register(largest), NV
        if form.is_infinite(a):
            return in_register(smallest if form.negative(a) else largest), NV
        integer = round_integer(form.value(a), rm)
        if not smallest <= integer <= largest:
            return in_register(smallest if integer < 0 else largest), NV
        return in_register(integer), NX if integer != form.value(a) else 0

    return operation


def from_integer(signed, bits):
    def operation(form, register, rm):
        integer = register & ((1 << bits) - 1)
        if signed and integer >> (bits - 1):
            integer -= 1 << bits
        return round_sum(form, Fraction(integer), rm, False)

    return operation


@dataclass(frozen=True)
class Operation:
    name: str  # of the function in core.cpu.softfloat
    form: Format  # of its operands, or of its result if these are integers
    operands: int
    rounds: bool  # takes a rounding mode
    compute: object
    integer_operand: bool = False

    def expected(self, operands, rm):
        return self.compute(self.form, *operands, *([rm] if self.rounds else []))


INTEGERS = list(product("iu", (32, 64)))
OPERATIONS = {}
for _form in (BINARY32, BINARY64):
    _prefix = f"fp{_form.width}_"
    for _operation in (
        *(Operation(_prefix + f.__name__, _form, 2, True, f) for f in (add, sub, mul, div)),
        Operation(_prefix + "sqrt", _form, 1, True, sqrt),
        Operation(_prefix + "fma", _form, 3, True, fma),
        Operation(_prefix + "min", _form, 2, False, smallest_or_largest(min)),
        Operation(_prefix + "max", _form, 2, False, smallest_or_largest(max)),
        Operation(_prefix + "eq", _form, 2, False, compare(lambda x, y: x == y, quiet=True)),
        Operation(_prefix + "lt", _form, 2, False, compare(lambda x, y: x < y, quiet=False)),
        Operation(_prefix + "le", _form, 2, False, compare(lambda x, y: x <= y, quiet=False)),
        Operation(_prefix + "classify", _form, 1, False, classify),
        *(Operation(f"{_prefix}to_{s}{n}", _form, 1, True, to_integer(s == "i", n)) for s, n in INTEGERS),
        *(Operation(f"{_prefix}from_{s}{n}", _form, 1, True, from_integer(s == "i", n), True) for s, n in INTEGERS),
    ):
        OPERATIONS[_operation.name] = _operation
OPERATIONS["fp32_from_fp64"] = Operation("fp32_from_fp64", BINARY64, 1, True, convert(BINARY32))
OPERATIONS["fp64_from_fp32"] = Operation("fp64_from_fp32", BINARY32, 1, True, convert(BINARY64))


def expected(name, operands, rm):
    """The result and the flags of core.cpu.softfloat's function of that name."""
    return OPERATIONS[name].expected(operands, rm)


def special_values(form):
    """Patterns on either side of every boundary: of the ranges, of the precision, of the integer types; and NaNs."""
    one = form.emax << (form.precision - 1)
    ulp = power_of_two(1 - form.precision)
    numbers = [Fraction(n) for n in (1, 2, 3, 5, 10)]
    numbers += [1 + ulp, 1 - ulp / 2, 1 + 3 * ulp, 2 - ulp, Fraction(1, 2) + ulp / 2, Fraction(1, 2) - ulp / 4]
    numbers += [Fraction(1, 2), Fraction(3, 2), Fraction(5, 2), Fraction(1, 3), Fraction(355, 113)]
    numbers += [power_of_two(n) for n in (form.precision - 1, form.precision, form.precision + 1, 31, 32, 63, 64)]
    numbers += [power_of_two(n) * (1 - ulp / 2) for n in (31, 32, 63, 64)]
    numbers += [power_of_two(31) - Fraction(1, 2), power_of_two(32) - Fraction(1, 2)]
    numbers += [
        power_of_two(form.emin // 2),
        power_of_two(form.emin // 2 - 12) * (1 + ulp),
        power_of_two(form.emax // 2),
    ]
    positive = {round_number(form, number, RNE)[0] for number in numbers}
    smallest_normal = 1 << (form.precision - 1)
    positive |= {0, 1, 2, 3, smallest_normal // 2, smallest_normal - 1, smallest_normal, smallest_normal + 1}
    positive |= {smallest_normal * form.precision + 1, form.infinity - 1, form.infinity - 2}
    positive |= {form.infinity - smallest_normal, form.infinity, form.nan, form.nan | 1, form.infinity | 1}
    positive.add(one + smallest_normal // 2 + 1)
    return sorted(positive) + [form.sign_bit | bits for bits in sorted(positive)]


def special_integers():
    """Registers around the limits of the integer types and of the precisions."""
    centres = [0] + [1 << n for n in (24, 25, 31, 32, 53, 54, 55, 63)] + [3 << 62, 0x8000_0000 << 32 | 0x8000_0000]
    return sorted({(centre + step) % (1 << 64) for centre in centres for step in (-3, -2, -1, 0, 1, 2, 3)})
