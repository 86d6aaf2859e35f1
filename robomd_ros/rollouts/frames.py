# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A rollout's pictures as the ledger keeps them."""

import numpy as np


def encode(frame: np.ndarray) -> bytes:
    """Return the (height, width, 3) uint8 RGB picture as PNG, which loses nothing."""
    import cv2

    return cv2.imencode('.png', np.ascontiguousarray(frame[..., ::-1]))[1].tobytes()


def decode(png: bytes) -> np.ndarray:
    """Return the PNG as (height, width, 3) uint8 RGB; raise ValueError if it is none."""
    import cv2

    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError('a frame in it is not a picture')
    return np.ascontiguousarray(image[..., ::-1])
