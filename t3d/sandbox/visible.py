"""What programs have to see: the interpreter, its standard library, and the shared libraries that these load.

`zygote.py` runs this file with the interpreter that runs programs, which has no packages then. It prints the paths.
"""

import ctypes
import glob
import json
import os
import sys
import zoneinfo


class _Loaded(ctypes.Structure):
    # The beginning of `struct dl_phdr_info`.
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]


def main() -> None:
    """Load every extension module, and ask the dynamic linker where it found all that is loaded now."""
    paths = [sys.executable, *sys.path, *zoneinfo.TZPATH]
    for folder in sys.path:
        for module in glob.glob(os.path.join(glob.escape(folder), "*.so")):
            try:
                ctypes.CDLL(module)
            except OSError as error:
                # Programs cannot import it, either.
                print(error, file=sys.stderr)

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Loaded), ctypes.c_size_t, ctypes.c_void_p)
    def note(loaded: "ctypes._Pointer[_Loaded]", _size: int, _data: int | None) -> int:
        paths.append(os.fsdecode(loaded.contents.name))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(note, None)
    # The program itself has no name, the kernel's part no file.
    print(
        json.dumps(sorted({os.path.normpath(path) for path in paths if os.path.isabs(path) and os.path.exists(path)}))
    )


if __name__ == "__main__":
    main()
