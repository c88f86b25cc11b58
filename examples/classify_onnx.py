"""Classify images with a file that `caspl export` wrote: python classify_onnx.py FILE.onnx IMAGE ...

Needs onnxruntime, numpy and Pillow only.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
names, how = json.loads(metadata["class_names"]), json.loads(metadata["preprocessing"])
filters = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
height, width = how["size"]
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    scale = max(height, width) / min(image.size)  # the shorter side; the longer one is rounded down
    size = [max(height, width) if side == min(image.size) else int(side * scale) for side in image.size]
    image = image.resize(size, filters[how["interpolation"]])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.float32) / 255
    pixels = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    (logits,) = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
    best = int(logits[0].argmax())
    probability = 1 / np.exp(logits[0] - logits[0, best]).sum()
    print(f"{path}: {names[best]} {probability:.3f}")
