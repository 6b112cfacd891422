"""DICOM itself: the table of UIDs, the walk of elements, first elements, the Part 10 file.

Every reader and writer of a data set uses this room. It knows nothing of associations, pixels, rules or the spool. It
keeps no state, and opens only the file that it is given.
"""

import sys

# `import pydicom` takes in `requests` where it is installed, to download test files that nothing here uses: a fifth of
# the start of each process, and 10 MB. Without it pydicom does without.
if "pydicom" not in sys.modules and "requests" not in sys.modules:
    sys.modules["requests"] = None  # type: ignore[assignment]
    try:
        import pydicom  # noqa: F401
    finally:
        del sys.modules["requests"]
