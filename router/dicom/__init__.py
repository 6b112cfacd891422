"""DICOM itself: the table of UIDs, the walk of elements, first elements, the Part 10 file.

Every reader and writer of a data set uses this room. It knows nothing of associations, pixels, rules or the spool. It
keeps no state, and opens only the file that it is given.
"""
