"""Move modules to their rooms, and rewrite everything that names them. Run once, from the repository's root.

Three tables say it all: MODULES (old module -> new module), SPLITS (module -> names that leave it, and for where) and
FILES (anything else). Rewritten are imports, module paths in strings, `-m` paths and file paths in text.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "ring_async"

MODULES = {
    "cli": "cli.app",
    "commands.changes": "cli.changes",
    "commands.check": "cli.check",
    "commands.data": "cli.data",
    "commands.doctor": "cli.doctor",
    "commands.export": "cli.export",
    "commands.init": "cli.init",
    "commands.samples": "cli.samples",
    "commands.words": "cli.options",
    "monitoring.console": "monitoring.terminal",
    "monitoring.report": "monitoring.report.report",
    "monitoring.curves": "monitoring.report.curves",
    "monitoring.page": "monitoring.report.page",
    "monitoring.metrics": "telemetry.metrics",
    "monitoring.exporter": "telemetry.exporter",
    "monitoring.discovery": "telemetry.discovery",
    "monitoring.trace": "telemetry.trace",
    "monitoring.observe": "telemetry.observe",
    "actors.controller": "actors.controller.controller",
    "actors.work_desk": "actors.controller.work",
    "actors.prompt_desk": "actors.controller.prompts",
    "actors.prompt_search": "actors.controller.prompt_search",
    "actors.live_changes": "actors.controller.changes",
    "actors.swap_desk": "actors.controller.verifier_swap",
    "actors.member_book": "actors.controller.member_book",
    "actors.member_links": "actors.controller.member_links",
    "actors.step_log": "actors.controller.run_log",
    "actors.replay": "actors.replay.replay",
    "actors.batch_planner": "actors.replay.planner",
    "actors.rescorer": "actors.replay.rescorer",
    "actors.replay_rules": "actors.replay.rules",
    "actors.verifier_rack": "actors.verifiers_in_force",
    "training.hf": "training.hf.engine",
    "training.model": "training.hf.model",
    "training.attention": "training.hf.attention",
    "training.optimizer": "training.hf.optimizer",
    "engines.embedded": "engines.embedded.engine",
    "engines.batcher": "engines.embedded.batcher",
    "engines.kv_cache": "engines.embedded.kv_cache",
    "engines.sampling": "engines.embedded.sampling",
    "verifiers.math": "verifiers.rules.math",
    "verifiers.stem": "verifiers.rules.stem",
    "verifiers.code": "verifiers.rules.code",
    "verifiers.instruction": "verifiers.rules.instruction",
    "verifiers.instruction_kinds": "verifiers.rules.instruction_kinds",
    "verifiers.logic": "verifiers.rules.logic",
    "verifiers.answers": "verifiers.rules.answers",
    "verifiers.judge": "verifiers.models.judge",
    "verifiers.reward_model": "verifiers.models.reward_model",
    "verifiers.bradley_terry": "verifiers.models.bradley_terry",
    "verifiers.composite": "verifiers.combine.composite",
    "verifiers.length_bias": "verifiers.combine.length_bias",
    "verifiers.host": "verifiers.isolation.worker",
    "verifiers.isolated": "verifiers.isolation.isolated",
    "verifiers.sandbox": "sandbox.pool",
    "verifiers.sandbox_launcher": "sandbox.launcher",
    "verifiers.sandbox_runner": "sandbox.runner",
    "verifiers.seccomp": "sandbox.seccomp",
    "verifiers.spawner": "sandbox.spawner",
    "transport.weights": "transport.weights.base",
    "transport.weights_host": "transport.weights.host_memory",
    "transport.weights_shm": "transport.weights.shm",
    "transport.weights_service": "transport.weights.service",
    "transport.weights_wire": "transport.weights.wire",
    "transport.weights_zmq": "transport.weights.zmq.sender",
    "transport.weights_fetch": "transport.weights.zmq.fetch",
    "transport.weights_nccl": "transport.weights.nccl.sender",
    "transport.weights_nccl_receiver": "transport.weights.nccl.receiver",
    "transport.weights_round": "transport.weights.nccl.round",
    "transport.weights_packing": "transport.weights.nccl.packing",
    "transport.weights_device": "transport.weights.nccl.device",
    "transport.messages": "transport.messages.base",
    "core.fleet": "core.fleet.fleet",
    "core.restart": "core.fleet.restart",
    "core.buffer": "core.replay.buffer",
    "core.buffer_rules": "core.replay.buffer_rules",
    "core.batch_planning": "core.replay.batch_planning",
    "core.group_bundle": "core.replay.group_bundle",
    "core.plan_log": "core.replay.plan_log",
    "core.progress": "core.replay.progress",
    "core.token_budget": "core.replay.token_budget",
    "core.admission": "core.work.admission",
    "core.reservations": "core.work.reservations",
    "core.mixture": "core.work.mixture",
    "core.difficulty": "core.work.difficulty",
    "core.ledger": "core.work.ledger",
    "core.broadcast_rounds": "core.weights.broadcast_rounds",
    "core.weight_delta": "core.weights.delta",
    "core.weight_plan": "core.weights.plan",
    "placement.reservations": "placement.places",
}

SPLITS: dict[str, dict[str, list[str]]] = {
    # new module that is split: {module that takes over: names}; docstrings are written by hand afterwards
    "transport.weights.base": {
        "transport.weights.make": ["make_weight_sender", "make_weight_receiver"],
        "transport.weights.tensors": ["describe", "_plan_again", "flatten", "view_tensors"],
        "transport.weights.manifest": ["read_manifest", "source_field"],
        "transport.weights.nccl.wire": ["NCCL_MIN_BUCKET_BYTES"],
        "clock": ["seconds_since"],
    },
    "transport.weights.nccl.sender": {"transport.weights.nccl.wire": ["CHANNEL", "ALIVE_S"]},
    "transport.weights.wire": {
        "transport.weights.nccl.wire": [
            "Join",
            "Alive",
            "Ready",
            "Staged",
            "Failed",
            "Leave",
            "Offer",
            "Go",
            "Off",
            "Checksums",
            "Welcome",
            "NotKnown",
        ],
    },
    "transport.weights.zmq.sender": {
        "transport.weights.zmq.receiver": ["_Base", "ZmqWeightReceiver", "_apply"],
    },
    "verifiers.isolation.worker": {
        "verifiers.isolation.protocol": [
            "HostDescription",
            "Work",
            "Outcome",
            "frame",
            "frame_length",
            "_LENGTH",
            "MAX_FRAME_BYTES",
        ],
    },
    "monitoring.report.report": {
        "monitoring.report.rows": [
            "Row",
            "EVALUATIONS_FILE",
            "read_rows",
            "read_evaluations",
            "read_lines",
            "read_config",
            "column",
            "sources_of",
            "_CHANGES",
            "changes_of",
            "with_evaluations",
            "_rows_or_refuse",
        ],
        "monitoring.report.summary": [
            "summary",
            "print_summary",
            "summary_lines",
            "_evaluation_lines",
            "_overlap",
            "_is_off_budget",
            "_is_over_budget",
            "_budget_remark",
            "_numbers",
            "_mean",
            "_source_mean",
            "_total",
            "_last",
            "_most",
            "_least",
            "_share",
            "_text",
        ],
    },
    "transport.messages.base": {
        "transport.messages.fleet": [
            "Member",
            "Register",
            "Registered",
            "Heartbeat",
            "HeartbeatSeen",
            "RunFailed",
            "ActorSpec",
            "ActorExit",
            "ActorWaiting",
            "ReportFleet",
            "FleetWanted",
            "MembersChanged",
            "Pause",
            "Resume",
            "Shutdown",
        ],
        "transport.messages.work": [
            "GroupGenerated",
            "GroupScored",
            "ReserveGroups",
            "GroupsReserved",
            "RenewLeases",
            "LeasesRenewed",
            "GroupsFailed",
            "TrajectoriesMoved",
            "BufferReported",
        ],
        "transport.messages.batches": [
            "RequestBatch",
            "BatchReady",
            "BatchNotReady",
            "OfferGroups",
            "GroupsOffered",
            "ConsumePlan",
            "PlanConsumed",
            "StepCompleted",
        ],
        "transport.messages.versions": [
            "WeightsAnnouncement",
            "WeightsPublished",
            "WeightsAdopted",
            "UseWeights",
            "CheckpointSaved",
            "SaveCheckpoint",
            "CheckpointCovered",
            "VersionEvaluated",
        ],
        "transport.messages.changes": [
            "TuneKnobs",
            "PrepareVerifier",
            "VerifierPrepared",
            "ReportShadow",
            "ShadowReported",
            "CommitVerifier",
            "DropPrepared",
            "ApplyEpochRules",
            "UseSources",
            "ReadVerifierFile",
            "VerifierFile",
            "VerifierFailing",
        ],
        "transport.messages.catalogue": ["all_message_types"],
    },
}

FILES = {
    "tests/integration/channel_planes.py": "tests/support/channel_planes.py",
    "tests/integration/control_operations.py": "tests/support/control_operations.py",
    "tests/integration/fleet_on_hosts.py": "tests/support/fleet_on_hosts.py",
    "tests/integration/live_fleet.py": "tests/support/live_fleet.py",
    "tests/integration/math_pairs.py": "tests/support/math_pairs.py",
    "tests/integration/network_hosts.py": "tests/support/network_hosts.py",
    "tests/integration/one_process_run.py": "tests/support/one_process_run.py",
    "tests/integration/replay_process.py": "tests/support/replay_process.py",
    "tests/fuzz_transport.py": "tests/support/fuzz_transport.py",
    "tests/unit/engines/conftest.py": "tests/unit/engines/conftest.py",
}


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def path_of(module: str) -> Path:
    return ROOT / PACKAGE / Path(*module.split(".")).with_suffix(".py")


def move(old: Path, new: Path) -> None:
    if old == new:
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    git("mv", str(old.relative_to(ROOT)), str(new.relative_to(ROOT)))


def test_moves() -> dict[str, str]:
    """Unit tests go where their module went, under its new name."""
    moves = {}
    for old, new in MODULES.items():
        room, _, name = old.rpartition(".")
        was = f"tests/unit/{room.replace('.', '/')}/test_{name}.py"
        if (ROOT / was).exists():
            new_room, _, new_name = new.rpartition(".")
            moves[was] = f"tests/unit/{new_room.replace('.', '/')}/test_{new_name}.py"
    return moves


def rename_in_text(text: str, all_files: dict[str, str]) -> str:
    """Module paths (`a.b.c`) and file paths (`a/b/c.py`) in any text."""
    for old, new in sorted(MODULES.items(), key=lambda item: -len(item[0])):
        was, now = f"{PACKAGE}.{old}", f"{PACKAGE}.{new}"
        text = re.sub(rf"(?<![\w.]){re.escape(was)}(?![\w]|\.[a-z_]+\.|\.[a-z_]+ import)", f"\0{now}", text)
    text = text.replace("\0", "")
    for old, new in sorted(all_files.items(), key=lambda item: -len(item[0])):
        for prefix in (f"{PACKAGE}/", ""):
            if old.startswith(prefix):
                was, now = old.removeprefix(prefix), new.removeprefix(prefix)
                text = re.sub(rf"(?<![\w/.]){re.escape(was)}(?!\w)", now, text)
    return text


def rewrite_package_imports(text: str) -> str:
    """`from ring_async.room import module [as name]` -> the module's new room."""

    def of_line(match: re.Match[str]) -> str:
        indent, room, names = match["indent"], match["room"], match["names"]
        kept, moved = [], []
        for name in re.findall(r"[\w ]+", names.strip("() \n")):
            bare, _, alias = (part.strip() for part in name.partition(" as "))
            if not bare:
                continue
            new = MODULES.get(f"{room}.{bare}")
            if new is None:
                kept.append(name.strip())
            else:
                new_room, _, new_name = new.rpartition(".")
                shown = alias or bare
                moved.append(
                    f"from {PACKAGE}.{new_room} import {new_name}" + (f" as {shown}" if shown != new_name else "")
                )
        if not moved:
            return match[0]
        lines = [f"from {PACKAGE}.{room} import {', '.join(kept)}"] if kept else []
        return "\n".join(indent + line for line in lines + moved) + "\n"

    pattern = rf"(?m)^(?P<indent>[ \t]*)from {PACKAGE}\.(?P<room>[\w.]+) import (?P<names>\([^)]*\)|[^\n(]+)\n"
    return re.sub(pattern, of_line, text)


def rewrite_split_imports(text: str) -> str:
    """`from split.module import (A, B)` -> one import for each module that holds the names now."""
    where = {(old, name): new for old, parts in SPLITS.items() for new, names in parts.items() for name in names}

    def of_import(match: re.Match[str]) -> str:
        module = match["module"]
        if module not in SPLITS:
            return match[0]
        found: dict[str, list[str]] = {}
        for name in (part.strip() for part in match["names"].strip("() \n").replace("\n", " ").split(",")):
            if name:
                found.setdefault(where.get((module, name.partition(" as ")[0].strip()), module), []).append(name)
        indent = match["indent"]
        return "".join(
            f"{indent}from {PACKAGE}.{new} import {', '.join(names)}\n"
            if len(names) < 4
            else f"{indent}from {PACKAGE}.{new} import (\n"
            + "".join(f"{indent}    {name},\n" for name in names)
            + f"{indent})\n"
            for new, names in found.items()
        )

    pattern = rf"(?m)^(?P<indent>[ \t]*)from {PACKAGE}\.(?P<module>[\w.]+) import (?P<names>\([^)]*\)|[^\n(]+)\n"
    return re.sub(pattern, of_import, text)


def split(module: str, parts: dict[str, list[str]]) -> None:
    """Cut a module's top-level statements into files of their own; unused imports are ruff's to remove."""
    path = path_of(module)
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    statements: list[tuple[list[str], int, int, bool]] = []
    end = 0
    for index, node in enumerate(tree.body):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        is_import = isinstance(node, ast.Import | ast.ImportFrom) or (index == 0 and isinstance(node, ast.Expr))
        is_type_block = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        names = [node.name] if hasattr(node, "name") else []
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        if isinstance(node, ast.Expr) and index and statements and not is_import:  # a docstring of a constant
            names, _, _, _ = statements[-1]
        statements.append((names, end, node.end_lineno or first + 1, is_import or is_type_block))
        end = node.end_lineno or first + 1
    head = "".join("".join(lines[a:b]) for _, a, b, is_head in statements if is_head)
    head = re.sub(r'\A("""[\s\S]*?""")', "", head)
    owner = {name: new for new, names in parts.items() for name in names}
    taken: dict[str, list[str]] = {new: [] for new in parts}
    rest = []
    for names, a, b, is_head in statements:
        new = next((owner[name] for name in names if name in owner), None)
        piece = "".join(lines[a:b])
        if new is not None and not is_head:
            taken[new].append(piece)
        else:
            rest.append(piece)
    rest.append("".join(lines[end:]))
    everyone = {name: module for names, *_ in statements for name in names} | owner

    def crossing(of: str, body: str) -> str:
        used = {n.id for n in ast.walk(ast.parse(body)) if isinstance(n, ast.Name)} | set(re.findall(r"\b\w+\b", body))
        return "".join(
            f"from {PACKAGE}.{place} import {name}\n"
            for name, place in sorted(everyone.items())
            if place != of and name in used
        )

    for new, pieces in taken.items():
        body = "".join(pieces)
        target = path_of(new)
        if target.exists():
            target.write_text(target.read_text().rstrip("\n") + "\n" + crossing(new, body) + body.rstrip("\n") + "\n")
            target.write_text(target.read_text())
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f'"""TODO {new}"""\n' + head + "\n" + crossing(new, body) + body.rstrip("\n") + "\n")
    body = "".join(rest)
    only_body = "".join(
        "".join(lines[a:b]) for names, a, b, h in statements if not h and not any(n in owner for n in names)
    )
    marker = "from __future__ import annotations\n"
    path.write_text(body.replace(marker, marker + crossing(module, only_body), 1))


def main() -> None:
    files = {f"{PACKAGE}/{o.replace('.', '/')}.py": f"{PACKAGE}/{n.replace('.', '/')}.py" for o, n in MODULES.items()}
    files |= FILES | test_moves()
    staged = []
    for old, new in files.items():  # first out of the way: `cli.py` becomes the folder `cli/`
        if old != new and (ROOT / old).exists():
            parked = ROOT / (old + ".moving")
            git("mv", old, str(parked.relative_to(ROOT)))
            staged.append((parked, ROOT / new))
    for parked, new in staged:
        move(parked, new)
    for room in {path_of(new).parent for new in MODULES.values()} | {ROOT / PACKAGE / "cli"}:
        folder = room
        while folder != ROOT / PACKAGE:
            if not (folder / "__init__.py").exists():
                (folder / "__init__.py").touch()
            folder = folder.parent
    for init in ("commands",):
        stale = ROOT / PACKAGE / init / "__init__.py"
        if stale.exists():
            git("rm", "-q", str(stale.relative_to(ROOT)))
    git("add", "-A", PACKAGE, "tests")
    listed = [ROOT / name for name in git("ls-files").splitlines()]
    texts = [
        p
        for p in listed
        if p.suffix in {".py", ".md", ".toml", ".yaml", ""} and p.is_file() and p != Path(__file__).resolve()
    ]
    for path in texts:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        new = text
        if path.suffix == ".py":
            new = rewrite_package_imports(new)
        new = rename_in_text(new, files)
        if path.suffix == ".py":
            new = rewrite_split_imports(new)
        if new != text:
            path.write_text(new)
    for module, parts in SPLITS.items():
        split(module, parts)
        for new in parts:
            git("add", "-A", str(path_of(new).parent.relative_to(ROOT)))


if __name__ == "__main__":
    main()
