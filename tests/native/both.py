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
    """Functions compiled together; `check` demands that all runs agree."""

    def __init__(self, functions, **options):
        functions = list(functions)
        self.release = Unit("both", functions, **options).load()
        self.debug = Unit("both", functions, debug=True, **options).load()

    def check(self, function, *args):
        """The outcome. Where the Python run raises, the debug build raises the same, and a release build lives."""
        expected = outcome(function, *args)
        assert outcome(getattr(self.debug, function.name), *args) == expected
        machine = outcome(getattr(self.release, function.name), *args)
        if expected[0] == "value":
            assert machine == expected
        return expected


def declare(source, **scope):
    """Compile source text that declares functions; gives its names."""
    import native

    names = {"__name__": "tests.native.generated", **vars(native), **scope}
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

    def check(self, both, function, *args, fill=b"\0"):
        expected = self.run(function, *args, fill=fill)
        assert self.run(getattr(both.debug, function.name), *args, fill=fill)[0] == expected[0]
        machine = self.run(getattr(both.release, function.name), *args, fill=fill)
        if expected[0][0] == "value":
            assert machine == expected
        return expected[0]
