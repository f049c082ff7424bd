"""How a Python program is run inside a sandbox, and how what it returns is told. Loaded by `runner`.

Owns: the program's module, the names that judges of programming contests import for it, finding the function, JSON.
Does not own: processes and limits (`runner`), or judging. Standard library only, as `runner`.

A program may use names that it did not import, as solutions to LeetCode's stubs do: each name that it mentions and that
`_PRELOADED` knows is imported beforehand, and no other, since an import costs more than most programs.
"""

import builtins
import os
import sys
from _json import encode_basestring_ascii

RESULT_FD = 3
SET_KEY = "\0set"
"""A set is told as `{SET_KEY: [elements, sorted as text]}`: it has no order that a list could be compared with."""
_RECURSION_LIMIT = 50_000
_MAX_STACK_BYTES = 128 << 20
"""Of a thread. Contest programs ask for up to 512 MiB and touch little of it, but address space is limited here."""
_MODULES = (
    "array bisect collections copy datetime decimal fractions functools heapq io itertools json math operator os "
    "random re statistics string sys time typing"
)
_NAMES = {
    "collections": "ChainMap Counter OrderedDict defaultdict deque namedtuple",
    "typing": "Any Callable DefaultDict Deque Dict FrozenSet Generator Generic Iterable Iterator List Literal Mapping "
    "NamedTuple Optional Sequence Set Tuple TypeVar Union",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "bisect": "bisect_left bisect_right insort insort_left insort_right",
    "math": "acos asin atan atan2 ceil comb cos dist exp factorial floor fmod gcd hypot inf isclose isqrt lcm log "
    "log10 log2 nan perm pi prod radians sin sqrt tan trunc",
    "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile groupby "
    "islice pairwise permutations product repeat starmap takewhile zip_longest",
    "functools": "cache cached_property cmp_to_key lru_cache partial reduce total_ordering wraps",
    "operator": "and_ attrgetter itemgetter mul or_ xor",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation",
    "random": "choice choices randint randrange sample shuffle",
    "copy": "deepcopy",
    "io": "BytesIO StringIO",
    "sys": "maxsize setrecursionlimit stdin stdout",
    "datetime": "date timedelta",
    "dataclasses": "dataclass field",
    "enum": "Enum",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "statistics": "mean median mode stdev",
    "sortedcontainers": "SortedDict SortedList SortedSet",
}
_PRELOADED = {name: (name, "") for name in _MODULES.split()}
_PRELOADED |= {name: (module, name) for module, names in _NAMES.items() for name in names.split()}


def run(source, call):
    """Run a Python program, then a function of it if asked. Returns the exit code.

    Without a function to call the program is `__main__`; with one it is a module, and what it does only as `__main__`
    (reading input, trying itself out) does not happen.
    """
    _set_up()
    module = type(sys)("__main__" if call is None else "solution")
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    code = 0
    try:
        compiled = compile(source, "program.py", "exec", dont_inherit=True)
        _preload(compiled, module.__dict__)
        exec(compiled, module.__dict__)  # noqa: S102
        if call is not None:
            _call(module, call)
    except SystemExit as ending:
        if isinstance(ending.code, str):
            sys.stderr.write(ending.code)
        code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    return code & 0xFF


def _set_up():
    """Streams, limits and paths as contest judges have them."""
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    os.chdir("/tmp")  # noqa: S108
    sys.argv = ["program.py"]
    sys.path.append("/packages")
    sys.setrecursionlimit(_RECURSION_LIMIT)
    sys.set_int_max_str_digits(0)
    _bound_thread_stacks()


def _bound_thread_stacks():
    import _thread

    set_stack_size = _thread.stack_size
    _thread.stack_size = lambda size=0: set_stack_size(min(size, _MAX_STACK_BYTES))


def _preload(code, namespace):
    """Import the well-known names that the program mentions anywhere; its own definitions replace them."""
    pending = [code]
    while pending:
        current = pending.pop()
        for name in current.co_names:
            if name in _PRELOADED and name not in namespace and not hasattr(builtins, name):
                module, attribute = _PRELOADED[name]
                try:
                    found = __import__(module)
                except ImportError:
                    continue
                namespace[name] = getattr(found, attribute) if attribute else found
        pending += [constant for constant in current.co_consts if isinstance(constant, type(code))]


def _call(module, call):
    args = call["args"]
    value = _function(module, call["function"])(*args, **call["kwargs"])
    text = to_json(value)
    if value is None and args:
        text += "\n" + to_json(args[0])
    with open(RESULT_FD, "w", closefd=False) as stream:
        stream.write(text)


def _function(module, name):
    """`solve`, or a method of an instance made without arguments: `Solution.solve`. Each may stand in for the other."""
    owner, _, function = name.rpartition(".")
    holder = getattr(module, owner or "Solution", None)
    if holder is not None and (owner or not hasattr(module, function)) and hasattr(holder, function):
        return getattr(holder(), function)
    return getattr(module, function)


def to_json(value):
    """JSON text of plain data: tuples become lists, keys text, numpy's values plain ones.

    Raises:
        TypeError: something in it is not plain data.
    """
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return encode_basestring_ascii(str(value))
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value).replace("inf", "Infinity").replace("nan", "NaN")
    if isinstance(value, dict):
        items = (f"{encode_basestring_ascii(str(key))}:{to_json(item)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, (set, frozenset)):
        return f"{{{encode_basestring_ascii(SET_KEY)}:[{','.join(sorted(map(to_json, value)))}]}}"
    library = type(value).__module__.partition(".")[0]
    if library == "numpy" and hasattr(value, "tolist"):
        return to_json(value.tolist())
    if library == "decimal" and value.is_finite():
        return str(value)
    if hasattr(value, "__iter__"):
        return "[" + ",".join(map(to_json, value)) + "]"
    raise TypeError(f"the function returned a {type(value).__name__}, which is not plain data")
