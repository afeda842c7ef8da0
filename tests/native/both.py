"""Running one function all ways on the same inputs: as Python, as a debug build and as a release build."""

from native import Area, Array, Record, Unit, define, plain, u64

SCRATCH = 256  # words


class Scratch(Record):
    """Memory a function under test may use, compared afterwards."""

    words: Array[u64] = plain(count=SCRATCH)


def outcome(function, *args):
    """What a call gives: ("value", v) or ("raises", class)."""
    try:
        return "value", function(*args)
    except Exception as error:
        return "raises", type(error)


class Both:
    """Functions compiled together, for release and for debugging."""

    def __init__(self, functions, **options):
        functions = list(functions)
        self.release = Unit("both", functions, **options).load()
        self.debug = Unit("both", functions, debug=True, **options).load()


def declare(source, **scope):
    """Compile source text that declares functions; gives its names."""
    import native

    names = {**vars(native), "__name__": "tests.native.generated", **scope}
    return define(source, names)


class Memory:
    """A scratch record, filled the same way before each run."""

    def __init__(self):
        self.area = Area.allocate(Scratch.size())
        self.record = Scratch(self.area.address)

    def run(self, function, *args, fill=b"\0"):
        """Outcome and contents afterwards, of a function whose first argument is the record."""
        view = self.area.view()
        view[:] = (fill * len(view))[: len(view)]
        return outcome(function, self.record, *args), bytes(view)

    def check(self, both, function, *args, fill=b"\0", survives=False):
        """All runs agree. Where the Python run raises, so does the debug build; the release build is then only run
        when the function `survives` that: it computes nonsense, which must not crash."""
        expected = self.run(function, *args, fill=fill)
        assert self.run(getattr(both.debug, function.name), *args, fill=fill)[0] == expected[0]
        value = expected[0][0] == "value"
        if value or survives:
            machine = self.run(getattr(both.release, function.name), *args, fill=fill)
            assert machine == expected or not value
        return expected[0]
