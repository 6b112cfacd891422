"""Train, evaluate, calibrate, report: for people who build a model; never imported by `serve`."""
