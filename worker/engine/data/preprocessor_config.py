"""The preprocessing that a model of Hugging Face brings along as `preprocessor_config.json`."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.domain.dataset import Preprocess
from app.domain.errors import Refused

NAME = "preprocessor_config.json"
INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
RESCALE = 1 / 255


def read_config(content: bytes) -> Preprocess:
    """What an image processor's configuration comes to.

    1. `do_resize` with `size`: a number or `shortest_edge` is the short side, `height` and `width` stretch.
    2. `crop_pct` resizes to more than `size`, and crops to it.
    3. `do_center_crop` with `crop_size`.
    4. `do_rescale` with `rescale_factor` (1/255), `do_normalize` with `image_mean` and `image_std`.

    Raises:
        Refused: `unsupported_preprocessor`, no such JSON, a crop that is not square, or another filter.
    """
    try:
        config = json.loads(content)
        fields = _resizing(config) | _cropping(config) | _values(config)
        return TypeAdapter(Preprocess).validate_python(fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArithmeticError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{error}"
        detail = f"{NAME} cannot be followed: {why[:200]}. Leave it out, and give the preprocessing itself."
        raise Refused("unsupported_preprocessor", detail) from error


def _resizing(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config.get("size")
    if not config.get("do_resize", size is not None):
        return {}
    number = config.get("resample", 2)
    if number not in INTERPOLATIONS:
        raise ValueError(f"resample {number!r} is none of {list(INTERPOLATIONS)}")
    filtered = {"interpolation": INTERPOLATIONS[number]}
    if isinstance(size, dict) and "shortest_edge" not in size:
        return filtered | {"size": (size["height"], size["width"]), "fit": "stretch"}
    side = size["shortest_edge"] if isinstance(size, dict) else size
    if "crop_pct" in config:
        return filtered | {"resize": round(side / config["crop_pct"]), "crop": side}
    return filtered | {"resize": side}


def _cropping(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config.get("crop_size")
    if not config.get("do_center_crop", size is not None):
        return {}
    return {"crop": _side(size) if isinstance(size, dict) else size}


def _side(size: Mapping[str, Any]) -> int:
    if size["height"] != size["width"]:
        raise ValueError(f"{size['height']} × {size['width']} is not square")
    side: int = size["height"]
    return side


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    factor = config.get("rescale_factor", RESCALE) if config.get("do_rescale", True) else 1.0
    normal = {"mean": config["image_mean"], "std": config["image_std"]} if _normalizes(config) else {}
    return {"scale": factor} | normal


def _normalizes(config: Mapping[str, Any]) -> bool:
    return bool(config.get("do_normalize", "image_mean" in config))
