"""Checks that every module includes only what docs/architecture.dot allows.

usage: check_layers.py REPOSITORY        (status 1 and one line per violation)
"""

import pathlib
import re
import sys

EDGE = re.compile(r"^\s*(\w+)\s*->\s*(\w+)", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')

# All of LibTorch costs 10-20 s per translation unit.
HEAVY = re.compile(r"(torch/torch|torch/all|ATen/ATen)\.h$")
# A user of the library does not pay for, or see, what it is made of.
PRIVATE = re.compile(r"(Eigen|Spectra|fmt|nlohmann|CLI)/|(zlib|zip)\.h$")


def read_rooms(dot):
    """Maps each module to the set of modules it may include."""
    rooms = {}
    for room, below in EDGE.findall(dot):
        rooms.setdefault(room, {room, "core"}).add(below)
        rooms.setdefault(below, {below, "core"})
    rooms["cli"] = set(rooms) | {"cli"}
    return rooms


def problem_with(include, room, rooms, is_public):
    """Why `include` is not allowed in `room`; None if it is."""
    if HEAVY.match(include):
        return "brings in all of LibTorch; include the headers of what is used"
    if is_public and PRIVATE.match(include):
        return "does not belong in a public header"
    parts = include.removeprefix("curvature/").split("/")
    other = parts[0]
    if len(parts) > 1 and other in rooms and other not in rooms[room]:
        return f"{room} may include only {', '.join(sorted(rooms[room]))}"
    return None


def check(root):
    """All violations below `root`, as lines `file:line: include: reason`."""
    rooms = read_rooms((root / "docs/architecture.dot").read_text())
    for base in (root / "include/curvature", root / "src"):
        for path in sorted([*base.glob("*/**/*.hpp"), *base.glob("*/**/*.cpp")]):
            where, room = path.relative_to(root), path.relative_to(base).parts[0]
            if room not in rooms:
                yield f"{where}: the module {room} is not in docs/architecture.dot"
                continue
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                match = INCLUDE.match(line)
                reason = match and problem_with(match[1], room, rooms, base.name == "curvature")
                if reason:
                    yield f"{where}:{number}: {match[1]}: {reason}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    violations = list(check(pathlib.Path(sys.argv[1])))
    for violation in violations:
        print(violation)
    sys.exit(1 if violations else 0)
