"""`python -m router.inference` is the inference process (`inside`)."""

import gc

gc.disable()  # looking for garbage while thousands of modules come in takes a fifth of the start

from router.inference.inside import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
