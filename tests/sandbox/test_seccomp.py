"""The filters, run by a small interpreter of BPF: the same on both machines, of which one is not here."""

import struct

import pytest

from t3d.sandbox import seccomp

ALLOWED, REFUSED, ZERO, KILLED = 0x7FFF0000, 0x00050001, 0x00050000, 0x80000000
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def answer(program, architecture, number, *arguments):
    data = struct.pack("IIQ6Q", number, architecture, 0, *(a & 2**64 - 1 for a in (*arguments, *[0] * 6)[:6]))
    at = loaded = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                (loaded,) = struct.unpack_from("I", data, value)
            case 0x15:
                at += if_true if loaded == value else if_false
            case 0x35:
                at += if_true if loaded >= value else if_false
            case 0x06:
                return value


@pytest.mark.parametrize(("column", "machine"), list(enumerate(MACHINES)))
def test_each_call_gets_its_answer(column, machine):
    outer, inner = seccomp.everywhere(machine), seccomp.in_programs(machine)
    own = MACHINES[machine]
    known = set()
    for name, numbers in (seccomp._EVERYWHERE | seccomp._IN_PROGRAMS).items():
        if numbers[column] is not None:
            known.add(numbers[column])
            assert answer(inner, own, numbers[column]) == REFUSED, name
            assert (answer(outer, own, numbers[column]) == REFUSED) == (name in seccomp._EVERYWHERE), name
    for numbers in seccomp._ZERO.values():
        known.add(numbers[column])
        assert answer(inner, own, numbers[column]) == ZERO
    for rules, met, otherwise in ((seccomp._ONLY, ALLOWED, REFUSED), (seccomp._NOT, REFUSED, ALLOWED)):
        for name, (numbers, argument, values) in rules.items():
            known.add(numbers[column])
            for value in (*values, 77777, -1):
                arguments = [5] * 6
                arguments[argument] = value
                assert answer(inner, own, numbers[column], *arguments) == (met if value in values else otherwise), name
                assert answer(outer, own, numbers[column], *arguments) == ALLOWED, name
    assert all(answer(inner, own, number) == ALLOWED for number in set(range(500)) - known)
    assert answer(inner, own, 0x40000000 + 1) == answer(outer, own, 0x40000000 + 39) == REFUSED
    for other in (set(MACHINES.values()) | {0x40000003, 0x40000028}) - {own}:
        assert answer(inner, other, 1) == answer(outer, other, 1) == KILLED


def test_no_number_stands_twice():
    tables = [*(seccomp._EVERYWHERE | seccomp._IN_PROGRAMS | seccomp._ZERO).values()]
    tables += [numbers for numbers, _, _ in (seccomp._ONLY | seccomp._NOT).values()]
    for column in range(2):
        numbers = [pair[column] for pair in tables if pair[column] is not None]
        assert len(numbers) == len(set(numbers))
