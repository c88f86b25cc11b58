"""Classify images with a file of `caspl export`: python classify_onnx.py FILE.onnx IMAGE ..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
names, how = json.loads(metadata["class_names"]), json.loads(metadata["preprocessing"])
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    short, side, resample = min(image.size), how["size"][0], getattr(Image.Resampling, how["interpolation"].upper())
    image = image.resize([int(side * length / short) for length in image.size], resample)
    left, top = (round((length - side) / 2) for length in image.size)
    pixels = (np.float32(image.crop((left, top, left + side, top + side))) / 255 - how["mean"]) / how["std"]
    odds = np.exp(np.float64(session.run(None, {"images": np.float32(pixels.transpose(2, 0, 1)[None])})[0][0]))
    print(f"{path}: {names[odds.argmax()]} {odds.max() / odds.sum():.3f}")
