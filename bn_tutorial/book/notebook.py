"""What a notebook does first, so that it prints the same on every machine."""

from __future__ import annotations

import os
import sys

__all__ = ["quiet_tensorflow"]


def quiet_tensorflow() -> None:
    """Import TensorFlow without the notices that it writes to standard error as it starts.

    They carry times, process numbers and the absence of a GPU: different on every machine, and
    captured by a notebook as output. Errors still raise. Call this before anything else imports
    TensorFlow; ``import tensorflow as tf`` then finds it loaded.

    The oneDNN kernels are switched off (unless ``TF_ENABLE_ONEDNN_OPTS`` says otherwise), because
    the order in which they add, and so the last digits, depends on the processor.

    Examples
    --------
    >>> from bn_tutorial.book.notebook import quiet_tensorflow
    >>> quiet_tensorflow()
    >>> import logging
    >>> import tensorflow as tf  # without a word
    >>> tf.get_logger().level == logging.ERROR
    True
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The first notices come from C++ before its log level is read: only the file descriptor that
    # they are written to can stop them.
    sys.stderr.flush()
    standard_error = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        import tensorflow as tf
    finally:
        os.dup2(standard_error, 2)
        os.close(silence)
        os.close(standard_error)
    tf.get_logger().setLevel("ERROR")
