"""The maker's: how the shipped model is judged, calibrated and described. No user gets it; the wheel leaves it out.

`router` never imports it.
"""
