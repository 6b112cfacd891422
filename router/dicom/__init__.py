"""DICOM itself: UIDs, elements, the Part 10 file. Whoever reads or writes a data set uses this room.

It knows nothing of associations, pixels, rules or the spool, and opens no file and no socket of its own accord.
"""
