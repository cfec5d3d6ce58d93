"""What may not be asked of the kernel in the sandbox: seccomp filters that make system calls fail.

Programs are forked by one process and follow each other in one sandbox (`zygote.py`). Namespaces keep them from the
rest of the machine; these filters keep them from that process, from having children, and from leaving anything behind.
"""

import struct
from collections.abc import Iterable

from t3d.errors import MissingInputError

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_MACHINES = tuple(_AUDIT_ARCH)

# Numbers on the two machines; aarch64 lacks some calls.
_EVERYWHERE = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "io_uring_setup": (425, 425),
}
_IN_PROGRAMS = {
    # Processes and threads.
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "clone3": (435, 435),
    # Another process: its end, its memory, its files, its share of the machine. It has the same user.
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    # Out of the group that is killed with the sandbox.
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # What outlives its process.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # The sandbox of root has the machine's /dev/null for its own, and its mode and access list can be changed.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "file_setattr": (469, 469),
    # Addresses that no network namespace holds, such as the host of a virtual machine.
    "socket": (41, 198),
}
_PRLIMIT = (302, 261)


def everywhere(machine: str) -> bytes:
    """The filter of all that runs in the sandbox, the process that forks programs included.

    Args:
        machine: as `platform.machine()` names it.

    Raises:
        MissingInputError: the numbers of its system calls are not known here.
    """
    return _filter(machine, _EVERYWHERE.values())


def in_programs(machine: str) -> bytes:
    """The filter of a program; arguments and errors as above."""
    return _filter(machine, [*_EVERYWHERE.values(), *_IN_PROGRAMS.values()])


def _filter(machine: str, calls: Iterable[tuple[int, int | None]]) -> bytes:
    """A BPF program: these calls fail with EPERM, as do limits set on another process; another architecture's kill."""
    if machine not in _MACHINES:
        raise MissingInputError(f"the sandbox knows no system calls of {machine}, only of {', '.join(_MACHINES)}.")
    column = _MACHINES.index(machine)
    refused = sorted(number for call in calls if (number := call[column]) is not None)
    load, equal, at_least, ret = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050001, 0x7FFF0000
    architecture, number, first_argument = 4, 0, 16
    program = [(load, 0, 0, architecture), (equal, 1, 0, _AUDIT_ARCH[machine]), (ret, 0, 0, kill), (load, 0, 0, number)]
    # Jumps count the instructions that they skip; `end` has 5, of which the last refuses.
    # Calls of x86-64's 32-bit pointer interface have other numbers, all of them above this one.
    program.append((at_least, len(refused) + 4, 0, 0x40000000))
    program += [(equal, len(refused) - i + 3, 0, call) for i, call in enumerate(refused)]
    # Process 0 is oneself.
    end = [(equal, 0, 2, _PRLIMIT[column]), (load, 0, 0, first_argument), (equal, 0, 1, 0), (ret, 0, 0, allow)]
    program += [*end, (ret, 0, 0, refuse)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
