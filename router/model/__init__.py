"""The classifier: MobileNet-V1, its engines, its card, its calibration.

Takes prepared pictures and gives predictions. Knows no DICOM, no spool, no rules, and never trains.
"""
