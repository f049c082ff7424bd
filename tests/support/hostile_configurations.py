"""Files that are no good configurations, written by hand: encodings, YAML's traps, names, folders, pairs, verifiers.

Each is text (or bytes) made from a small configuration that is good; beside it stands what the answer must contain, or
`GOOD` where the file is one that `check` should accept.
"""

from __future__ import annotations

GOOD = "good. "

BASE = """\
run: {name: hostile}
seed: 1
budget: {token_budget: 64}
rollout: {group_size: 2, max_tokens: 16}
learner: {token_capacity: 64, learning_rate: 1.0e-4}
correction: {rule: icepop}
sources:
  sums: {task: chain_sum, verifier: exact}
mixture: {sums: 1}
verifiers:
  exact: {use: reasoning_gym}
"""


def _with(old: str, new: str) -> str:
    assert BASE.count(old) == 1, old
    return BASE.replace(old, new)


def _name(value: str) -> str:
    return _with("{name: hostile}", f"{{name: {value}}}")


def _dir(value: str) -> str:
    return _with("{name: hostile}", f"{{name: hostile, dir: {value}}}")


def _seed(value: str) -> str:
    return _with("seed: 1", f"seed: {value}")


def _rule(settings: str) -> str:
    return _with("{rule: icepop}", f"{{{settings}}}")


def _mixture(weights: str) -> str:
    return _with("{sums: 1}", f"{{{weights}}}")


def _use(value: str) -> str:
    return _with("{use: reasoning_gym}", f"{{{value}}}")


def _task(value: str) -> str:
    return _with("{task: chain_sum, verifier: exact}", f"{{{value}}}")


def _expanding(levels: int) -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


ENCODINGS: dict[str, tuple[str | bytes, str]] = {
    "good": (BASE, GOOD),
    "byte order mark": (b"\xef\xbb\xbf" + BASE.encode(), GOOD),
    "UTF-16": (BASE.encode("utf-16"), GOOD),
    "UTF-16, big end first": (b"\xfe\xff" + BASE.encode("utf-16-be"), GOOD),
    "UTF-16 without a mark": (BASE.encode("utf-16-le"), "U+0000"),
    "UTF-16, cut": (BASE.encode("utf-16")[:-1], "save the file as UTF-8"),
    "UTF-32": (BASE.encode("utf-32"), "U+0000"),
    "Windows line ends": (BASE.replace("\n", "\r\n"), GOOD),
    "old Mac line ends": (BASE.replace("\n", "\r"), GOOD),
    "Latin-1": (_name("caf\u00e9").encode("latin-1"), "line 1: the byte 0xe9"),
    "Shift-JIS": (_name("\u8a13\u7df4").encode("shift-jis"), "save the file as UTF-8"),
    "cut within a character": (BASE.encode() + b"\xe2\x82", "line 12"),
    "NUL": (BASE + "\0", "line 12: holds the control character U+0000"),
    "escape sequence": (_name("\x1b[31mred"), "U+001B"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "line 1"),
    "larger than any configuration": (BASE + "#" * (1 << 20), "larger than"),
    "nothing": ("", "holds nothing"),
    "blanks": ("  \n\n", "holds nothing"),
    "a comment": ("# later\n", "holds nothing"),
    "half a pair of surrogates": (_name('"\\ud800"'), "half a surrogate pair"),
    "a pair of surrogates, as JSON has it": (
        _task('task: chain_sum, verifier: exact, options: {"\\ud83d\\ude00": 1}'),
        "sums.options",
    ),
    "fullwidth colon": (_with("seed: 1", "seed\uff1a1"), "not YAML"),
    "no-break space": (_with("seed: 1", "seed:\u00a01"), "not YAML"),
    "bidirectional override": (_name('"a\u202eb"'), "run.name"),
}

YAML: dict[str, tuple[str | bytes, str]] = {
    "list as a key": (BASE + "? [a, b]\n: 1\n", "line 12: a key is a list or a mapping"),
    "mapping as a key": (BASE + "? {a: 1}\n: 1\n", "line 12: a key is a list or a mapping"),
    "key without a value to it": (BASE + "? \n", "line 12: a key is empty"),
    "anchor within itself": (BASE + "more: &m [*m]\n", "line 12: *m stands within its own anchor"),
    "anchor within itself, a mapping": (_with("{name: hostile}", "&r {name: hostile, dir: *r}"), "line 1: *r"),
    "the whole file within itself": ("&f\nrun: *f\n", "line 2: *f"),
    "merge with itself": ("<<: &m {<<: *m}\n", "line 1: *m"),
    "merge with a number": (BASE + "<<: 3\n", "line 12"),
    "merge twice": (BASE + "<<: {mode: async}\n<<: {mode: sync}\n", "given twice"),
    "unknown anchor": (_seed("*nowhere"), "line 2"),
    "anchors that multiply": (_expanding(9) + BASE, "more than 100,000 values"),
    "brackets 3,000 deep": ("a: " + "[" * 3000 + "]" * 3000, "nested more than"),
    "brackets 100,000 deep, unclosed": ("[" * 100_000, "nested more than"),
    "sections 200 deep": ("\n".join("  " * depth + "a:" for depth in range(200)), "line 40: nested more than"),
    "key twice": (BASE + "seed: 2\n", "line 12: not YAML: the key 'seed' is given twice"),
    "key twice, once in quotes": (BASE + '"seed": 2\n', "'seed' is given twice"),
    "key twice, within": (_with("max_tokens: 16", "max_tokens: 16, max_tokens: 17"), "'max_tokens' is given twice"),
    "a list": ("- run\n- budget\n", "holds a list"),
    "text": ("run\n", "holds text"),
    "a number": ("3\n", "holds a number"),
    "true": ("true\n", "holds true or false"),
    "two documents": (BASE + "---\n" + BASE, "second document"),
    "a tab for an indent": (_with("  sums:", "\tsums:"), "not tabs"),
    "bracket left open": (_with("{sums: 1}", "{sums: 1"), "not YAML"),
    "quote left open": (_name('"hostile'), "not YAML"),
    "Python object": (BASE + "x: !!python/object/apply:os.getcwd []\n", "line 12"),
    "own tag": (_seed("!mine 1"), "the tag !mine"),
    "set": (BASE + "x: !!set {a, b}\n", "the tag !!set"),
    "binary": (BASE + "x: !!binary aGk=\n", "the tag !!binary"),
    "text tagged as a number": (_seed("!!int one"), "line 2"),
    "text tagged as true": (_seed("!!bool perhaps"), "line 2"),
    "text tagged as a fraction": (_seed("!!float x"), "line 2"),
    "5,000 digits": (_seed("9" * 5000), "5000 characters"),
    "400 digits": (_seed("9" * 400), "seed"),
    "a key of 5,000 letters": (BASE + "k" * 5000 + ": 1\n", "not YAML"),
    "a key of 900 letters": (BASE + "k" * 900 + ": 1\n", "unknown key"),
    "300 unknown keys": (BASE + "".join(f"key{index}: 1\n" for index in range(300)), "more; mend these first"),
    "a value of 50,000 letters": (_rule("rule: " + "x" * 50_000), "correction.rule"),
    "a list of 50,000 numbers": (_seed("[" + "1, " * 50_000 + "1]"), "seed"),
    "percent at the beginning": (_seed("%1"), "line 2"),
    "JSON": ('{"run": {"name": "json"}, "budget": {"token_budget": 64}}', "sources: missing"),
    "TOML": ('[run]\nname = "x"\n', "not YAML"),
}

NAMES: dict[str, tuple[str | bytes, str]] = {
    "a date": (_name("2024-01-01"), GOOD),
    "a time as a number": (_seed("1:30"), "seed: '1:30' is not a whole number"),
    "octal name": (_name("0123"), "line 1: 0123 begins with a zero"),
    "octal number": (_seed("010"), "line 2: 010 begins with a zero"),
    "a name that is true": (_name("on"), "run.name: true is not text; write it in quotes"),
    "a name that is a number": (_name("7"), "run.name: 7 is not text; write it in quotes"),
    "a name that is a fraction": (_name("1e5"), "run.name: 100000.0 is not text"),
    "a name that is nothing": (_name("~"), "run.name: null is not text"),
    "a source called no": (_mixture("no: 1, sums: 1"), "line 9: the key no is read as true or false"),
    "a source called 1": (_mixture("1: 1, sums: 1"), "line 9: the key 1 is read as a number"),
    "a source called null": (_mixture("null: 1, sums: 1"), "line 9: the key null is read as nothing"),
    "a name with a slash": (_name("a/b"), "run.name"),
    "a name with a line end": (_name('"a\\nb"'), "run.name"),
    "no blank behind the colon": (_mixture("sums:1, other: 1"), "a blank is missing behind the colon: `sums: 1`"),
    "no blank in a section": (_with("{name: hostile}", "{name:hostile}"), "a blank is missing behind the colon"),
    "a typo set to null": (_mixture("sums: 1, smus: null"), "mixture.smus: null, but there is none to remove"),
    "a source set to null": (_with("  sums: {task: chain_sum, verifier: exact}", "  sums: null"), "sources.sums: null"),
    "a verifier set to null": (_with("exact: {use: reasoning_gym}", "exact: ~"), "verifiers.exact: null"),
    "a section left empty": (_with("{rule: icepop}", ""), "correction: null is not a section"),
    "sections as a list": (_with("{sums: 1}", "[sums]"), "mixture: ['sums'] is not a section"),
    "base of its own": ("base: hostile.yaml\n" + BASE, "in a circle"),
    "base that is a folder": ("base: .\n" + BASE, "cannot be read: "),
    "base that is not there": ("base: nowhere.yaml\n" + BASE, "no such file"),
    "base with a NUL": ('base: "a\\0b"\n' + BASE, "cannot be read"),
    "base that is a list": ("base: [a.yaml]\n" + BASE, "is not a file name"),
    "base that never ends": ("base: /dev/zero\n" + BASE, "larger than"),
}

VALUES: dict[str, tuple[str | bytes, str]] = {
    "folder that is null": (_dir("~"), "run.dir: null is not text; an empty value and a bare ~"),
    "folder under a device": (_dir("/dev/null/runs"), "run.dir: "),
    "folder in /proc": (_dir("/proc/runs"), "run.dir: "),
    "folder of a stranger": (_dir("~nobody-is-called-so/runs"), "there is no such user"),
    "folder with a NUL": (_dir('"a\\0b"'), "run.dir"),
    "folder without a name": (_dir('""'), "run.dir"),
    "folder with a name too long": (_dir("d" * 300), "run.dir: "),
    "betas of 1": (_with("1.0e-4}", "1.0e-4, adam_betas: [0.9, 1.0]}"), "learner.adam_betas.1: 1.0 must be below 1"),
    "betas below 0": (_with("1.0e-4}", "1.0e-4, adam_betas: [-0.1, 0.9]}"), "learner.adam_betas.0: -0.1 must be"),
    "learning rate that is no number": (_with("1.0e-4}", ".nan}"), "learner.learning_rate: nan is not a finite number"),
    "learning rate without end": (_with("1.0e-4}", "1e999}"), "learner.learning_rate: inf is not a finite number"),
    "band above 1": (_rule("rule: icepop, lower: 2"), "correction.lower: the band from 2 to 5 masks every on-policy"),
    "band below 1": (_rule("rule: icepop, upper: 0.9"), "correction.upper: the band from 0.5 to 0.9 masks every"),
    "band the wrong way round": (_rule("rule: icepop, lower: 5, upper: 0.5"), "exchange them"),
    "band that is not used": (_rule("rule: cispo, lower: 5, upper: 0.5"), GOOD),
    "cap that masks everything": (_rule("rule: tis, cap: 0.5, cap_action: mask"), "correction.cap"),
    "rejection the wrong way round": (_rule("rule: tis, sequence_reject: [1, -1]"), "exchange them"),
    "rejection of everything": (_rule("rule: tis, sequence_reject: [0.1, 0.2]"), "correction.sequence_reject"),
    "gap above 1": (_rule("rule: tis, max_probability_gap: 2"), "correction.max_probability_gap: 2"),
    "difficulty the wrong way round": (BASE + "difficulty: {sums: {low: 3, high: 2}}\n", "difficulty.sums"),
    "heart that beats too slowly": (
        BASE + "monitoring: {heartbeat_s: 9, heartbeat_timeout_s: 9}\n",
        "heartbeat_timeout_s",
    ),
    "ramp longer than a response": (
        BASE + "advantage: {truncated: soft, soft_cache_tokens: 99}\n",
        "advantage.soft_cache_tokens",
    ),
    "schedule the wrong way round": (
        BASE + "mixture_schedule: [{at_version: 9, mixture: {sums: 1}}, {at_version: 3, mixture: {sums: 1}}]\n",
        "mixture_schedule: at_version must grow",
    ),
    "a share below 0": (BASE + "placement: {cpus: {rollout: -1}}\n", "placement.cpus.rollout: -1 must be at least 0"),
    "a trillion rollouts": (_with("group_size: 2", "group_size: 2, num: 1000000000000"), "rollout.num"),
    "a weight of 1e308": (_mixture("sums: 1e308"), "mixture.sums"),
    "a deadline after the sun": (BASE + "weights: {deadline_s: 1e300}\n", "weights.deadline_s"),
    "true for a count": (_with("group_size: 2", "group_size: true"), "rollout.group_size: true is not a whole number"),
    "responses longer than the model": (
        _with("max_tokens: 16", "max_tokens: 5000").replace("64", "9999"),
        "less rollout.max_tokens 5000 leave",
    ),
    "rows without room for a prompt": (_with("token_capacity: 64", "token_capacity: 16"), "learner.token_capacity: 16"),
    "model that is not there": (BASE + "model: {path: /no/such/model}\n", "model.path: /no/such/model"),
    "model with a NUL": (BASE + 'model: {path: "a\\0b"}\n', "model"),
    "certificate that is not there": (BASE + "control: {tls_cert: a.pem, tls_key: b.pem}\n", "control.tls_cert"),
}

PARTS: dict[str, tuple[str | bytes, str]] = {
    "task like no other": (_task("task: chian_sum, verifier: exact"), "sources.sums.task"),
    "task without a name": (_task("verifier: exact"), "sources.sums.task"),
    "setting like no other": (
        _task("task: chain_sum, verifier: exact, options: {max_trems: 3}"),
        "sources.sums.options",
    ),
    "setting that is text": (_task("task: chain_sum, verifier: exact, options: {max_terms: x}"), "sources.sums"),
    "settings the wrong way round": (
        _task("task: chain_sum, verifier: exact, options: {min_terms: 9, max_terms: 2}"),
        "sources.sums.options",
    ),
    "file that is not there": (_task("kind: jsonl, path: /no/such/file, verifier: exact"), "sources.sums.path"),
    "file that is a device": (_task("kind: jsonl, path: /dev/null, verifier: exact"), "sources.sums"),
    "verifier like no other": (_use("use: reasning_gym"), "verifiers.exact.use"),
    "verifier without a file": (_use("use: 'no/such.py:Class'"), "verifiers.exact.use"),
    "verifier without a module": (_use("use: 'no.such:Class'"), "verifiers.exact.use"),
    "verifier that is no class": (_use("use: 'os:getcwd'"), "verifiers.exact.use"),
    "verifier that is another class": (_use("use: 'pathlib:Path'"), "verifiers.exact"),
    "verifier of an empty name": (_use("use: ':'"), "verifiers.exact"),
    "verifier whose file does not parse": (_use("use: 'does_not_parse.py:Class'"), "verifiers.exact.use"),
    "verifier whose file ends the process": (_use("use: 'ends_the_process.py:Class'"), "verifiers.exact"),
    "verifier whose maker raises": (_use("use: 'raises.py:Class'"), "verifiers.exact"),
    "option like no other": (_use("use: reasoning_gym, options: {treshold: 1}"), "verifiers.exact.options"),
    "option that is text": (_use("use: code, options: {limits: {cpu_s: fast}}"), "verifiers.exact"),
    "option that is a list": (_use("use: code, options: {limits: [1]}"), "verifiers.exact"),
    "parts without parts": (_use("use: weighted_sum, options: {parts: {}}"), "verifiers.exact"),
    "parts that are text": (_use("use: weighted_sum, options: {parts: x}"), "verifiers.exact"),
    "part like no other": (_use("use: all_of, options: {parts: {a: {use: nothing}}}"), "verifiers.exact"),
    "judge without an address": (_use("use: judge"), "verifiers.exact"),
    "reward model that is not there": (_use("use: reward_model, options: {path: /no/such}"), "verifiers.exact"),
}

VERIFIER_FILES = {
    "does_not_parse.py": "class Class(:\n",
    "ends_the_process.py": "raise SystemExit(0)\n",
    "raises.py": "class Class:\n    def __init__(self):\n        raise RuntimeError('not today')\n",
}
"""What the verifiers' files of `PARTS` hold; they lie in the folder that `check` is called in."""

ALL = {**ENCODINGS, **YAML, **NAMES, **VALUES, **PARTS}
