"""What may not be asked of the kernel in the sandbox: seccomp filters that make system calls fail.

Programs are forked by one process and follow each other in one sandbox (`zygote.py`). Namespaces keep them from the
rest of the machine; these filters keep them from that process, from having children, from holding memory that no limit
counts, and from leaving anything behind.
"""

import struct
from collections.abc import Iterable, Mapping

from t3d.errors import MissingInputError

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_MACHINES = tuple(_AUDIT_ARCH)
_Numbers = tuple[int | None, int | None]
"""Of a system call on the two machines; aarch64 lacks some."""

_EVERYWHERE: dict[str, _Numbers] = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "io_uring_setup": (425, 425),
}
_IN_PROGRAMS: dict[str, _Numbers] = {
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
    # Memory and work of the kernel that count for no limit.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
    "splice": (275, 76),
    "tee": (276, 77),
    "io_setup": (206, 0),
    "timer_create": (222, 107),
    "setsockopt": (54, 208),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "fadvise64": (221, 223),
    # What others do with the machine's files.
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "flock": (73, 32),
    "open_by_handle_at": (304, 265),
    "syslog": (103, 116),
    # What outlives its process.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # The devices are the machine's own: with root's rights their times, modes, owners and attributes can be set, and
    # without them the times can be set to now.
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    # Addresses that no network namespace holds, such as the host of a virtual machine.
    "socket": (41, 198),
    # File systems; without rights the kernel refuses most of it.
    "mount": (165, 40),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    # The number of its process, which would say how many programs ran before it.
    "capget": (125, 90),
    "set_tid_address": (218, 96),
}
# The number of its process is 0 for each program.
_ZERO: dict[str, _Numbers] = {"getpid": (39, 172), "gettid": (186, 178)}

# Those of oneself, not of another process.
_CLOCKS = tuple(range(12))
# Of terminals, and of what `open` and `set_blocking` ask.
_IOCTLS = (0x5401, 0x5402, 0x5403, 0x5404, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
# Which argument may only be one of these; process 0 is oneself.
_ONLY: dict[str, tuple[_Numbers, int, tuple[int, ...]]] = {
    "prlimit64": ((302, 261), 0, (0,)),
    "getpgid": ((121, 155), 0, (0,)),
    "getsid": ((124, 156), 0, (0,)),
    "getpriority": ((140, 141), 1, (0,)),
    "ioprio_get": ((252, 31), 1, (0,)),
    "sched_getaffinity": ((204, 123), 0, (0,)),
    "sched_getattr": ((315, 275), 0, (0,)),
    "sched_getparam": ((143, 121), 0, (0,)),
    "sched_getscheduler": ((145, 120), 0, (0,)),
    "sched_rr_get_interval": ((148, 127), 0, (0,)),
    "get_robust_list": ((274, 100), 0, (0,)),
    "clock_gettime": ((228, 113), 0, _CLOCKS),
    "clock_getres": ((229, 114), 0, _CLOCKS),
    "clock_nanosleep": ((230, 115), 0, _CLOCKS),
    # AF_UNIX
    "socketpair": ((53, 199), 0, (1,)),
    "ioctl": ((16, 29), 1, _IOCTLS),
}
# Which argument may be none of these.
_NOT: dict[str, tuple[_Numbers, int, tuple[int, ...]]] = {
    # F_SETOWN, F_SETOWN_EX, F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ
    "fcntl": ((72, 25), 1, (8, 15, 1024, 1026, 1031)),
    # SO_PEERCRED, SO_PEERPIDFD
    "getsockopt": ((55, 209), 2, (17, 77)),
}


def everywhere(machine: str) -> bytes:
    """The filter of all that runs in the sandbox, the process that forks programs included.

    Args:
        machine: as `platform.machine()` names it.

    Raises:
        MissingInputError: the numbers of its system calls are not known here.
    """
    return _filter(machine, _EVERYWHERE, {}, {}, {})


def in_programs(machine: str) -> bytes:
    """The filter of a program; arguments and errors as above."""
    return _filter(machine, _EVERYWHERE | _IN_PROGRAMS, _ZERO, _ONLY, _NOT)


_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
# A refused call fails with EPERM.
_KILL, _REFUSE, _GIVE_ZERO, _ALLOW = 0x80000000, 0x00050001, 0x00050000, 0x7FFF0000
_Instructions = list[tuple[int, int, int, int]]


def _filter(
    machine: str,
    refused: Mapping[str, _Numbers],
    zero: Mapping[str, _Numbers],
    only: Mapping[str, tuple[_Numbers, int, tuple[int, ...]]],
    excluded: Mapping[str, tuple[_Numbers, int, tuple[int, ...]]],
) -> bytes:
    """A BPF program; calls of another architecture end the process."""
    if machine not in _MACHINES:
        raise MissingInputError(f"the sandbox knows no system calls of {machine}, only of {', '.join(_MACHINES)}.")
    column = _MACHINES.index(machine)
    architecture, number = 4, 0
    program: _Instructions = [
        *((_LOAD, 0, 0, architecture), (_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, _KILL)),
        (_LOAD, 0, 0, number),
        # Calls of x86-64's 32-bit pointer interface have other numbers, all of them from this one on.
        *((_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)),
    ]
    for calls, answer in ((refused, _REFUSE), (zero, _GIVE_ZERO)):
        program += _each((numbers[column] for numbers in calls.values()), answer)
    for rules, met, otherwise in ((only, _ALLOW, _REFUSE), (excluded, _REFUSE, _ALLOW)):
        for numbers, argument, values in rules.values():
            body = [(_LOAD, 0, 0, 16 + 8 * argument), *_each(values, met), (_RETURN, 0, 0, otherwise)]
            if (call := numbers[column]) is not None:
                # Jumps count the instructions that they skip.
                program += [(_EQUAL, 0, len(body), call), *body]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _each(values: Iterable[int | None], answer: int) -> _Instructions:
    """Answer so if what was loaded is one of these values."""
    pairs = ([(_EQUAL, 0, 1, value), (_RETURN, 0, 0, answer)] for value in values if value is not None)
    return [instruction for pair in pairs for instruction in pair]
