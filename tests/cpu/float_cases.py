"""Operands for tests of floating point: every boundary crossed with every other, and patterns of any exponent."""

from itertools import product

from float_oracle import MODES, OPERATIONS, special_integers, special_values


def modes_of(operation):
    return MODES if operation.rounds else [None]


def corner_values(form):
    """The values that decide on special cases, few enough to cross three times."""
    one = form.emax << (form.precision - 1)
    smallest_normal = 1 << (form.precision - 1)
    positive = [0, 1, smallest_normal - 1, smallest_normal, one - 1, one, one + 1, one + smallest_normal // 2]
    positive += [one + smallest_normal * form.precision, form.infinity - 1, form.infinity, form.nan, form.infinity | 1]
    return positive + [form.sign_bit | bits for bits in positive]


def corner_cases(name):
    """All combinations of the corner values, in every rounding mode."""
    operation = OPERATIONS[name]
    values = special_integers() if operation.integer_operand else corner_values(operation.form)
    return list(product(product(values, repeat=operation.operands), modes_of(operation)))


def special_cases(name):
    """All pairs of the special values (the corner values where there are three operands), in every rounding mode."""
    operation = OPERATIONS[name]
    if operation.operands == 3 or operation.integer_operand:
        return corner_cases(name)
    values = special_values(operation.form)
    return list(product(product(values, repeat=operation.operands), modes_of(operation)))


def random_pattern(form, random):
    """Any pattern; half of the time near 1, so that operands meet, and a third of the time with few bits set."""
    fraction = random.getrandbits(form.precision - 1)
    if random.randrange(3) == 0:
        fraction = (1 << (form.precision - 1)) - 1 & (fraction << random.randrange(form.precision - 1))
    near = random.randrange(form.emax - form.precision - 9, form.emax + form.precision + 10)
    exponent = near if random.random() < 0.5 else random.randrange(2 * form.emax + 2)
    return random.getrandbits(1) << (form.width - 1) | exponent << (form.precision - 1) | fraction


def random_integer(random):
    return random.getrandbits(64) >> random.randrange(64) ^ random.choice([0, 0xFFFF_FFFF, (1 << 64) - 1])


def random_cases(name, count, random):
    """`count` random operands, in the rounding modes in turn."""
    operation = OPERATIONS[name]
    modes = modes_of(operation)
    cases = []
    for index in range(count):
        draw = random_integer if operation.integer_operand else lambda r: random_pattern(operation.form, r)
        cases.append((tuple(draw(random) for _ in range(operation.operands)), modes[index % len(modes)]))
    return cases


def close_sums(name, count, random):
    """Operands of a fused multiply-add whose product nearly cancels the addend, or is lost in it."""
    form = OPERATIONS[name].form
    cases = []
    for index in range(count):
        a, b = (random_pattern(form, random) for _ in range(2))
        product_exponent = sum((form.magnitude(x) >> (form.precision - 1)) - form.emax for x in (a, b))
        field = product_exponent + form.emax + random.randrange(-form.precision - 3, form.precision + 4)
        field = min(max(field, 0), 2 * form.emax)
        c = random_pattern(form, random) & ~form.infinity | field << (form.precision - 1)
        cases.append(((a, b, c), MODES[index % len(MODES)]))
    return cases
